"""Cross-layer equalization: the same function with weights that fit one scale better.

"Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721). What
lies between two layers and commutes with a positive factor per channel, such as Relu, lets that
factor move from the first layer's filter to the second layer's inputs (equation 7). The factors
that give both the same size are found pair by pair until nothing moves. Sizes are roots of mean
squares where the paper has largest magnitudes (equations 9 to 11): at few bits the scale clips what
is rare, and one outlier does not say what the others need.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from camsdk.compress.graph.layers import Layer, constants, list_layers
from camsdk.compress.ptq.folding import doubles, write

Doubles = NDArray[np.float64]

_HOMOGENEOUS: Final = (
    "Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout",
    "Flatten", "Resize",
)  # fmt: skip
"""Operators with f(s x) = s f(x) for s > 0 per channel that keep the channels apart."""

_ROUNDS: Final = 30
_SETTLED: Final = 1e-3
_LARGEST_STEP: Final = 1e3


@dataclass(frozen=True)
class Pair:
    """Two layers with a channel-wise factor between them.

    Attributes:
        before, after: The layers.
        limiting: The Clip between them, or None.
        bound: Its upper bound, or infinity.
    """

    before: Layer
    after: Layer
    limiting: onnx.NodeProto | None
    bound: float


def find_pairs(model: onnx.ModelProto) -> tuple[Pair, ...]:
    """Pairs of layers that can be equalized, in the order of the graph."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    layers = {layer.name: layer for layer in list_layers(model)}
    stored = constants(model)
    pairs = []
    for layer in layers.values():
        if layer.operator not in ("Conv", "Gemm"):
            continue
        tensor, limiting, bound = layer.output, None, np.inf
        while len(readers.get(tensor, [])) == 1 and tensor not in outputs:
            node = readers[tensor][0]
            if node.name in layers and node.input[0] == tensor:
                if _channels_before(layers[node.name]) == layer.shape[0]:
                    pairs.append(Pair(layer, layers[node.name], limiting, bound))
                break
            upper = _upper_bound(node, stored)
            if upper is not None and limiting is None:
                limiting, bound = (node, upper) if np.isfinite(upper) else (None, np.inf)
            elif node.op_type not in _HOMOGENEOUS:
                break
            tensor = node.output[0]
    return tuple(pairs)


def equalize(
    model: onnx.ModelProto, peaks: Mapping[str, Doubles] | None = None
) -> Mapping[str, Doubles]:
    """Factors per channel by the name of the layer before; ``apply`` puts them into a model.

    Args:
        model: BatchNorm folded; not changed.
        peaks: The largest value per channel of what enters each bounded Clip, by tensor. A channel
            that reaches the bound keeps its scale, and others are never scaled beyond it, so the
            Clip goes on doing what it did. Without them, Clips with an upper bound part layers.

    Returns:
        What each output channel of a layer is divided by.
    """
    pairs = [p for p in find_pairs(model) if p.limiting is None or peaks is not None]
    stored = constants(model)
    weights = {
        layer.name: layer.filters_first(stored[layer.weight]).astype(np.float64)
        for pair in pairs
        for layer in (pair.before, pair.after)
    }
    factors = {pair.before.name: np.ones(pair.before.shape[0]) for pair in pairs}
    for _ in range(_ROUNDS):
        moved = 0.0
        for pair in pairs:
            first, second = weights[pair.before.name], weights[pair.after.name]
            step = _step(first, _by_input(second, pair.after))
            total = _limited(factors[pair.before.name] * step, pair, peaks)
            step = total / factors[pair.before.name]
            factors[pair.before.name] = total
            weights[pair.before.name] = first / step.reshape(-1, *(1,) * (first.ndim - 1))
            weights[pair.after.name] = second * _spread(step, pair.after)
            moved = max(moved, float(np.abs(np.log(step)).max()))
        if moved < _SETTLED:
            break
    return factors


def unbind(model: onnx.ModelProto) -> None:
    """Relu in place of the bounded Clips between pairs; changes ``model`` and its function.

    The paper's section 5.1: the bound would have to differ from channel to channel after scaling.
    What few channels reach beyond it costs less than layers with uneven filters do at few bits.
    """
    limiting = {pair.limiting.output[0] for pair in find_pairs(model) if pair.limiting is not None}
    for node in model.graph.node:
        if node.op_type == "Clip" and node.output[0] in limiting:
            node.op_type = "Relu"
            del node.input[1:]


def apply(model: onnx.ModelProto, factors: Mapping[str, Doubles]) -> None:
    """Divide layers by their factors and multiply what reads them; changes ``model``."""
    for pair in find_pairs(model):
        factor = factors.get(pair.before.name)
        if factor is None:
            continue
        stored = constants(model)
        before, after = pair.before, pair.after
        first = before.filters_first(stored[before.weight]).astype(np.float64)
        first = first / factor.reshape(-1, *(1,) * (first.ndim - 1))
        values = {before.weight: before.as_stored(first)}
        if before.bias is not None:
            values[before.bias] = doubles(model, before.bias) / factor
        write(model, values)
        second = after.filters_first(constants(model)[after.weight]).astype(np.float64)
        write(model, {after.weight: after.as_stored(second * _spread(factor, after))})


def _upper_bound(node: onnx.NodeProto, stored: Mapping[str, NDArray[np.generic]]) -> float | None:
    """Of a Clip that begins at 0, else None."""
    if node.op_type != "Clip" or len(node.input) < 2 or node.input[1] not in stored:
        return None
    if stored[node.input[1]].item() != 0:
        return None
    if len(node.input) < 3 or not node.input[2]:
        return np.inf
    return float(stored[node.input[2]].item()) if node.input[2] in stored else None


def _channels_before(layer: Layer) -> int:
    return layer.shape[1] * layer.groups if len(layer.shape) > 1 else 0


def _by_input(weights: Doubles, layer: Layer) -> Doubles:
    """The size per input channel."""
    groups = layer.groups
    squares = np.square(weights).reshape(groups, weights.shape[0] // groups, weights.shape[1], -1)
    return np.asarray(np.sqrt(squares.mean(axis=(1, 3))).reshape(-1))


def _spread(factor: Doubles, layer: Layer) -> Doubles:
    """Factors per input channel, shaped to multiply filters-first weights."""
    groups, filters = layer.groups, layer.shape[0]
    per_filter = np.repeat(factor.reshape(groups, -1), filters // groups, axis=0)
    return per_filter.reshape(filters, -1, *(1,) * (len(layer.shape) - 2))


def _step(first: Doubles, after: Doubles) -> Doubles:
    before = np.sqrt(np.square(first).reshape(len(first), -1).mean(axis=1))
    is_used = (before > 0) & (after > 0)
    ratio = np.where(is_used, before, 1.0) / np.where(is_used, after, 1.0)
    return np.clip(np.sqrt(ratio), 1 / _LARGEST_STEP, _LARGEST_STEP)


def _limited(total: Doubles, pair: Pair, peaks: Mapping[str, Doubles] | None) -> Doubles:
    if pair.limiting is None or peaks is None:
        return total
    peak = np.maximum(peaks[pair.limiting.input[0]], 0)
    return np.where(peak >= pair.bound, 1.0, np.maximum(total, peak / pair.bound))
