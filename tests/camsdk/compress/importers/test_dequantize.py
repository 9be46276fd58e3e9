"""What tf2onnx makes of Lite files, held in files, is float again and computes the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from camsdk.compress.importers.dequantize import without_quantization
from camsdk.compress.importers.onnx_file import normalise
from camsdk.compress.sessions import Session
from camsdk.errors import UnsupportedModel

GOLDEN = Path(__file__).parents[3] / "golden"


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
