"""A float model with codes and ranges becomes a QDQ model that integer kernels run.

The placement of the QuantizeLinear/DequantizeLinear pairs is onnxruntime's own quantizer's, which
knows which of its kernels fuse what. What it is not left to choose: the codes and scales of the
weights and the ranges of the activations, which are given here and stay as they are.

Activations below 8 bits are stored in uint8 with the coarse scale of their bits and limited to
0 ... 2^bits - 1 by a Clip between QuantizeLinear and DequantizeLinear: in the integers, where it
does not keep the convolution before it from being fused.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.coded_weights import (
    fitted,
    is_per_axis,
    store_codes,
    weight_overrides,
    with_values,
)
from camsdk.compress.graph.layers import Array, Layer, constants, list_layers
from camsdk.errors import InvalidInput, UnsupportedModel

QUANTIZED_OPERATORS: Final = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm",
    "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape",
    "Resize", "Sigmoid", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that have integer kernels or only move data; others get float inputs."""

_ONE_INPUT: Final = (
    "Clip", "Conv", "ConvTranspose", "Gemm", "Pad", "Reshape", "Resize", "Squeeze", "Transpose",
    "Unsqueeze",
)  # fmt: skip
"""Whose first input alone is an activation; the others are sizes, limits or weights."""

_MOVING: Final = (
    "AveragePool", "Flatten", "MaxPool", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Whose output has the scale of its input, as onnxruntime's kernels demand."""

_MIN_MAX: Final = CalibrationMethod.MinMax


@dataclass(frozen=True)
class ActivationRange:
    """What a tensor's values are quantized between.

    Attributes:
        low, high: Real values, low <= 0 <= high, so that zero (padding) is exact.
        bit_width: 2 to 8.
    """

    low: float
    high: float
    bit_width: int = 8

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= 0 <= self.high):
            raise InvalidInput(f"a range from {self.low} to {self.high} does not contain 0")
        if not 2 <= self.bit_width <= 8:
            raise InvalidInput(f"{self.bit_width}-bit activations are not to be had", "give 2 to 8")

    @property
    def largest(self) -> int:
        """The largest code; the smallest is 0."""
        return int(2**self.bit_width - 1)

    @property
    def scale(self) -> np.float32:
        """Of one step; 1 for a tensor that is always zero."""
        return np.float32((self.high - self.low) / self.largest or 1.0)

    @property
    def zero_point(self) -> int:
        """The code of 0."""
        return int(np.clip(np.rint(-self.low / float(self.scale)), 0, self.largest))


def emit_qdq(
    model: onnx.ModelProto,
    weights: Mapping[str, CodedTensor],
    activations: Mapping[str, ActivationRange],
) -> onnx.ModelProto:
    """Write codes and ranges into a model.

    Args:
        model: Float, BatchNorm folded, shapes static; not changed.
        weights: By layer name; a layer that is not named stays in float. Codes and scales are
            written as they are, but for a filter whose bias would not fit int32: its scale is
            raised until it does, which changes its outputs by less than 1e-4 of that bias. Of a
            transposed convolution in groups with a scale per filter, which ONNX cannot say, the
            values are written in float.
        activations: By tensor name. An operator is quantized only where all tensors that enter
            and leave it have a range; where ``Relu`` or ``Clip`` follow a layer directly, the range
            behind them is the one that counts, and they vanish in it if it lies within their own.
            Where an operator only moves values (``_MOVING``), the range before it is the one that
            counts. A layer of which only the input has a range gets codes and a quantized input,
            and computes in float with them; without any range, only codes.

    Returns:
        The model in QDQ form, opset as before.

    Raises:
        InvalidInput: A layer is not in the model, or its codes have another shape.
        UnsupportedModel: A node has no name, or shares one; a layer's shapes are open.
    """
    names = [node.name for node in model.graph.node]
    if not all(names) or len(set(names)) < len(names):
        raise UnsupportedModel(
            "nodes have no names, or share one", "run it through graph.optimise first"
        )
    layers = {layer.name: layer for layer in list_layers(model)}
    unknown = sorted(weights.keys() - layers.keys())
    if unknown:
        raise InvalidInput(f"the model has no layer {', '.join(unknown)}")
    ranges = _shared(model, _before_activations(model, activations))
    scales = {name: float(of.scale) for name, of in ranges.items()}
    coded = {
        name: fitted(model, layers[name], of, scales.get(layers[name].input))
        for name, of in weights.items()
    }
    source = with_values(model, layers, coded)
    chosen = _chosen(source, layers, coded, ranges)
    overrides = {**weight_overrides(layers, coded, chosen), **_activation_overrides(ranges)}
    result = _with_pairs(source, chosen, ranges, overrides)
    for name in sorted(coded.keys() - set(chosen)):
        _code_alone(result, layers[name], coded[name], ranges.get(layers[name].input))
    _limit_low_bits(result, ranges)
    onnx.checker.check_model(result, full_check=True)
    return result


