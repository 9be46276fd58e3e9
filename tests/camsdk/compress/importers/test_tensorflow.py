"""Frozen graphs and SavedModels compute what TensorFlow computed; damage is named."""

import contextlib
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from camsdk import assets
from camsdk.compress.importers.detect import ImportOptions, import_model
from camsdk.compress.importers.graphdef_reader import read_frozen_graph
from camsdk.compress.importers.ssd_boxes import as_detector
from camsdk.compress.importers.tensorflow import import_frozen_graph
from camsdk.compress.sessions import Array, Session
from camsdk.errors import CamError, InvalidInput, UnsupportedModel
from support.foreign_models import part, tf_input, tf_node, tf_shape
from support.walkers import picture

GOLDEN = Path(__file__).parents[3] / "golden"
GRAPH = GOLDEN / "tensorflow_net.pb"


def computed(model: onnx.ModelProto, pictures: Array) -> NDArray[np.float32]:
    """The only output, of one picture at a time."""
    session = Session(model.SerializeToString())
    (output,) = model.graph.output
    rows = [
        np.asarray(session.infer(picture[None])[output.name], np.float32) for picture in pictures
    ]
    return np.concatenate(rows)


def test_a_frozen_graph_computes_what_tensorflow_computes() -> None:
    golden = np.load(GOLDEN / "tensorflow_net.npz")
    model = import_frozen_graph(GRAPH)
    np.testing.assert_allclose(
        computed(model, golden["pictures"]), golden["tensorflow"], rtol=1e-4, atol=1e-6
    )
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Transpose") == 1  # the input's, from NHWC
    assert {"BatchNormalization", "GlobalAveragePool", "Gemm"} <= set(operators)


def test_operators_that_become_several_compute_what_tensorflow_computes() -> None:
    """Swish, grouped convolution, normalization (tests/golden/tensorflow_operators.py)."""
    golden = np.load(GOLDEN / "tensorflow_operators.npz")
    model = import_frozen_graph(GOLDEN / "tensorflow_operators.pb")
    np.testing.assert_allclose(
        computed(model, golden["data"]), golden["tensorflow"], rtol=1e-4, atol=1e-5
    )
    assert [item.i for node in model.graph.node for item in node.attribute if item.name == "group"]


def test_inputs_and_outputs_may_lie_inside_of_the_graph() -> None:
    nodes = read_frozen_graph(GRAPH).nodes
    relu = next(name for name, node in nodes.items() if node.op == "Relu")
    pool = next(name for name, node in nodes.items() if node.op == "MaxPool")
    model = import_frozen_graph(GRAPH, inputs={relu: (1, 12, 12, 8)}, outputs=[pool])
    assert [node.op_type for node in model.graph.node if node.op_type != "Transpose"] == ["MaxPool"]
    picture = np.random.default_rng(0).normal(size=(1, 12, 12, 8)).astype(np.float32)
    expected = picture.reshape(1, 6, 2, 6, 2, 8).max((2, 4))
    np.testing.assert_array_equal(computed(model, picture), expected)


def test_names_that_the_graph_does_not_have_are_said() -> None:
    with pytest.raises(InvalidInput, match="no layer 'nowhere'"):
        import_frozen_graph(GRAPH, inputs={"nowhere": (1, 2)})
    with pytest.raises(InvalidInput, match="no layer 'nowhere'"):
        import_frozen_graph(GRAPH, outputs=["nowhere"])


def test_an_unknown_operator_is_named_with_its_layer(tmp_path: Path) -> None:
    content = GRAPH.read_bytes().replace(b"\x12\x07Softmax", b"\x12\x07Softmix")
    assert content != GRAPH.read_bytes()
    path = tmp_path / "graph.pb"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModel, match="operator 'Softmix' of layer 'Softmax'"):
        import_frozen_graph(path)


