"""What a QuantizeLinear limits, made visible: a Clip in front of it.

``qdq.emit_qdq`` lets Relu and Clip vanish in the range behind them, so whoever takes the pairs away
again (``importers.dequantize``) needs these limits to be nodes first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

MOVES: Final = frozenset(
    {
        *("Concat", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice"),
        *("Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)
"""Operators that only pick and move values: the same in integers as in float."""

Limits = tuple[float, float]


def with_limits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with a Clip in front of every QuantizeLinear whose input may lie outside of its range.

    A Clip of codes, as low bits have it behind the QuantizeLinear, becomes part of that range.

    Args:
        model: In QDQ form, nodes in topological order; scales and zero points that are no
            initializers, or of more than one value, are left alone.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    walk = _Walk(stored, _bounds_of_codes(model, stored))
    for node in model.graph.node:
        walk.take(node)
    del result.graph.node[:]
    result.graph.node.extend(walk.nodes)
    result.graph.initializer.extend(walk.added)
    return result


def _bounds_of_codes(
    model: onnx.ModelProto, stored: Mapping[str, NDArray[np.generic]]
) -> dict[str, onnx.NodeProto]:
    """Clip nodes with a constant upper bound, by the code tensor that they alone read."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            after = readers.get(node.output[0], [])
            is_bound = len(after) == 1 and after[0].op_type == "Clip"
            if is_bound and len(after[0].input) == 3 and after[0].input[2] in stored:
                found[node.output[0]] = after[0]
    return found


@dataclass
class _Walk:
    """Collects nodes, and within which limits tensors lie."""

    stored: Mapping[str, NDArray[np.generic]]
    bounds: Mapping[str, onnx.NodeProto]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: list[onnx.TensorProto] = field(default_factory=list)
    _limits: dict[str, Limits] = field(default_factory=dict)
    _rename: dict[str, str] = field(default_factory=dict)

    def take(self, node: onnx.NodeProto) -> None:
        """The next node in the order of the graph."""
        if node.op_type == "Clip" and node.input[0] in self.bounds:
            self._rename[node.output[0]] = node.input[0]
            return
        copied = onnx.NodeProto.FromString(node.SerializeToString())
        copied.input[:] = [self._rename.get(name, name) for name in node.input]
        if node.op_type == "QuantizeLinear" and node.input[0] not in self.stored:
            self._limit(copied)
        elif node.op_type == "DequantizeLinear" or node.op_type in MOVES:
            within = {self._limits.get(name) for name in copied.input if name not in self.stored}
            if len(within) == 1 and (limits := within.pop()) is not None:
                self._limits.update(dict.fromkeys(copied.output, limits))
        self.nodes.append(copied)

    def _limit(self, node: onnx.NodeProto) -> None:
        scale, zero = (self.stored.get(name) for name in node.input[1:3])
        if scale is None or zero is None or scale.size != 1:
            return
        limits = self._range(node.output[0], float(scale.item()), zero)
        if self._limits.get(node.input[0]) != limits:
            names = [f"{node.output[0]}.{which}" for which in ("lowest", "highest", "limited")]
            for name, value in zip(names, limits, strict=False):
                self.added.append(numpy_helper.from_array(np.array(value, np.float32), name))
            clip = helper.make_node("Clip", [node.input[0], *names[:2]], names[2:], names[2])
            self.nodes.append(clip)
            node.input[0] = names[2]
        self._limits[node.output[0]] = limits

    def _range(self, code: str, scale: float, zero: NDArray[np.generic]) -> Limits:
        info = np.iinfo(zero.dtype.name)
        largest = info.max
        if code in self.bounds:
            largest = int(self.stored[self.bounds[code].input[2]].item())
        offset = int(zero.item())
        return (info.min - offset) * scale, (largest - offset) * scale
