"""Imported graphs compute what TensorFlow computes, and what cannot be imported is named."""

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camsdk import assets
from camsdk.compress.importers.detect import ImportOptions, import_model
from camsdk.compress.importers.tfjs import convert_graph, import_graph_model
from camsdk.compress.importers.tfjs_operators import OPERATORS
from camsdk.compress.importers.tfjs_reader import read_graph
from camsdk.compress.sessions import Session
from camsdk.errors import CamError, DataCorrupted, InvalidInput, NotFound, UnsupportedModel
from support.tensorflow import Array, GraphFile, evaluate, ints, text, texts

GOLDEN = Path(__file__).parents[3] / "golden" / "nanodet_tfjs.json"
NHWC = {"data_format": text("NHWC")}
SAME = {"padding": text("SAME"), "strides": ints(1, 1, 1, 1), **NHWC}
VALID = {"padding": text("VALID"), "strides": ints(1, 2, 2, 1), **NHWC}


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def check(file: GraphFile, folder: Path, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Import, run and compare every output with the reference."""
    path = file.write(folder)
    model = import_graph_model(path)
    graph = read_graph(path)
    feed = random(*shape, seed=7)
    expected = evaluate(graph, {"x": feed}, graph.outputs)
    found = Session(model.SerializeToString()).infer(feed)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def conv(file: GraphFile, source: str, shape: tuple[int, int, int, int], **kind: Any) -> str:
    name = f"conv{len(file.nodes)}"
    weights = random(*shape, seed=len(file.nodes)) / np.sqrt(np.float32(np.prod(shape[:3])))
    file.constant(f"{name}/w", weights)
    return file.node(name, "Conv2D", source, f"{name}/w", **kind)


Build = Callable[[GraphFile], object]

CASES: dict[str, Build] = {
    "Conv2D same": lambda f: conv(f, "x", (3, 3, 6, 5), **SAME),
    "Conv2D valid, strided": lambda f: conv(f, "x", (3, 2, 6, 5), **VALID),
    "Conv2D same, strided, dilated": lambda f: conv(
        f, "x", (3, 3, 6, 4), padding=text("SAME"), strides=ints(1, 1, 1, 1),
        dilations=ints(1, 2, 2, 1), **NHWC,
    ),
    "Conv2D explicit": lambda f: conv(
        f, "x", (3, 3, 6, 4), padding=text("EXPLICIT"), strides=ints(1, 2, 2, 1),
        explicit_paddings=ints(0, 0, 1, 2, 0, 1, 0, 0), **NHWC,
    ),
    "DepthwiseConv2dNative": lambda f: f.node(
        "y", "DepthwiseConv2dNative", "x", f.constant("w", random(3, 3, 6, 2)), **SAME
    ),
    "_FusedConv2D": lambda f: f.node(
        "y", "_FusedConv2D", "x", f.constant("w", random(1, 1, 6, 3)),
        f.constant("b", random(3)), fused_ops=texts("BiasAdd", "Relu6"), **SAME,
    ),
    "_FusedConv2D leaky": lambda f: f.node(
        "y", "_FusedConv2D", "x", f.constant("w", random(1, 1, 6, 3)), f.constant("b", random(3)),
        fused_ops=texts("BiasAdd", "LeakyRelu"), leakyrelu_alpha={"f": 0.3}, **SAME,
    ),
    "FusedDepthwiseConv2dNative": lambda f: f.node(
        "y", "FusedDepthwiseConv2dNative", "x", f.constant("w", random(3, 3, 6, 1)),
        f.constant("b", random(6)), fused_ops=texts("BiasAdd"), **VALID,
    ),
    "MaxPool": lambda f: f.node("y", "MaxPool", "x", ksize=ints(1, 3, 3, 1), **SAME),
    "AvgPool": lambda f: f.node("y", "AvgPool", "x", ksize=ints(1, 2, 2, 1), **SAME),
    "Pad": lambda f: f.node(
        "y", "Pad", "x", f.constant("p", [[0, 0], [1, 0], [2, 1], [0, 3]])
    ),
    "PadV2": lambda f: f.node(
        "y", "PadV2", "x", f.constant("p", [[0, 0], [1, 1], [0, 0], [0, 0]]),
        f.constant("c", np.float32(2.5)),
    ),
    "ConcatV2 with a constant": lambda f: f.node(
        "y", "ConcatV2", "x", f.constant("c", random(1, 8, 10, 2)), f.constant("axis", -1)
    ),
    "Reshape": lambda f: f.node("y", "Reshape", "x", f.constant("s", [1, -1, 12])),
    "ResizeBilinear up": lambda f: f.node(
        "y", "ResizeBilinear", "x", f.constant("s", [16, 25]), half_pixel_centers={"b": True}
    ),
    "ResizeBilinear down": lambda f: f.node(
        "y", "ResizeBilinear", "x", f.constant("s", [4, 5]), half_pixel_centers={"b": True}
    ),
    "ResizeNearestNeighbor": lambda f: f.node(
        "y", "ResizeNearestNeighbor", "x", f.constant("s", [12, 5]), half_pixel_centers={"b": True}
    ),
    "Split": lambda f: f.node(
        "y", "Add", f.node("s", "Split", f.constant("a", 3), "x", num_split={"i": "2"}), "s:1"
    ),
    "SplitV": lambda f: f.node(
        "y", "Relu",
        f.node("s", "SplitV", "x", f.constant("n", [1, 5]), f.constant("a", 3)) + ":1",
    ),
    "Softmax": lambda f: f.node("y", "Softmax", "x"),
    "Mul, broadcast from the left": lambda f: f.node("y", "Mul", f.constant("c", random(6)), "x"),
    "Sub of two layouts": lambda f: f.node("y", "Sub", "x", conv(f, "x", (1, 1, 6, 6), **SAME)),
    "BiasAdd alone": lambda f: f.node("y", "BiasAdd", "x", f.constant("b", random(6))),
    "SparseToDense": lambda f: f.node(
        "y", "Reshape", "x",
        f.node(
            "s", "AddV2", f.constant("base", [1, 80, -1]),
            f.node(
                "d", "SparseToDense", f.constant("at", [[1]]), f.constant("shape", [3]),
                f.constant("v", [-20]), f.constant("zero", 0),
            ),
        ),
    ),
    **{
        op: lambda f, op=op: f.node("y", op, "x")  # type: ignore[misc] # bound now
        for op in ("Relu", "Relu6", "Elu", "Tanh", "Sigmoid", "LeakyRelu", "Identity")
    },
    **{
        op: lambda f, op=op: f.node("y", op, "x", f.constant("c", np.float32(0.4)))  # type: ignore[misc] # bound now
        for op in ("Maximum", "Minimum", "Add")
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_operator_computes_what_tensorflow_computes(case: str, tmp_path: Path) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 8, 10, 6)
    CASES[case](file)
    check(file, tmp_path, (1, 8, 10, 6))


def test_the_cases_cover_all_operators() -> None:
    file = GraphFile()
    for build in CASES.values():
        build(file)
    assert set(OPERATORS) - {node["op"] for node in file.nodes} == {"Transpose"}  # see below


def test_transposes_between_layouts_vanish_and_pads_and_biases_fold(tmp_path: Path) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 6, 8, 10)  # NCHW, as converters from PyTorch leave it
    file.constant("border", [[0, 0], [0, 0], [1, 1], [1, 1]])
    file.constant("to_nhwc", [0, 2, 3, 1])
    file.constant("to_nchw", [0, 3, 1, 2])
    file.node("pad", "Pad", "x", "border")
    file.node("t1", "Transpose", "pad", "to_nhwc")
    conv(file, "t1", (3, 3, 6, 4), **VALID)
    file.node("sum", "Add", file.nodes[-1]["name"], file.constant("b", random(4)))
    file.node("t2", "Transpose", "sum", "to_nchw")
    file.node("y", "LeakyRelu", "t2", alpha={"f": 0.1})
    model = check(file, tmp_path, (1, 6, 8, 10))
    assert operators(model) == ["Conv", "LeakyRelu"]


def test_a_sum_that_others_use_too_is_not_folded_away(tmp_path: Path) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 8, 10, 6)
    name = conv(file, "x", (1, 1, 6, 6), **SAME)
    file.node("biased", "Add", name, file.constant("b", random(6)))
    file.node("y", "Mul", "biased", name)
    check(file, tmp_path, (1, 8, 10, 6))


def test_a_bias_stays_with_those_that_add_it(tmp_path: Path) -> None:
    """What reads the layer without its bias may do so by another name, or be outside."""
    file = GraphFile()
    file.placeholder("x", 1, 8, 10, 6)
    inner = conv(file, "x", (1, 1, 6, 6), **SAME)
    file.node("alias", "Identity", inner)
    file.node("biased", "BiasAdd", "alias", file.constant("b", random(6)))
    file.node("y", "Maximum", "alias", file.constant("zero", 0.0))
    file.outputs = ["biased", "y"]
    check(file, tmp_path, (1, 8, 10, 6))
    file.outputs = ["biased", inner]
    check(file, tmp_path, (1, 8, 10, 6))
    file.outputs = ["biased"]
    assert "Add" not in operators(check(file, tmp_path, (1, 8, 10, 6)))


@pytest.mark.parametrize("parts", [["s:1"], ["s:1", "s"], ["c/weights", "s:1"]])
def test_any_part_of_a_layer_is_an_output_under_its_own_name(
    parts: list[str], tmp_path: Path
) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 2, 2, 4)
    file.node("c/weights", "Relu", "x")
    file.node("c", "Conv2D", "c/weights", file.constant("w", random(1, 1, 4, 4)), **SAME)
    file.node("s", "Split", file.constant("axis", 3), "c", num_split={"i": 2})
    file.outputs = parts
    check(file, tmp_path, (1, 2, 2, 4))


@pytest.mark.parametrize("op", ["Relu", "Softmax", "Pad"])
def test_operators_take_constants_too(op: str, tmp_path: Path) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 8, 10, 6)
    rows = [file.constant("p", [[0, 0]] * 4)] if op == "Pad" else []
    file.node("k", op, file.constant("c", random(1, 8, 10, 6)), *rows)
    file.node("s", "Split", file.constant("a", 3), "k", num_split={"i": "1"})
    file.node("y", "Mul", "x", "s")
    check(file, tmp_path, (1, 8, 10, 6))


def test_a_layer_may_be_called_like_a_part_of_another(tmp_path: Path) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 8, 10, 6)
    file.node("c", "Conv2D", "x", file.constant("w", random(3, 3, 6, 6)), **SAME)
    file.node("c/transpose", "Mul", "c", file.constant("c/weights", random(6)))
    file.node("c/constant", "Add", "c/transpose", "x")
    file.node("y", "ConcatV2", "c/constant", "c", file.constant("axis", 1))
    file.outputs = ["y", "c/constant", "c/transpose"]
    check(file, tmp_path, (1, 8, 10, 6))


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.integers(0, 5), min_size=1, max_size=7))
def test_any_chain_of_layouts_is_followed(
    steps: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 6, 6, 6)
    last = "x"
    for index, step in enumerate(steps):
        name = f"n{index}"
        if step == 0:
            last = conv(file, last, (3, 3, 6, 6), **SAME)
        elif step in (1, 2):
            perm = [0, 2, 3, 1] if step == 1 else [0, 3, 1, 2]
            last = file.node(name, "Transpose", last, file.constant(f"{name}/p", perm))
        elif step == 3:
            last = file.node(name, "Add", last, file.constant(f"{name}/b", random(6, seed=index)))
        elif step == 4:
            last = file.node(name, "ConcatV2", last, last, file.constant(f"{name}/a", 2))
            parts = file.constant(f"{name}/n", [6, 6])
            last = file.node(f"{name}/s", "SplitV", last, parts, f"{name}/a") + ":1"
        else:
            last = file.node(name, "Sub", last, "x")
    file.node("y", "Sigmoid", last)
    file.outputs = ["y"]
    check(file, tmp_path_factory.mktemp("chain"), (1, 6, 6, 6))


class TestErrors:
    """Whatever is wrong is said in one sentence that names the layer."""

    @pytest.fixture
    def file(self) -> GraphFile:
        file = GraphFile()
        file.placeholder("x", 1, 8, 8, 3)
        return file

    def test_an_unknown_operator_is_named_with_its_layer(
        self, file: GraphFile, tmp_path: Path
    ) -> None:
        file.node("head/odd", "MatrixInverse", "x")
        with pytest.raises(UnsupportedModel, match=r"'MatrixInverse' of layer 'head/odd'"):
            import_graph_model(file.write(tmp_path))

    @pytest.mark.parametrize(
        ("build", "words"),
        [
            (lambda f: conv(f, "x", (3, 3, 3, 2), padding=text("ODD")), "padding ODD"),
            (
                lambda f: conv(
                    f, "x", (3, 3, 3, 2), padding=text("SAME"), data_format=text("NCHW")
                ),
                "data format NCHW",
            ),
            (lambda f: conv(f, "x", (3, 3, 4, 2), **SAME), "weights take 4 channels"),
            (lambda f: conv(f, "x", (9, 9, 3, 2), **VALID), "larger than its input"),
            (lambda f: f.node("y", "Conv2D", "x", "x", **SAME), "must be a constant"),
            (lambda f: f.node("y", "Reshape", "x", f.constant("s", [7])), "does not fit"),
            (
                lambda f: f.node("y", "ResizeBilinear", "x", f.constant("s", [4, 4])),
                "half-pixel centers",
            ),
            (lambda f: f.node("y", "Transpose", "x", f.constant("p", [0, 1])), "permutation"),
            (lambda f: f.node("y", "Relu", "x:3"), "has 1 outputs"),
        ],
    )
    def test_options_and_shapes_that_do_not_fit(
        self, file: GraphFile, tmp_path: Path, build: Build, words: str
    ) -> None:
        build(file)
        with pytest.raises(UnsupportedModel, match=words):
            import_graph_model(file.write(tmp_path))

    def test_outputs_and_shapes_that_the_graph_does_not_have(
        self, file: GraphFile, tmp_path: Path
    ) -> None:
        file.node("y", "Relu", "x")
        path = file.write(tmp_path)
        with pytest.raises(InvalidInput, match="which the graph does not have"):
            import_graph_model(path, outputs={"a": "z:0"})
        with pytest.raises(InvalidInput, match="free or too large shape"):
            import_graph_model(path, input_shapes={"x": (1, -1, 8, 3)})

    def test_one_weight_file_may_be_named_and_no_more(
        self, file: GraphFile, tmp_path: Path
    ) -> None:
        conv(file, "x", (3, 3, 3, 2), **SAME)
        path, weights = file.write(tmp_path), tmp_path / "elsewhere.bin"
        (tmp_path / "weights.bin").rename(weights)
        import_graph_model(path, weights)
        document = json.loads(path.read_text())
        document["weightsManifest"][0]["paths"] = ["a.bin", "b.bin"]
        path.write_text(json.dumps(document))
        with pytest.raises(InvalidInput, match="2 weight files"):
            import_graph_model(path, weights)
        with pytest.raises(InvalidInput, match="'z', which is no input"):
            import_graph_model(file.write(tmp_path), weights, input_shapes={"z": (1, 2)})

    def test_files_that_are_not_there(self, file: GraphFile, tmp_path: Path) -> None:
        conv(file, "x", (3, 3, 3, 2), **SAME)
        path = file.write(tmp_path)
        (tmp_path / "weights.bin").unlink()
        with pytest.raises(NotFound, match=r"weights\.bin"):
            import_graph_model(path)
        with pytest.raises(NotFound, match="no model file"):
            import_graph_model(tmp_path / "other.json")

    def test_truncation_anywhere_is_data_corruption(self, file: GraphFile, tmp_path: Path) -> None:
        conv(file, "x", (3, 3, 3, 2), **SAME)
        path = file.write(tmp_path)
        whole, weights = path.read_bytes(), (tmp_path / "weights.bin").read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(DataCorrupted, match="truncated"):
                import_graph_model(path)
        path.write_bytes(whole)
        for data in (b"", weights[:-1], weights + b"\0"):
            (tmp_path / "weights.bin").write_bytes(data)
            with pytest.raises(DataCorrupted, match="weights"):
                import_graph_model(path)

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (lambda d: d.update(format="layers-model"), UnsupportedModel, "not a TensorFlow.js"),
            (lambda d: d.pop("weightsManifest"), DataCorrupted, "lacks a part"),
            (lambda d: d["weightsManifest"][0].update(paths=["../w"]), DataCorrupted, "plain"),
            (lambda d: d["weightsManifest"][0]["weights"].pop(), DataCorrupted, "end at byte"),
            (
                lambda d: d["weightsManifest"][0]["weights"][0].update(dtype="string"),
                UnsupportedModel,
                "stored as string",
            ),
            (
                lambda d: d["weightsManifest"][0]["weights"][0].update(shape=[-1, 2]),
                DataCorrupted,
                "has shape",
            ),
            (
                lambda d: d["weightsManifest"][0]["weights"][0].update(shape=[1 << 40] * 4),
                DataCorrupted,
                "truncated",
            ),
            (
                lambda d: d["modelTopology"]["node"][-1].update(input=["gone"]),
                DataCorrupted,
                "no such layer",
            ),
            (
                lambda d: d["modelTopology"]["node"][-1].update(input=["y"]),
                UnsupportedModel,
                "loop",
            ),
            (
                lambda d: d["modelTopology"]["node"].append(d["modelTopology"]["node"][0]),
                DataCorrupted,
                "two layers",
            ),
            (
                lambda d: d["modelTopology"]["node"][-1]["attr"].update(padding={"s": "!"}),
                DataCorrupted,
                "base64",
            ),
        ],
    )
    def test_a_malformed_document(
        self,
        file: GraphFile,
        tmp_path: Path,
        change: Callable[[dict[str, Any]], object],
        error: type[Exception],
        words: str,
    ) -> None:
        file.node("y", "Conv2D", "x", file.constant("w", random(1, 1, 3, 2)), **SAME)
        path = file.write(tmp_path)
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        with pytest.raises(error, match=words):
            import_graph_model(path)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(*path, key) for key in keys]
    inner = [(value[key], (*path, key)) for key in keys]
    return found + [
        place
        for child, at in inner
        if isinstance(child, dict | list)
        for place in places(child, at)
    ]


STRANGE = [None, 0, -1, 2**70, 1.5, True, "", "x", "-5", [], {}, [1, 2], {"i": "3"}, {"list": 1}]


@settings(max_examples=200, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)), at=st.integers(0, 10_000), value=st.sampled_from(STRANGE)
)
def test_any_strange_value_is_an_error_of_ours_or_harmless(
    case: str, at: int, value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 8, 10, 6)
    CASES[case](file)
    path = file.write(tmp_path_factory.mktemp("strange"))
    # Copies: what one example damages must not be in the next one's graph, nor hold itself.
    document = copy.deepcopy(file.document())
    paths = places(document)
    *parents, last = paths[at % len(paths)]
    target: Any = document
    for key in parents:
        target = target[key]
    target[last] = copy.deepcopy(value)
    path.write_text(json.dumps(document))
    with contextlib.suppress(CamError):
        onnx.checker.check_model(import_graph_model(path))


def test_narrowed_weights_are_widened(tmp_path: Path) -> None:
    file = GraphFile()
    file.placeholder("x", 1, 2)
    half = {"dtype": "float16", "original_dtype": "float32"}
    scaled = {"dtype": "uint8", "scale": 0.5, "min": -1.0, "original_dtype": "float32"}
    file.node("a", "Add", "x", file.constant("c", np.array([1.5, -2.25], np.float16), half))
    file.node("y", "Mul", "a", file.constant("d", np.array([0, 255], np.uint8), scaled))
    graph = read_graph(file.write(tmp_path))
    np.testing.assert_array_equal(graph.constants["c"], np.float32([1.5, -2.25]))
    np.testing.assert_array_equal(graph.constants["d"], np.float32([-1.0, 126.5]))
    model = convert_graph(graph)
    found = Session(model.SerializeToString()).infer(np.float32([[1, 1]]))["y"]
    np.testing.assert_allclose(found, [[-2.5, -158.125]])


def test_narrowed_integers_are_rounded_as_tensorflow_js_does(tmp_path: Path) -> None:
    """1 was stored as 6: 6 * 81/255 - 1 is 0.906, and halves go up."""
    file = GraphFile()
    file.placeholder("x", 1, 2)
    codes = np.array([0, 6, 255], np.uint8)
    file.constant("i", codes, {"dtype": "uint8", "scale": 81 / 255, "min": -1})
    file.weights[-1]["dtype"] = "int32"
    file.constant("half", np.array([1, 3], np.uint8), {"dtype": "uint8", "scale": 0.5, "min": -2})
    file.weights[-1]["dtype"] = "int32"
    file.constant("large", np.array([1], np.uint8), {"dtype": "uint8", "scale": 1, "min": 2**24})
    file.weights[-1]["dtype"] = "int32"
    file.node("y", "Relu", "x")
    constants = read_graph(file.write(tmp_path)).constants
    assert constants["i"].tolist() == [-1, 1, 80]
    assert constants["half"].tolist() == [-1, 0]
    assert constants["large"].tolist() == [2**24 + 1]
    file.weights[-1]["quantization"]["min"] = 2.0**31
    with pytest.raises(DataCorrupted, match="'large' has values that are no int32"):
        read_graph(file.write(tmp_path))


@pytest.mark.slow
def test_nanodet_gives_what_tensorflow_js_gives() -> None:
    """Against samples that TensorFlow.js itself computed (tests/golden/nanodet_tfjs.mjs)."""
    options = ImportOptions(weights=assets.pull("nanodet.bin"))
    model = import_model(assets.pull("nanodet.json"), options=options)
    c, y, x = np.mgrid[0:3, 0:416, 0:416]
    picture = ((x * 7 + y * 13 + c * 29) % 64 + ((x >> 5) + (y >> 5)) % 5 * 16) / 32 - 2
    found = Session(model.SerializeToString()).infer(picture[np.newaxis].astype(np.float32))
    golden = json.loads(GOLDEN.read_text())
    assert set(found) == set(golden["outputs"])
    for name, sample in golden["outputs"].items():
        assert list(found[name].shape) == sample["shape"]
        values = found[name].reshape(-1)[sample["indices"]]
        np.testing.assert_allclose(values, sample["values"], rtol=2e-5, atol=2e-5, err_msg=name)
    assert set(operators(model)) == {
        "Conv", "LeakyRelu", "MaxPool", "Concat", "Resize", "Add", "Split", "Sigmoid", "Reshape",
        "Transpose",
    }  # fmt: skip
