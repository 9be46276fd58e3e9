"""Operators of later opsets that ONNX itself defines by older ones become those.

So far GroupNormalization: neither ONNX's inference of shapes nor its conversion knows it. It is an
InstanceNormalization of the groups, scaled by group (opset 18) or by channel (opset 21).
"""

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from camsdk.compress.importers.grafting import Graft
from camsdk.compress.importers.onnx_opsets import opset_of
from camsdk.compress.importers.runnable import settle_shapes
from camsdk.compress.importers.shape_folding import Shape, known_shapes
from camsdk.errors import UnsupportedModel

_NORM: Final = "GroupNormalization"
_IS_THERE: Final = 18
"""The first opset with GroupNormalization."""


def expand(model: onnx.ModelProto) -> None:
    """Write such operators out, in place; the inputs must have static shapes.

    Raises:
        UnsupportedModel: The shape of what one normalizes is not known, or does not fit; names it.
        ResourceExhausted: A tensor would be too large.
    """
    graph = model.graph
    if opset_of(model) < _IS_THERE or all(node.op_type != _NORM for node in graph.node):
        return
    expansion = _Expansion(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.extend(expansion.of(node) if node.op_type == _NORM else [node])
    del graph.node[:]
    graph.node.extend(nodes)


class _Expansion:
    """Knows the shapes of a model in which every normalization gives the shape that it takes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for node in copy.graph.node:
            if node.op_type == _NORM:
                node.op_type = "Identity"
                del node.input[1:], node.attribute[:]
        self._shapes = known_shapes(settle_shapes(copy).graph) | {
            tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer
        }
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._graft = Graft(model)

    def of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that compute what ``node`` does."""
        given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        x, scale, bias = node.input
        shape, groups = self._shapes.get(x, ()), int(given.get("num_groups", 0))
        if len(shape) < 3 or min(shape) < 1 or groups < 1 or shape[1] % groups:
            raise _refusal(node, f"normalizes {shape} in {groups} groups")
        name = node.output[0]
        grouped, normal = (self._graft.free(f"{name}/{what}") for what in ("groups", "normal"))
        lengths = self._ints(f"{name}/grouped", (shape[0], groups, -1))
        whole = self._ints(f"{name}/shape", shape)
        nodes = [helper.make_node("Reshape", [x, lengths], [grouped], grouped)]
        epsilon = float(given.get("epsilon", 1e-5))
        counts = {self._count(tensor, node) for tensor in (scale, bias)}
        if counts == {groups}:
            return [
                *nodes,
                _instance_norm([grouped, scale, bias], normal, epsilon),
                helper.make_node("Reshape", [normal, whole], [name], node.name or name),
            ]
        if counts != {shape[1]}:
            raise _refusal(node, f"scales {shape[1]} channels by {sorted(counts)} numbers")
        ones, zeros = (
            self._graft.store(f"{name}/{what}", np.full(groups, value, np.float32))
            for what, value in (("one", 1), ("zero", 0))
        )
        back, scaled = (self._graft.free(f"{name}/{what}") for what in ("whole", "scaled"))
        wide = [self._wide(tensor, len(shape), nodes) for tensor in (scale, bias)]
        return [
            *nodes,
            _instance_norm([grouped, ones, zeros], normal, epsilon),
            helper.make_node("Reshape", [normal, whole], [back], back),
            helper.make_node("Mul", [back, wide[0]], [scaled], scaled),
            helper.make_node("Add", [scaled, wide[1]], [name], node.name or name),
        ]

    def _ints(self, name: str, values: Shape) -> str:
        return self._graft.store(name, np.array(values, np.int64))

    def _count(self, tensor: str, node: onnx.NodeProto) -> int:
        """Length of a vector."""
        shape = self._shapes.get(tensor, ())
        if len(shape) != 1:
            raise _refusal(node, f"scales by {tensor!r} of shape {shape}")
        return shape[0]

    def _wide(self, tensor: str, rank: int, nodes: list[onnx.NodeProto]) -> str:
        """A vector along the channels; what is computed is reshaped by a further node."""
        shape = (-1, *(1,) * (rank - 2))
        if tensor in self._stored:
            value: NDArray[Any] = numpy_helper.to_array(self._stored[tensor])
            return self._graft.store(f"{tensor}/wide", value.reshape(shape))
        wide = self._graft.free(f"{tensor}/wide")
        nodes.append(
            helper.make_node("Reshape", [tensor, self._ints(f"{wide}/shape", shape)], [wide], wide)
        )
        return wide


def _instance_norm(inputs: list[str], name: str, epsilon: float) -> onnx.NodeProto:
    return helper.make_node("InstanceNormalization", inputs, [name], name, epsilon=epsilon)


def _refusal(node: onnx.NodeProto, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"node {node.name or node.output[0]!r} ({node.op_type}) {what}")
