"""A quantized model in float again: what its ranges limited is limited still."""

import numpy as np
import onnx
import pytest
from onnx import helper

from camsdk.compress.codes import project
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.graph.limits import with_limits
from camsdk.compress.graph.qdq import ActivationRange, emit_qdq
from camsdk.compress.importers.dequantize import without_quantization
from camsdk.compress.mnn import relative_error
from camsdk.compress.options import CodeSet
from camsdk.compress.sessions import Session
from support import models

TENSOR = np.random.default_rng(0).normal(0, 2, (1, 3, 16, 16)).astype(np.float32)


def quantized(activation_bits: int = 8, *, highest: float = 6.0) -> onnx.ModelProto:
    """Convolution, Relu, pooling, convolution: the Relu vanishes in the range behind it."""
    rng = np.random.default_rng(1)
    arrays = {
        "a": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(0, 0.3, (4, 8, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], "first"),
        helper.make_node("Relu", ["1"], ["2"], "relu"),
        helper.make_node("MaxPool", ["2"], ["3"], "pool", kernel_shape=[2, 2]),
        helper.make_node("Conv", ["3", "b"], ["y"], "second"),
    ]
    model = models.make_model(nodes, list(TENSOR.shape), **arrays)
    stored = constants(model)
    weights = {
        layer.name: project(layer.filters_first(stored[layer.weight]), CodeSet(8), "filter")
        for layer in list_layers(model)
    }
    inner = ActivationRange(0.0, highest, activation_bits)
    ranges = {"x": ActivationRange(-8.0, 8.0), "2": inner, "3": inner}
    return emit_qdq(model, weights, ranges)


def in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return without_quantization(copied)


def computed(model: onnx.ModelProto) -> np.ndarray:
    return np.asarray(Session(model.SerializeToString()).infer(TENSOR)["y"])


@pytest.mark.parametrize("highest", [6.0, 1.0])
def test_a_relu_that_vanished_and_saturation_are_kept(highest: float) -> None:
    model = quantized(highest=highest)
    assert not [node for node in model.graph.node if node.op_type == "Relu"]
    expected = computed(model)
    kept = relative_error(computed(in_float(with_limits(model))), expected)
    assert kept < 0.02
    alone = relative_error(computed(in_float(model)), expected)
    if highest == 6.0:
        assert alone < 0.02  # the range begins at zero, which says enough of a Relu
    else:
        assert alone > 5 * kept


def test_limits_of_low_bits_are_taken_over_from_their_codes() -> None:
    model = quantized(3)
    assert [node for node in model.graph.node if node.op_type == "Clip"]
    result = in_float(with_limits(model))
    bounds = constants(result)
    highest = [
        float(bounds[node.input[2]].item()) for node in result.graph.node if node.op_type == "Clip"
    ]
    assert highest[-1] == pytest.approx(6.0, rel=1e-6)
    assert relative_error(computed(result), computed(model)) < 0.2


def test_moved_values_are_limited_once() -> None:
    clips = [node for node in with_limits(quantized()).graph.node if node.op_type == "Clip"]
    assert [node.input[0] for node in clips] == ["x", "2"]  # not again behind the pooling


def test_float_models_stay_as_they_are() -> None:
    model = models.conv()
    assert with_limits(model) == model
