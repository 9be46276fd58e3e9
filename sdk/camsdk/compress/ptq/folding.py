"""A model made ready: BatchNorm folded, each layer with weights and a bias of its own.

What BatchNorm knew is kept: its beta and gamma are the mean and the standard deviation of its
output on the training data, per channel, which is all that is left of that data.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from camsdk.compress.graph.folding import fold
from camsdk.compress.graph.layers import LAYER_OPERATORS, Layer, attributes, constants, list_layers
from camsdk.compress.ptq.probing import Floats, probe

_SMALLEST_STD = 1e-4
_SMALLEST_SHARE = 1e-2
"""Of gamma that a channel's standard deviation must reach, or the channel counts as constant."""
_LARGEST_FACTOR = 50.0


@dataclass(frozen=True)
class Normalised:
    """What BatchNorm says about a layer's output on the training data.

    Attributes:
        mean, std: float64 (channels,); the std is 0 of a channel that never changed.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


@dataclass(frozen=True)
class Prepared:
    """A model without BatchNorm behind layers.

    Attributes:
        model: A copy; each layer's weights are an initializer that no other node reads.
        normalised: By layer name, where there was a BatchNorm.
    """

    model: onnx.ModelProto
    normalised: Mapping[str, Normalised]


def prepare(model: onnx.ModelProto) -> Prepared:
    """Fold BatchNorm into the layers before it and part what layers share.

    Raises:
        UnsupportedModel: As ``graph.layers.list_layers``.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _constants_to_initializers(result)
    list_layers(result)  # refuses nameless layers and open shapes
    _give_own_weights(result)
    known = _statistics_of_norms(result)
    folded = fold(result).model
    # Where more was folded than the BatchNorm, its statistics are not those of the output.
    normalised = {
        layer.name: known[layer.name][1]
        for layer in list_layers(folded)
        if layer.name in known and known[layer.name][0] == layer.output
    }
    _still_filters(folded, normalised)
    return Prepared(folded, normalised)