def _with_pairs(
    source: onnx.ModelProto,
    chosen: list[str],
    ranges: Mapping[str, ActivationRange],
    overrides: dict[str, Any],
) -> onnx.ModelProto:
    """What onnxruntime's quantizer makes of the chosen nodes."""
    quantizer = QDQQuantizer(
        source,
        True,  # scales per filter
        False,  # all bits of the weights
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(_MIN_MAX, {name: _tensor_data(of) for name, of in ranges.items()}),
        [],  # would mean all if nothing were chosen; so the others are named
        [node.name for node in source.graph.node if node.name not in chosen],
        list(QUANTIZED_OPERATORS),
        {"TensorQuantOverrides": overrides, "QDQDisableWeightAdjustForInt32Bias": True},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    del result.metadata_props[:]
    return result


def _before_activations(
    model: onnx.ModelProto, activations: Mapping[str, ActivationRange]
) -> dict[str, ActivationRange]:
    """The ranges, with those behind Relu and Clip also before them where nothing else reads it."""
    ranges = dict(activations)
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers[tensor] = readers.get(tensor, 0) + 1
    outputs = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        if node.op_type in ("Relu", "Clip") and node.output[0] in ranges:
            before = node.input[0]  # which nobody but this node may see
            if readers.get(before) == 1 and before not in outputs:
                ranges[before] = ranges[node.output[0]]
    return ranges


def _shared(
    model: onnx.ModelProto, ranges: Mapping[str, ActivationRange]
) -> dict[str, ActivationRange]:
    """The ranges, those of moved tensors being those of where they come from."""
    result = dict(ranges)
    for node in model.graph.node:
        if node.op_type in _MOVING and node.input[0] in result and node.output[0] in result:
            result[node.output[0]] = result[node.input[0]]
    return result


def _chosen(
    model: onnx.ModelProto,
    layers: Mapping[str, Layer],
    weights: Mapping[str, CodedTensor],
    ranges: Mapping[str, ActivationRange],
) -> list[str]:
    """Names of the nodes to quantize."""
    fixed = constants(model)
    chosen = []
    for node in model.graph.node:
        if node.op_type not in QUANTIZED_OPERATORS or not _is_in_integers(node, layers, weights):
            continue
        if node.op_type in ("Relu", "Clip") and not _is_within(node, fixed, ranges):
            continue  # it stays in float, between pairs
        moving = [node.input[0]] if node.op_type in _ONE_INPUT else list(node.input)
        tensors = [name for name in (*moving, *node.output) if name and name not in fixed]
        if all(name in ranges for name in tensors):
            chosen.append(node.name)
    return chosen


def _is_in_integers(
    node: onnx.NodeProto, layers: Mapping[str, Layer], weights: Mapping[str, CodedTensor]
) -> bool:
    """Whether a node is no layer, or one whose codes can be written as such."""
    if node.name not in layers:
        return True
    coded = weights.get(node.name)
    return coded is not None and is_per_axis(layers[node.name], coded)


def _code_alone(
    model: onnx.ModelProto, layer: Layer, coded: CodedTensor, of: ActivationRange | None
) -> None:
    """A layer whose output has no range: codes, and the input through its range if it has one."""
    if is_per_axis(layer, coded):
        store_codes(model, layer, coded)
    index, node = next(
        (index, node) for index, node in enumerate(model.graph.node) if node.name == layer.name
    )
    if of is None or node.input[0] != layer.input:
        return  # in the second case the quantizer has put a pair behind the tensor already
    scale, zero, code, value = (
        f"{layer.name}.input.{suffix}" for suffix in ("scale", "zero", "code", "value")
    )
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(of.scale, np.float32), scale),
            numpy_helper.from_array(np.array(of.zero_point, np.uint8), zero),
        ]
    )
    node.input[0] = value
    for operator, source, target in (
        ("DequantizeLinear", code, value),
        ("QuantizeLinear", layer.input, code),
    ):
        pair = helper.make_node(operator, [source, scale, zero], [target], target)
        model.graph.node.insert(index, pair)


def _is_within(
    node: onnx.NodeProto, fixed: Mapping[str, Array], ranges: Mapping[str, ActivationRange]
) -> bool:
    """Whether the range behind a Relu or Clip limits at least as much as the node does."""
    of = ranges.get(node.output[0])
    if of is None:
        return False
    low, high = (-np.inf, np.inf) if node.op_type == "Clip" else (0.0, np.inf)
    if node.op_type == "Clip":
        limits = [fixed.get(name) for name in node.input[1:]]
        if any(name and limit is None for name, limit in zip(node.input[1:], limits, strict=True)):
            return False
        found = [
            default if limit is None else float(limit)
            for limit, default in zip([*limits, None, None], (low, high), strict=False)
        ]
        low, high = found
    step = float(of.scale)
    smallest, largest = -of.zero_point * step, (of.largest - of.zero_point) * step
    return smallest >= low and largest <= high * (1 + 1e-6)


def _activation_overrides(ranges: Mapping[str, ActivationRange]) -> dict[str, Any]:
    return {
        name: [
            {
                "quant_type": QuantType.QUInt8,
                "scale": np.array(of.scale, np.float32),
                "zero_point": np.array(of.zero_point, np.uint8),
            }
        ]
        for name, of in ranges.items()
    }


def _tensor_data(of: ActivationRange) -> TensorData:
    return TensorData(lowest=np.float32(of.low), highest=np.float32(of.high))


def _limit_low_bits(model: onnx.ModelProto, ranges: Mapping[str, ActivationRange]) -> None:
    """Put a Clip behind every QuantizeLinear of a tensor below 8 bits."""
    nodes: list[onnx.NodeProto] = []
    readers = list(model.graph.node)
    for node in readers:
        nodes.append(node)
        of = ranges.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if of is None or of.bit_width == 8:
            continue
        bound, limited = f"largest_code_{of.bit_width}", f"{node.output[0]}_limited"
        if not any(tensor.name == bound for tensor in model.graph.initializer):
            model.graph.initializer.append(
                numpy_helper.from_array(np.array(of.largest, np.uint8), bound)
            )
        for reader in readers:
            for index, tensor in enumerate(reader.input):
                if tensor == node.output[0]:
                    reader.input[index] = limited
        nodes.append(
            helper.make_node("Clip", [node.output[0], "", bound], [limited], f"{limited}_clip")
        )
    kept = copy.deepcopy(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)
