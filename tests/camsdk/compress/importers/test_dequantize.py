"""What tf2onnx makes of Lite files, held in files, is float again and computes the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers.dequantize import without_quantization
from camsdk.compress.importers.onnx_file import normalise
from camsdk.compress.sessions import Session
from camsdk.errors import UnsupportedModel

GOLDEN = Path(__file__).parents[3] / "golden"

ACTS = ("Relu", "Clip")


def outputs_of(model: onnx.ModelProto) -> np.ndarray:
    """Of the float model that a quantized one becomes."""
    made = normalise(without_quantization(model))
    session, (output,) = Session(made.SerializeToString()), made.graph.output
    pictures = np.load(GOLDEN / "tensorflow_net.npz")["pictures"]
    return np.concatenate([np.asarray(session.infer(one[None])[output.name]) for one in pictures])


@pytest.mark.parametrize(("precision", "tolerance"), [("float", 1e-6), ("int8", 4e-3)])
def test_a_converted_lite_file_is_float_and_computes_the_same(
    precision: str, tolerance: float
) -> None:
    golden = np.load(GOLDEN / "tensorflow_net.npz")
    model = normalise(without_quantization(onnx.load(GOLDEN / f"tensorflow_net_{precision}.onnx")))
    assert not [node for node in model.graph.node if "Quantize" in node.op_type]
    session, (output,) = Session(model.SerializeToString()), model.graph.output
    found = [np.asarray(session.infer(one[None])[output.name]) for one in golden["pictures"]]
    assert np.abs(np.concatenate(found) - golden[f"tflite_{precision}"]).max() < tolerance


def test_integers_taken_at_another_scale_are_refused() -> None:
    model = onnx.load(GOLDEN / "tensorflow_net_int8.onnx")
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    node.input[1] = next(
        other.input[1]
        for other in model.graph.node
        if other.op_type == "QuantizeLinear" and other.input[1] != node.input[1]
    )
    with pytest.raises(UnsupportedModel, match="at another scale"):
        without_quantization(model)


def without_activations() -> onnx.ModelProto:
    """The quantized network, of whose ReLU and ReLU6 only the ranges behind them are left."""
    model = onnx.load(GOLDEN / "tensorflow_net_int8.onnx")
    gone = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in ACTS}
    kept = [node for node in model.graph.node if node.op_type not in ACTS]
    for node in kept:
        node.input[:] = [gone.get(name, name) for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    assert len(gone) == 2
    return model


def test_an_activation_that_was_folded_into_a_range_comes_back() -> None:
    folded = without_activations()
    found = outputs_of(folded)
    assert [node.op_type for node in folded.graph.node if node.op_type in ACTS] == ["Relu"] * 2
    whole = onnx.load(GOLDEN / "tensorflow_net_int8.onnx")
    np.testing.assert_allclose(found, outputs_of(whole), atol=1e-6)
    assert [node.op_type for node in whole.graph.node if node.op_type in ACTS] == ["Relu", "Clip"]


def test_a_range_from_zero_to_six_is_a_relu6() -> None:
    folded = without_activations()
    stored = {tensor.name: tensor for tensor in folded.graph.initializer}
    node = next(node for node in folded.graph.node if node.output[0] == "Relu6;depthwise")
    stored[node.input[1]].CopyFrom(
        numpy_helper.from_array(np.array(6 / 255, np.float32), node.input[1])
    )
    without_quantization(folded)
    assert [node.op_type for node in folded.graph.node if node.op_type in ACTS] == ["Relu", "Clip"]


def test_a_clip_without_bounds_stays() -> None:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 2)) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Clip", ["x"], ["y"])], "g", info[:1], info[1:])
    made = without_quantization(helper.make_model(graph))
    assert [node.op_type for node in made.graph.node] == ["Clip"]