def test_listed_integers_are_exact(tmp_path: Path) -> None:
    values = [2**63 - 1, -(2**63), 2**53 + 1]
    listed = b"".join(part(10, value % 2**64) for value in values)
    tensor = part(1, 9) + part(2, tf_shape(len(values))) + listed
    path = tmp_path / "graph.pb"
    node = tf_node("c", "Const", dtype=part(6, 9), value=part(8, tensor))
    path.write_bytes(node + tf_input("x", 1, 2) + tf_node("y", "Reshape", "x", "c"))
    assert read_frozen_graph(path).constants["c"].tolist() == values


@settings(max_examples=60, deadline=None)
@given(st.integers(1, GRAPH.stat().st_size - 1), st.integers(0, 7), st.booleans())
def test_damaged_graphs_give_a_typed_error_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int, is_cut: bool
) -> None:
    content = bytearray(GRAPH.read_bytes())
    content[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("damaged") / "graph.pb"
    path.write_bytes(content[:place] if is_cut else content)
    with contextlib.suppress(CamError):  # anything else is a crash
        onnx.checker.check_model(import_frozen_graph(path))


@pytest.mark.slow
def test_the_published_pedestrian_detector_computes_what_tensorflow_computed() -> None:
    """Raw heads of SSDLite-300, before its loops; see tests/golden/pedestrian_ssdlite.py."""
    golden = np.load(GOLDEN / "pedestrian_ssdlite.npz")
    options = ImportOptions(
        input_shapes={"Preprocessor/sub": (1, 300, 300, 3)}, outputs=("concat", "concat_1")
    )
    model = import_model(assets.pull("pedestrian-ssdlite.pb"), options=options)
    tensor = picture().astype(np.float32) * np.float32(2 / 255) - 1
    found = Session(model.SerializeToString()).infer(tensor)
    for name in options.outputs:
        error = np.linalg.norm(np.asarray(found[name]) - golden[name])
        assert error < 1e-4 * np.linalg.norm(golden[name]), name


@pytest.mark.slow
def test_the_pedestrian_detector_decodes_its_boxes_as_tensorflow_does() -> None:
    """Anchors are folded into constants; the best box is the first that suppression left."""
    golden = np.load(GOLDEN / "pedestrian_ssdlite.npz")
    boxes_name, scores_name = "Postprocessor/raw_box_locations", "Postprocessor/convert_scores"
    options = ImportOptions(
        input_shapes={"Preprocessor/sub": (1, 300, 300, 3)}, outputs=(boxes_name, scores_name)
    )
    model = as_detector(import_model(assets.pull("pedestrian-ssdlite.pb"), options=options), 1)
    assert not [node for node in model.graph.node if node.op_type == "Tile"]
    tensor = picture().astype(np.float32) * np.float32(2 / 255) - 1
    found = Session(model.SerializeToString()).infer(tensor)
    boxes, scores = np.asarray(found["boxes"])[0], np.asarray(found["scores"])[0]
    best = int(scores.argmax())
    assert scores[best] == pytest.approx(golden["detection_scores"][0, 0], rel=1e-4)
    top, left, bottom, right = golden["detection_boxes"][0, 0] * 300
    np.testing.assert_allclose(boxes[best], [left, top, right, bottom], rtol=1e-4, atol=1e-2)
    assert np.asarray(found["classes"]).max() == 0


@pytest.mark.slow
def test_a_saved_model_and_lite_files_are_imported_with_tensorflow_itself(tmp_path: Path) -> None:
    """Makes the environment where it is not yet."""
    golden = np.load(GOLDEN / "tensorflow_net.npz")
    with zipfile.ZipFile(GOLDEN / "tensorflow_net.zip") as archive:
        archive.extractall(tmp_path / "net")
    model = import_model(tmp_path / "net")
    found = computed(model, golden["pictures"])
    np.testing.assert_allclose(found, golden["tensorflow"], rtol=1e-4, atol=1e-6)
    for precision, tolerance in (("float", 1e-6), ("int8", 4e-3)):
        model = import_model(GOLDEN / f"tensorflow_net_{precision}.tflite")
        error = np.abs(computed(model, golden["pictures"]) - golden[f"tflite_{precision}"]).max()
        assert error < tolerance