def write(model: onnx.ModelProto, values: Mapping[str, NDArray[np.generic]]) -> None:
    """Replace initializers, which keep their types; new names are added."""
    left = dict(values)
    for tensor in model.graph.initializer:
        if tensor.name in left:
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            array = np.asarray(left.pop(tensor.name), kind)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for name, value in left.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def doubles(model: onnx.ModelProto, name: str) -> NDArray[np.float64]:
    """An initializer as float64."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return numpy_helper.to_array(tensor).astype(np.float64)


def _scale_filters(model: onnx.ModelProto, layer: Layer, factor: NDArray[np.float64]) -> None:
    weight = np.moveaxis(doubles(model, layer.weight), layer.filter_axis, 0)
    scaled = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    write(model, {layer.weight: layer.as_stored(scaled)})


def weights_of(model: onnx.ModelProto, layers: tuple[Layer, ...]) -> dict[str, NDArray[np.float64]]:
    """Filters-first weights by layer name, float64."""
    stored = constants(model)
    return {
        layer.name: layer.filters_first(stored[layer.weight]).astype(np.float64) for layer in layers
    }


def as_if_trained(
    prepared: Prepared, layers: tuple[Layer, ...], inputs: Iterable[Floats]
) -> onnx.ModelProto:
    """A model whose layers answer to ``inputs`` as the real ones answer to the training data.

    Made-up inputs give other statistics than the data did. Layer after layer, the output of each
    that had a BatchNorm is shifted and scaled per channel to the mean and standard deviation that
    BatchNorm promises, so that ranges, second moments and the sums behind shortcuts become those
    of the data as far as means and variances go. Only for measuring: it is another function.

    Args:
        layers: Of ``prepared.model``.
        inputs: Can be iterated again and again.
    """
    result = onnx.ModelProto()
    result.CopyFrom(prepared.model)
    for layer in layers:
        goal = prepared.normalised.get(layer.name)
        if goal is None or layer.bias is None:
            continue
        mean, std = _statistics(result, layer, inputs)
        factor = np.clip(goal.std / np.maximum(std, _SMALLEST_STD), 0, _LARGEST_FACTOR)
        bias = goal.mean + (doubles(result, layer.bias) - mean) * factor
        _scale_filters(result, layer, factor)
        write(result, {layer.bias: bias})
    return result


def _statistics(
    model: onnx.ModelProto, layer: Layer, inputs: Iterable[Floats]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of a layer's output per channel."""
    count, total, squares = 0, np.zeros(layer.shape[0]), np.zeros(layer.shape[0])
    for found in probe(model, [layer.output], inputs):
        values = found[layer.output]
        is_map = layer.operator in ("Conv", "ConvTranspose")
        rows = np.moveaxis(values, 1 if is_map else -1, 0).reshape(layer.shape[0], -1)
        count += rows.shape[1]
        total += rows.sum(axis=1, dtype=np.float64)
        squares += np.square(rows, dtype=np.float64).sum(axis=1)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _constants_to_initializers(model: onnx.ModelProto) -> None:
    known = {tensor.name for tensor in model.graph.initializer}
    for name, value in constants(model).items():
        if name not in known:
            model.graph.initializer.append(numpy_helper.from_array(value, name))
            known.add(name)
    kept = []
    for node in model.graph.node:
        copied = onnx.NodeProto.FromString(node.SerializeToString())
        # exporters write one initializer and an Identity where two tensors are equal
        if node.op_type == "Identity" and node.input[0] in known:
            write(model, {node.output[0]: constants(model)[node.input[0]]})
            known.add(node.output[0])
        elif node.op_type != "Constant" or node.output[0] not in known:
            kept.append(copied)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _give_own_weights(model: onnx.ModelProto) -> None:
    stored = constants(model)
    layers = {layer.name: layer for layer in list_layers(model)}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in model.graph.node:
        layer = layers.get(node.name)
        if layer is None or node.op_type not in LAYER_OPERATORS:
            continue
        for index, name in enumerate(node.input):
            if index and name in stored and readers[name] > 1:
                node.input[index] = f"{node.name}.own.{index}"
                write(model, {node.input[index]: stored[name]})
        given = attributes(node)
        has_plain_bias = node.op_type != "MatMul" and given.get("beta", 1.0) == 1.0
        if len(node.input) == 2 and has_plain_bias:
            node.input.append(f"{node.name}.own.bias")
            kind = stored[layer.weight].dtype
            write(model, {node.input[2]: np.zeros(layer.shape[0], kind)})


def _statistics_of_norms(model: onnx.ModelProto) -> dict[str, tuple[str, Normalised]]:
    """By layer name, where a BatchNorm alone reads its output: that one's output and statistics."""
    stored = constants(model)
    by_input = {
        node.input[0]: node for node in model.graph.node if node.op_type == "BatchNormalization"
    }
    found = {}
    for layer in list_layers(model):
        norm = by_input.get(layer.output)
        if norm is not None and all(name in stored for name in norm.input[1:]):
            gamma, beta = (stored[name].astype(np.float64) for name in norm.input[1:3])
            # Where the variance is no larger than epsilon, the output does not reach gamma.
            variance = np.maximum(stored[norm.input[4]].astype(np.float64), 0)
            share = np.sqrt(variance / (variance + _epsilon(norm)))
            std = np.where(share > _SMALLEST_SHARE, np.abs(gamma) * share, 0.0)
            found[layer.name] = (norm.output[0], Normalised(beta, std))
    return found


def _epsilon(norm: onnx.NodeProto) -> float:
    value = attributes(norm).get("epsilon", 1e-5)
    assert isinstance(value, float)
    return value


def _still_filters(model: onnx.ModelProto, normalised: Mapping[str, Normalised]) -> None:
    """Filters that never answered become constants.

    Folding divides them by the square root of epsilon, so what is nothing but the noise of dead
    filters has the largest weights of all and spoils the scale of a tensor and equalization.
    """
    for layer in list_layers(model):
        known = normalised.get(layer.name)
        if known is not None and layer.bias is not None and not known.std.all():
            is_still = known.std == 0
            _scale_filters(model, layer, np.where(is_still, 0.0, 1.0))
            bias = np.where(is_still, known.mean, doubles(model, layer.bias))
            write(model, {layer.bias: bias})
