"""Codes of weights written into a model: in front of onnxruntime's quantizer and behind it."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType

from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.layers import Layer, constants
from camsdk.errors import InvalidInput

_LARGEST_BIAS: Final = 2.0**30
"""Half of int32; the other half is for the products that are summed onto it."""


def fitted(
    model: onnx.ModelProto, layer: Layer, coded: CodedTensor, input_scale: float | None
) -> CodedTensor:
    """The codes, with scales at which the bias in steps of input and weight scale fits int32.

    Args:
        input_scale: Of the tensor that enters the layer; None where it stays in float.

    Raises:
        InvalidInput: The codes have another shape than the layer's weights.
    """
    if coded.codes.shape != layer.shape:
        raise InvalidInput(
            f"layer {layer.name} has weights of shape {layer.shape}, its codes {coded.codes.shape}"
        )
    if layer.bias is None or input_scale is None:
        return coded
    bias = np.abs(constants(model)[layer.bias].astype(np.float64)).reshape(-1)
    least = bias / (input_scale * _LARGEST_BIAS)
    if coded.scale.ndim == 0:
        least = least.max(initial=0.0)
    if np.all(coded.scale >= least):
        return coded
    scale = np.maximum(coded.scale, least).astype(np.float32)
    ratio = (coded.scale / scale).reshape(scale.shape + (1,) * (coded.codes.ndim - scale.ndim))
    return CodedTensor(np.rint(coded.codes * ratio).astype(np.int8), scale, coded.code_set)


def with_values(
    model: onnx.ModelProto, layers: Mapping[str, Layer], weights: Mapping[str, CodedTensor]
) -> onnx.ModelProto:
    """A float copy in which each coded layer has weights of its own: the values of its codes."""
    source = onnx.ModelProto()
    source.CopyFrom(model)
    stored = constants(model)
    nodes = {node.name: node for node in source.graph.node}
    for name, coded in weights.items():
        layer = layers[name]
        values = layer.as_stored(coded.values).astype(stored[layer.weight].dtype)
        own = stored_name(name)
        source.graph.initializer.append(numpy_helper.from_array(values, own))
        nodes[name].input[1] = own
        if layer.bias is not None:  # shared biases would get the scale of one of their layers
            source.graph.initializer.append(
                numpy_helper.from_array(stored[layer.bias], f"{name}.bias.coded")
            )
            nodes[name].input[2] = f"{name}.bias.coded"
    used = {tensor for node in source.graph.node for tensor in node.input}
    kept = [tensor for tensor in source.graph.initializer if tensor.name in used]
    del source.graph.initializer[:]
    source.graph.initializer.extend(kept)
    return source


def weight_overrides(
    layers: Mapping[str, Layer], weights: Mapping[str, CodedTensor], chosen: list[str]
) -> dict[str, Any]:
    """What onnxruntime's quantizer is told about the weights of the layers that it quantizes."""
    overrides: dict[str, Any] = {}
    for name in set(chosen) & weights.keys():
        coded, layer = weights[name], layers[name]
        kind: dict[str, Any] = {"quant_type": QuantType.QInt8, "zero_point": np.array(0, np.int8)}
        if coded.scale.ndim == 0:
            entries = [{**kind, "scale": np.array(coded.scale, np.float32)}]
        else:
            entries = [{**kind, "scale": np.array(scale, np.float32)} for scale in coded.scale]
            entries[0]["axis"] = layer.filter_axis
        overrides[stored_name(name)] = entries
    return overrides


def stored_name(layer: str) -> str:
    """Of the initializer that ``with_values`` adds for a layer."""
    return f"{layer}.weight.coded"


def is_per_axis(layer: Layer, coded: CodedTensor) -> bool:
    """Whether ONNX can say the scales: not those of the filters of a grouped ConvTranspose."""
    is_grouped = layer.operator == "ConvTranspose" and layer.groups > 1
    return coded.scale.ndim == 0 or not is_grouped


def store_codes(model: onnx.ModelProto, layer: Layer, coded: CodedTensor) -> None:
    """Int8 codes and a DequantizeLinear for a layer that the quantizer left in float, in place."""
    name = stored_name(layer.name)
    index, node = next(
        (index, node) for index, node in enumerate(model.graph.node) if node.name == layer.name
    )
    for tensor in list(model.graph.initializer):
        if tensor.name == name:
            model.graph.initializer.remove(tensor)
    for suffix, value in (
        ("codes", layer.as_stored(coded.codes)),
        ("scale", coded.scale),
        ("zero", np.zeros(coded.scale.shape, np.int8)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(value, f"{name}.{suffix}"))
    inputs = [f"{name}.{suffix}" for suffix in ("codes", "scale", "zero")]
    axis: dict[str, Any] = {"axis": layer.filter_axis} if coded.scale.ndim else {}
    node.input[1] = name
    model.graph.node.insert(
        index, helper.make_node("DequantizeLinear", inputs, [name], f"{name}.values", **axis)
    )
