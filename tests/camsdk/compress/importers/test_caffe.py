"""Imported Caffe networks compute what OpenCV's importer of Caffe networks computes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from camsdk import assets
from camsdk.compress.importers.caffe import import_caffe
from camsdk.compress.importers.caffe_reader import _NetParameter, read_text, read_weights
from camsdk.errors import CamError, DataCorrupted, InvalidInput, NotFound, UnsupportedModel

GOLDEN = Path(__file__).parents[3] / "golden" / "caffe"
OUTPUTS = {
    "backbone": ["kept", "prob"],
    "neck": ["flat", "gain"],
    "padded_mean": ["mean", "max", "all"],
}


def run(model: onnx.ModelProto, data: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"data": data}), strict=True))


def load(name: str, **options: object) -> onnx.ModelProto:
    return import_caffe(GOLDEN / f"{name}.prototxt", GOLDEN / f"{name}.caffemodel", **options)


@pytest.mark.parametrize("name", OUTPUTS)
def test_agrees_with_opencv(name: str) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    found = run(load(name, outputs=OUTPUTS[name]), golden["data"])
    for output in OUTPUTS[name]:
        np.testing.assert_allclose(
            found[output].ravel(), golden[output], rtol=1e-4, atol=1e-5, err_msg=output
        )


def test_face_detector_agrees_with_opencv() -> None:
    golden = np.load(GOLDEN / "face_ssd.npz")
    paths = assets.pull("face-ssd.prototxt"), assets.pull("face-ssd.caffemodel")
    model = import_caffe(*paths, outputs=list(golden))
    data = np.random.default_rng(9).integers(-120, 130, (1, 3, 300, 300)).astype(np.float32)
    found = run(model, data)
    for output in golden:
        np.testing.assert_allclose(
            found[output].ravel()[::16], golden[output], rtol=1e-4, atol=1e-4, err_msg=output
        )
    with pytest.raises(UnsupportedModel, match="'conv4_3_norm_mbox_priorbox' of type 'PriorBox'"):
        import_caffe(*paths)


def test_default_outputs_and_merged_normalization() -> None:
    model = load("backbone")
    assert [output.name for output in model.graph.output] == ["prob"]
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("BatchNormalization") == 1
    assert "Mul" not in operators[: operators.index("PRelu")]  # the Scale went into it


def write(folder: Path, text: str) -> tuple[Path, Path]:
    (folder / "net.prototxt").write_text(text)
    (folder / "net.caffemodel").write_bytes(b"")
    return folder / "net.prototxt", folder / "net.caffemodel"


HEAD = 'input: "data" input_shape { dim: 1 dim: 2 dim: 5 dim: 5 }\n'


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ('layer { name: "p" type: "Python" bottom: "data" top: "p" }', UnsupportedModel, "Python"),
        (
            'layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
            "convolution_param { num_output: 3 kernel_size: 3 } }",
            DataCorrupted,
            r"'c' \(Convolution\) needs weights of shape \(3, 2, 3, 3\)",
        ),
        ('layer { name: "r" type: "ReLU" bottom: "x" top: "r" }', UnsupportedModel, "'x'"),
        ('layer { name: "r" type: "ReLU" ', DataCorrupted, "line 2"),
        (
            'layer { name: "c" type: "Pooling" bottom: "data" top: "c" '
            "pooling_param { pool: MAX kernel_size: 9 } }",
            UnsupportedModel,
            "'c'",
        ),
        (
            'layer { name: "c" type: "Pooling" bottom: "data" top: "c" '
            "pooling_param { kernel_size: 3.5 } }",
            DataCorrupted,
            "kernel_size",
        ),
        ("a " * 20 + "{" * 20, DataCorrupted, "line 2"),
        ("a {" * 20, DataCorrupted, "nests"),
    ],
)
def test_refusals(tmp_path: Path, text: str, error: type[CamError], match: str) -> None:
    with pytest.raises(error, match=match):
        import_caffe(*write(tmp_path, HEAD + text))


def test_training_layers_are_left_out_and_version_1_is_read(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        'input: "data" input_dim: 1 input_dim: 2 input_dim: 4 input_dim: 4\n'
        'layers { name: "r" type: RELU bottom: "data" top: "r" }\n'
        'layers { name: "l" type: SOFTMAX_LOSS bottom: "r" top: "l" include { phase: TRAIN } }',
    )
    data = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    found = run(import_caffe(*paths), data)
    np.testing.assert_array_equal(found["r"], np.maximum(data, 0))


def test_the_constant_of_a_response_normalization_counts(tmp_path: Path) -> None:
    """By the formula of Caffe's documentation: OpenCV, the oracle elsewhere, leaves ``k`` out."""
    paths = write(
        tmp_path,
        HEAD.replace("dim: 2", "dim: 4") + 'layer { name: "y" type: "LRN" bottom: "data" top: "y" '
        "lrn_param { local_size: 3 alpha: 0.1 beta: 0.75 k: 2 } }",
    )
    data = np.random.default_rng(1).normal(size=(1, 4, 5, 5)).astype(np.float32)
    squares = np.pad(data**2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    around = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    found = run(import_caffe(*paths), data)["y"]
    np.testing.assert_allclose(found, data * (2 + 0.1 / 3 * around) ** -0.75, rtol=1e-5)


def test_missing_files_and_wrong_names() -> None:
    with pytest.raises(NotFound):
        import_caffe(Path("none.prototxt"), Path("none.caffemodel"))
    with pytest.raises(InvalidInput, match="'nothing'"):
        load("backbone", outputs=["nothing"])
    with pytest.raises(InvalidInput, match="'x'"):
        load("backbone", input_shapes={"x": (1, 2)})


def test_another_input_shape() -> None:
    model = load("neck", input_shapes={"data": (2, 6, 14, 17)}, outputs=["gain"])
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_truncated_and_damaged_files_give_typed_errors(tmp_path: Path) -> None:
    refused = 0
    generator = np.random.default_rng(3)
    for suffix in ("prototxt", "caffemodel"):
        whole = (GOLDEN / f"backbone.{suffix}").read_bytes()
        path = tmp_path / f"net.{suffix}"
        paths = {
            "prototxt": GOLDEN / "backbone.prototxt",
            "caffemodel": GOLDEN / "backbone.caffemodel",
        }
        paths[suffix] = path
        for round_ in range(60):
            data = bytearray(whole[: generator.integers(len(whole))] if round_ % 2 else whole)
            for _ in range(0 if round_ % 2 else 3):
                data[generator.integers(len(data))] ^= 1 << generator.integers(8)
            path.write_bytes(data)
            try:
                read_text(path) if suffix == "prototxt" else read_weights(path)
                import_caffe(paths["prototxt"], paths["caffemodel"])
            except CamError:
                refused += 1
    assert refused > 60


def with_weights(folder: Path, text: str, *blobs: list[float]) -> tuple[Path, Path]:
    """One layer called "n" after the input, and its weights."""
    net = _NetParameter()
    layer = net.layer.add(name=b"n")
    for values in blobs:
        layer.blobs.add(shape={"dim": [len(values)]}, data=[np.float32(values).tobytes()])
    paths = write(folder, 'input: "data" input_shape { dim: 1 dim: 2 dim: 1 dim: 1 }\n' + text)
    paths[1].write_bytes(net.SerializeToString())
    return paths


NORM = 'layer { name: "n" type: "BatchNorm" bottom: "data" top: "n" batch_norm_param { %s } }'
STATISTICS = [0, 1], [1, 1], [1]


@pytest.mark.parametrize("said", ["", "scale_bias: true"])
def test_a_normalization_may_scale_by_itself(tmp_path: Path, said: str) -> None:
    blobs = *STATISTICS, [3, 2], [5, -1]
    model = import_caffe(*with_weights(tmp_path, NORM % said, *map(list, blobs)))
    found = run(model, np.ones((1, 2, 1, 1), np.float32))["n"]
    np.testing.assert_allclose(found.ravel(), [8, -1], rtol=1e-4)


def test_a_scale_that_is_not_there_is_missed(tmp_path: Path) -> None:
    with pytest.raises(DataCorrupted, match=r"'n' .* needs weights"):
        import_caffe(*with_weights(tmp_path, NORM % "scale_bias: true", *map(list, STATISTICS)))


def test_a_normalization_by_its_own_statistics_is_refused(tmp_path: Path) -> None:
    paths = with_weights(tmp_path, NORM % "use_global_stats: false", *map(list, STATISTICS))
    with pytest.raises(UnsupportedModel, match=r"'n' .* statistics of its own"):
        import_caffe(*paths)


def test_weights_that_a_layer_does_not_know_are_refused(tmp_path: Path) -> None:
    text = 'layer { name: "n" type: "PReLU" bottom: "data" top: "n" }'
    with pytest.raises(UnsupportedModel, match=r"'n' .* 2 blobs of weights, of which 1"):
        import_caffe(*with_weights(tmp_path, text, [0.1, 0.2], [1, 2]))
