"""The first and last layers of a model keep more bits than the others.

They hold few of the weights, nothing before or behind them makes up for their errors, and every
tool that others compare with leaves them at 8 bits.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import onnx

from camsdk.compress.graph.layers import list_layers
from camsdk.compress.options import CodeSet, LayerOptions, QuantizeOptions, WeightOptions

EDGE_BITS: Final = 7
"""Of weights there: with 8, x86 processors before VNNI would saturate (``compressing``)."""
_ACTIVATION_BITS: Final = 8


def find_edges(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the layers that no other comes before, or that no other follows, in graph order.

    Of a detector with several heads, all their last layers.
    """
    layers = {layer.name for layer in list_layers(model)}
    before: dict[str, frozenset[str]] = {}
    first: set[str] = set()
    followed: set[str] = set()
    for node in model.graph.node:
        reached = frozenset[str]().union(*(before.get(name, frozenset()) for name in node.input))
        if node.name in layers:
            followed |= reached
            if not reached:
                first.add(node.name)
            reached = frozenset({node.name})
        before.update(dict.fromkeys(node.output, reached))
    names = [node.name for node in model.graph.node if node.name in layers]
    return tuple(name for name in names if name in first or name not in followed)


def with_precise_edges(model: onnx.ModelProto, options: QuantizeOptions) -> QuantizeOptions:
    """``with_precise`` at the edges of a model."""
    return with_precise(options, find_edges(model))


def with_precise(options: QuantizeOptions, names: Iterable[str]) -> QuantizeOptions:
    """The same options with ``EDGE_BITS`` for the weights of some layers and 8 for what enters.

    Layers that ``options.layers`` names, and options with as many bits for all, stay.
    """
    of = options.weights.code_set.bit_width
    weights, activations = options.weights, options.activations
    if of < EDGE_BITS:
        weights = WeightOptions(CodeSet(EDGE_BITS), weights.granularity)
    if activations.bit_width < _ACTIVATION_BITS:
        activations = replace(activations, bit_width=_ACTIVATION_BITS)
    edge = LayerOptions(weights, activations)
    edges = sorted(set(names) - options.layers.keys())
    return replace(options, layers={**options.layers, **dict.fromkeys(edges, edge)})
