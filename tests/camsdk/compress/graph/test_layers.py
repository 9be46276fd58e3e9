"""Layers and their costs, against values worked out by hand."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.layers import count_macs, list_layers
from camsdk.compress.options import CodeSet
from camsdk.errors import UnsupportedModel


def _model(
    node: onnx.NodeProto, arrays: Mapping[str, NDArray[np.float32]], shape: tuple[int | str, ...]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def _ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("operator", "attributes", "weight", "shape", "filters_first", "macs"),
    [
        # 16 filters x 8x8 outputs x 3 channels x 3x3
        ("Conv", {"pads": [1] * 4, "strides": [2, 2]}, (16, 3, 3, 3), (1, 3, 16, 16), (16, 3, 3, 3),
         16 * 64 * 27),
        ("Conv", {"group": 4, "pads": [1] * 4}, (8, 1, 3, 3), (1, 4, 5, 5), (8, 1, 3, 3),
         8 * 25 * 9),
        # each of 4 x 3x3 inputs is multiplied with 6 x 2x2 weights
        ("ConvTranspose", {"strides": [2, 2]}, (4, 6, 2, 2), (1, 4, 3, 3), (6, 4, 2, 2),
         4 * 9 * 24),
        ("ConvTranspose", {"strides": [2, 2], "group": 2}, (4, 3, 2, 2), (1, 4, 3, 3),
         (6, 2, 2, 2), 4 * 9 * 12),
        ("Gemm", {}, (10, 7), (3, 10), (7, 10), 3 * 70),
        ("Gemm", {"transB": 1}, (7, 10), (3, 10), (7, 10), 3 * 70),
        ("MatMul", {}, (10, 7), (2, 3, 10), (7, 10), 6 * 70),
    ],
)  # fmt: skip
def test_layer(
    operator: str,
    attributes: dict[str, object],
    weight: tuple[int, ...],
    shape: tuple[int, ...],
    filters_first: tuple[int, ...],
    macs: int,
) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"], "layer", **attributes)
    model = _model(node, {"w": _ones(*weight)}, shape)
    (layer,) = list_layers(model)
    assert (layer.name, layer.operator, layer.shape) == ("layer", operator, filters_first)
    assert (layer.input, layer.output, layer.weight, layer.bias) == ("x", "y", "w", None)
    assert count_macs(model).total == count_macs(model).nonzero == layer.macs == macs
    values = np.arange(np.prod(weight)).reshape(weight)
    assert layer.filters_first(values).shape == filters_first
    np.testing.assert_array_equal(layer.as_stored(layer.filters_first(values)), values)


def test_zeros_are_no_work() -> None:
    weights = _ones(2, 3, 1, 1)
    weights[0, 1] = 0
    node = helper.make_node("Conv", ["x", "w"], ["y"], "layer")
    model = _model(node, {"w": weights}, (1, 3, 4, 4))
    assert count_macs(model).nonzero == 16 * 5
    codes = np.zeros((2, 3, 1, 1), np.int8)
    codes[0, 0] = -3
    coded = CodedTensor(codes, np.ones((), np.float32), CodeSet(4))
    assert count_macs(model, {"layer": coded}).nonzero == 16
    assert count_macs(model, {"layer": coded}).total == 16 * 6


def test_open_shapes_and_missing_names_are_refused() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "layer")
    with pytest.raises(UnsupportedModel, match="open"):
        list_layers(_model(node, {"w": _ones(2, 3, 1, 1)}, (1, 3, "height", 4)))
    node.name = ""
    with pytest.raises(UnsupportedModel, match="no names"):
        list_layers(_model(node, {"w": _ones(2, 3, 1, 1)}, (1, 3, 4, 4)))


def test_product_of_two_tensors_is_no_layer() -> None:
    node = helper.make_node("MatMul", ["x", "x"], ["y"], "product")
    assert list_layers(_model(node, {}, (4, 4))) == ()


@settings(max_examples=25, deadline=None)
@given(
    st.booleans(),
    st.sampled_from([1, 2]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 1),
    st.integers(4, 7),
)
def test_convolutions_cost_what_torch_counts(
    is_transposed: bool, groups: int, kernel: int, stride: int, padding: int, size: int
) -> None:
    torch.set_num_threads(1)
    kind = torch.nn.ConvTranspose2d if is_transposed else torch.nn.Conv2d
    layer = kind(4, 6, kernel, stride, padding, groups=groups)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.zeros(1, 4, size, size))
    node = helper.make_node(
        "ConvTranspose" if is_transposed else "Conv",
        ["x", "w"],
        ["y"],
        "layer",
        group=groups,
        strides=[stride] * 2,
        pads=[padding] * 4,
    )
    weights = layer.weight.detach().numpy()
    macs = count_macs(_model(node, {"w": weights}, (1, 4, size, size))).total
    assert 2 * macs == counter.get_total_flops()
