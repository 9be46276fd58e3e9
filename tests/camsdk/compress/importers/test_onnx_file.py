"""ONNX files come out float32, static and whole, or are refused by name."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers.onnx_file import import_onnx_file
from camsdk.compress.importers.runnable import name_nodes
from camsdk.errors import CamError, DataCorrupted, InvalidInput, NotFound, UnsupportedModel

WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
DATA = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def model(
    *,
    opset: int = 17,
    shape: tuple[int | str, ...] = (1, 3, 8, 8),
    kind: int = TensorProto.FLOAT,
    nodes: list[onnx.NodeProto] | None = None,
) -> onnx.ModelProto:
    """A convolution, a constant added, ReLU."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    one = numpy_helper.from_array(np.ones((1, 4, 1, 1), dtype))
    nodes = nodes or [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, [*shape[:1], 4, *shape[2:]])],
        [numpy_helper.from_array(WEIGHT.astype(dtype), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def save(folder: Path, made: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def run(made: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": DATA})[0])


@pytest.mark.parametrize("opset", [7, 8, 11, 13, 17, 18, 21, 24, 26])
def test_every_opset_computes_the_same(tmp_path: Path, opset: int) -> None:
    made = model(opset=opset)
    made.ir_version = onnx.IR_VERSION if opset > 17 else 3 + (opset > 8)
    found = import_onnx_file(save(tmp_path, made))
    assert found.opset_import[0].version == 17
    np.testing.assert_allclose(run(found), run(model()), rtol=1e-5, atol=1e-6)


def test_names_are_unique_and_constants_are_stored(tmp_path: Path) -> None:
    made = model()
    made.graph.node[2].name = made.graph.node[3].name = "same"
    found = import_onnx_file(save(tmp_path, made))
    assert [node.op_type for node in found.graph.node] == ["Conv", "Add", "Relu"]
    names = [node.name for node in found.graph.node]
    assert names == ["Conv_a", "same", "same_1"]
    assert {tensor.name for tensor in found.graph.initializer} == {"w", "one"}


def test_names_do_not_clash_with_given_ones() -> None:
    graph = model().graph
    for node, name in zip(graph.node, ["same", "same", "same_1", ""], strict=True):
        node.name = name
    name_nodes(graph)
    assert len({node.name for node in graph.node}) == 4
    assert graph.node[2].name == "same_1"


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats_become_float32(tmp_path: Path, kind: int) -> None:
    found = import_onnx_file(save(tmp_path, model(kind=kind)))
    assert {tensor.data_type for tensor in found.graph.initializer} == {TensorProto.FLOAT}
    np.testing.assert_allclose(run(found), run(model()), rtol=5e-3, atol=5e-3)


def shape_of(found: onnx.ModelProto) -> list[int]:
    return [dim.dim_value for dim in found.graph.output[0].type.tensor_type.shape.dim]


def test_free_shapes(tmp_path: Path) -> None:
    batch = save(tmp_path, model(shape=("n", 3, 8, 8)))
    assert shape_of(import_onnx_file(batch)) == [1, 4, 8, 8]
    assert shape_of(import_onnx_file(batch, input_shapes={"x": (5, 3, 8, 8)})) == [5, 4, 8, 8]
    free = save(tmp_path, model(shape=("n", 3, "h", "w")))
    with pytest.raises(
        InvalidInput, match=r"input 'x' has the free or too large shape.*input_shapes"
    ):
        import_onnx_file(free)
    assert shape_of(import_onnx_file(free, input_shapes={"x": (2, 3, 6, 9)})) == [2, 4, 6, 9]
    with pytest.raises(InvalidInput, match="whose shape is"):
        import_onnx_file(free, input_shapes={"x": (2, 4, 6, 9)})
    with pytest.raises(InvalidInput, match="'image'"):
        import_onnx_file(free, input_shapes={"image": (2, 4, 6, 9)})


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "weights.bin", "link", "hard"])
def test_external_data_is_not_opened(tmp_path: Path, place: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    (inside / "weights.bin").write_bytes(WEIGHT.tobytes())
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "hard").hardlink_to(tmp_path / "secret")
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    with pytest.raises(UnsupportedModel, match=r"'w' lies in another file.*one file"):
        import_onnx_file(save(inside, made))


def test_external_constants_are_not_opened(tmp_path: Path) -> None:
    made = model()
    tensor = made.graph.node[1].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(UnsupportedModel, match="another file"):
        import_onnx_file(save(tmp_path, made))


BRANCH = helper.make_graph(
    [helper.make_node("Identity", ["x"], ["z"])],
    "branch",
    [],
    [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
)


@pytest.mark.parametrize(
    ("node", "match"),
    [
        (helper.make_node("Gelu", ["x"], ["y"], "g", domain="com.microsoft"), "com.microsoft"),
        (
            helper.make_node("If", ["x"], ["y"], "i", then_branch=BRANCH),
            r"'i' \(If\) has a condition that is computed",
        ),
        (helper.make_node("Scan", ["x"], ["y"], "s", body=BRANCH), r"'s' \(Scan\) is control"),
        (helper.make_node("QuantizeLinear", ["x", "w"], ["y"], "q"), "already quantized"),
        (helper.make_node("Nonsense", ["x"], ["y"], "n"), "Nonsense"),
        (helper.make_node("Relu", ["absent"], ["y"], "r"), "absent"),
    ],
)
def test_refused_nodes(tmp_path: Path, node: onnx.NodeProto, match: str) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        import_onnx_file(save(tmp_path, model(nodes=[node])))


def test_a_shape_that_depends_on_data_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(UnsupportedModel, match="'where' depends on data"):
        import_onnx_file(save(tmp_path, model(nodes=nodes)))


def test_functions_and_old_opsets_are_refused(tmp_path: Path) -> None:
    made = model()
    made.functions.add(name="f", domain="here")
    with pytest.raises(UnsupportedModel, match="function 'f'"):
        import_onnx_file(save(tmp_path, made))
    for opset in (3, 27):
        with pytest.raises(UnsupportedModel, match=f"opset {opset}, opsets 7 to 26 are taken"):
            import_onnx_file(save(tmp_path, model(opset=opset)))


def test_what_opset_17_cannot_say_stays_as_it_is(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Gelu", ["a"], ["y"]),
    ]
    made = model(opset=20, nodes=nodes)
    found = import_onnx_file(save(tmp_path, made))
    assert found.opset_import[0].version == 20
    np.testing.assert_allclose(run(found), run(made), rtol=1e-5, atol=1e-6)


def test_pictures_of_bytes_stay_bytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["f", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    made = model(nodes=nodes, shape=("n", 3, 8, 8))
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    found = import_onnx_file(save(tmp_path, made))
    assert found.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert shape_of(found) == [1, 4, 8, 8]


def test_a_tensor_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    made = model()
    made.graph.initializer[0].dims[0] = 4000
    with pytest.raises(DataCorrupted, match="'w' holds"):
        import_onnx_file(save(tmp_path, made))


def test_what_would_grow_without_bound_is_refused(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64))
    nodes = [
        helper.make_node("Constant", [], ["s"], value=shape),
        helper.make_node("ConstantOfShape", ["s"], ["huge"]),
        helper.make_node("ReduceMean", ["huge"], ["m"], axes=[0, 1], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    with pytest.raises(CamError, match="elements"):
        import_onnx_file(save(tmp_path, model(nodes=nodes)))


def test_truncated_and_damaged_files_give_typed_errors(tmp_path: Path) -> None:
    whole = model().SerializeToString()
    path = tmp_path / "model.onnx"
    refused = 0
    generator = np.random.default_rng(3)
    for round_ in range(150):
        data = bytearray(whole[: generator.integers(len(whole))] if round_ % 2 else whole)
        for _ in range(0 if round_ % 2 else 3):
            data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        path.write_bytes(data)
        try:
            import_onnx_file(path)
        except CamError:
            refused += 1
    assert refused > 75
    with pytest.raises(NotFound):
        import_onnx_file(tmp_path / "none.onnx")
