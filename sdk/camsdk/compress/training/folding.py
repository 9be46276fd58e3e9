"""From a trained twin to what is exported: BatchNorm folded, codes kept, a range for every tensor.

The ranges are those of the layers' inputs and of the joints between them. What has neither, because
activations were not quantized while training, gets the extremes of given inputs at 8 bits. Where a
tensor enters a layer with fewer bits than it has for others, the layer gets a copy of its own.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph import folding as graph_folding
from camsdk.compress.graph.layers import Layer, list_layers
from camsdk.compress.graph.qdq import ActivationRange
from camsdk.compress.training.joints import joint_ranges
from camsdk.compress.training.method import Range
from camsdk.compress.training.placement import PASSING
from camsdk.compress.training.twin import Twin
from camsdk.errors import InvalidInput

_SHARING: Final = PASSING | {"Resize"}


@dataclass(frozen=True, eq=False)
class Folded:
    """What ``graph.qdq.emit_qdq`` takes.

    Attributes:
        model: Float, with the trained weights and without BatchNorm behind layers.
        weights: By layer name.
        activations: By tensor name.
    """

    model: onnx.ModelProto
    weights: Mapping[str, CodedTensor]
    activations: Mapping[str, ActivationRange]


def fold(
    twin: Twin,
    coded: Mapping[str, CodedTensor],
    ranges: Mapping[str, Range],
    calibration: Iterable[Tensor],
) -> Folded:
    """Fold BatchNorm into codes and scales and find the ranges that are missing.

    Biases move to multiples of input times weight step, in the twin as well: from then on it
    computes what is exported, up to the order of float sums.

    Args:
        twin: Trained; its method has finished.
        coded: By module name, as ``Method.coded_weights`` gives it.
        ranges: By module name, as ``Method.activation_ranges`` gives it.
        calibration: Inputs like those to come, each (n, c, h, w).

    Raises:
        InvalidInput: A name is of no layer, or there are no inputs.
    """
    unknown = sorted((coded.keys() | ranges.keys()) - twin.layer_of.keys())
    if unknown:
        raise InvalidInput(f"the network has no layer {', '.join(unknown)}")
    folded = graph_folding.fold(
        twin.write_back(), {twin.layer_of[name]: tensor for name, tensor in coded.items()}
    )
    model = folded.model
    joints = {name: _range(of) for name, of in joint_ranges(twin.module).items()}
    wanted = {twin.layer_of[name]: _range(of) for name, of in ranges.items()}
    activations = joints | _of_layers(model, wanted, joints.keys())
    present = {value.name for value in model.graph.input}
    present |= {tensor for node in model.graph.node for tensor in node.output}
    for tensor, (low, high) in _observed(twin, calibration).items():
        if tensor in present and tensor not in activations:
            activations[tensor] = ActivationRange(min(low, 0.0), max(high, 0.0))
    _settle_biases(twin, model, folded.weights, activations)
    return Folded(model, folded.weights, activations)


def _of_layers(
    model: onnx.ModelProto, ranges: Mapping[str, ActivationRange], joints: Collection[str]
) -> dict[str, ActivationRange]:
    """Ranges of the tensors that enter layers; adds copies of tensors to the model where needed."""
    layers = [layer for layer in list_layers(model) if layer.name in ranges]
    by_tensor: dict[str, list[Layer]] = {}
    for layer in layers:
        by_tensor.setdefault(layer.input, []).append(layer)
    found: dict[str, ActivationRange] = {}
    for tensor, readers in by_tensor.items():
        wanted = [ranges[layer.name] for layer in readers]
        source = _source(model, tensor)
        is_shared = _reader_count(model, tensor) > len(readers) or (
            source != tensor and source in by_tensor
        )
        is_shared |= tensor in joints or source in joints
        is_shared |= _producer(model, source) in _SHARING
        if all(of.bit_width == 8 for of in wanted) and not joints:
            low, high = min(of.low for of in wanted), max(of.high for of in wanted)
            found[tensor] = found[source] = ActivationRange(low, high)
        elif len(set(wanted)) == 1 and not is_shared:
            found[tensor] = found[source] = wanted[0]
        else:
            found |= _copied(model, tensor, readers, wanted)
    return found


def _copied(
    model: onnx.ModelProto,
    tensor: str,
    readers: Sequence[Layer],
    wanted: Sequence[ActivationRange],
) -> dict[str, ActivationRange]:
    """One copy of the tensor for each of the ranges; its layers read that."""
    nodes = {node.name: node for node in model.graph.node}
    copies: dict[ActivationRange, str] = {}
    for layer, of in zip(readers, wanted, strict=True):
        if of not in copies:
            copies[of] = f"{tensor}.entering.{layer.name}"
            copy = helper.make_node("Identity", [tensor], [copies[of]], name=copies[of])
            places = [i for i, node in enumerate(model.graph.node) if tensor in node.output]
            model.graph.node.insert(places[0] + 1 if places else 0, copy)
        nodes[layer.name].input[0] = copies[of]
    return {name: of for of, name in copies.items()}


def _range(of: Range) -> ActivationRange:
    low, high, bit_width = of
    return ActivationRange(low, high, bit_width)


def _source(model: onnx.ModelProto, tensor: str) -> str:
    """Where the tensor's values come from through operators that only move them."""
    by_output = {output: node for node in model.graph.node for output in node.output}
    while (node := by_output.get(tensor)) is not None and node.op_type in PASSING:
        if _reader_count(model, node.input[0]) > 1:
            break
        tensor = node.input[0]
    return tensor


def _producer(model: onnx.ModelProto, tensor: str) -> str:
    """Operator that a tensor comes from, "" for an input."""
    return next((node.op_type for node in model.graph.node if tensor in node.output), "")


def _reader_count(model: onnx.ModelProto, tensor: str) -> int:
    inside = sum(list(node.input).count(tensor) for node in model.graph.node)
    return inside + sum(value.name == tensor for value in model.graph.output)


def _observed(twin: Twin, calibration: Iterable[Tensor]) -> dict[str, tuple[float, float]]:
    """Extremes of every tensor of the trained network over all inputs."""
    was_training = twin.module.training
    twin.module.eval()
    found: dict[str, tuple[float, float]] = {}

    def note(name: str, value: Tensor) -> None:
        low, high = float(value.min()), float(value.max())
        before = found.get(name, (low, high))
        found[name] = (min(low, before[0]), max(high, before[1]))

    with torch.no_grad():
        for inputs in calibration:
            twin.module.watch(note, inputs)
    twin.module.train(was_training)
    if not found:
        raise InvalidInput("there are no inputs to find ranges with", "give at least one batch")
    return found


def _settle_biases(
    twin: Twin,
    model: onnx.ModelProto,
    weights: Mapping[str, CodedTensor],
    activations: Mapping[str, ActivationRange],
) -> None:
    """As integer kernels add them to their sums.

    At 1 and 2 bits a step of these sums is coarse enough to change what follows.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in list_layers(model):
        of, coded = activations.get(layer.input), weights.get(layer.name)
        if layer.bias is None or of is None or coded is None:
            continue
        before = numpy_helper.to_array(held[layer.bias])
        step = float(of.scale) * coded.scale.astype(np.float64)
        after = (np.rint(before / step) * step).astype(np.float32)
        held[layer.bias].CopyFrom(numpy_helper.from_array(after, layer.bias))
        _shift(twin, layer, torch.from_numpy(after - before))


@torch.no_grad()
def _shift(twin: Twin, layer: Layer, by: Tensor) -> None:
    """Add to the outputs of a layer with the BatchNorm behind it."""
    made = next(node.output[0] for node in twin.model.graph.node if node.name == layer.name)
    readers = [node for node in twin.model.graph.node if made in node.input]
    name = twin.module_of[layer.name]
    if made != layer.output and len(readers) == 1 and readers[0].output[0] == layer.output:
        name = twin.module_of.get(readers[0].name, "")
    bias = getattr(twin.module.get_submodule(name), "bias", None) if name else None
    if bias is not None:
        bias.add_(by)
