"""Transposes that a change of layout left behind: moved together and cancelled.

A Transpose is moved behind what works on each element by itself (and behind a Concat, along another
axis) as long as no other node reads it; two that meet become one, or none. Neither adds a node.
"""

from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from camsdk.compress.graph.layers import Array, attributes, constants

_UNARY: Final = frozenset(
    ("Abs", "Clip", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg",
     "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Tanh")
)  # fmt: skip
_ELEMENTWISE: Final = frozenset(("Add", "Div", "Max", "Min", "Mul", "Sub"))

Perm = tuple[int, ...]


def cancel_transposes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with as few transposes as moving them down and merging them leaves.

    Args:
        model: Constants as initializers; nodes in topological order. Transposes without ``perm``
            stay.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    while _Pass(result).run():
        pass
    return result


class _Pass:
    """One walk over the graph, in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._stored = constants(model)
        self._outputs = {value.name for value in model.graph.output}
        self._readers: dict[str, int] = {}
        for node in model.graph.node:
            for tensor in node.input:
                self._readers[tensor] = self._readers.get(tensor, 0) + 1
        self._transposes = {
            node.output[0]: node
            for node in model.graph.node
            if node.op_type == "Transpose" and attributes(node).get("perm")
        }

    def run(self) -> bool:
        """Make the first change there is; False if there is none."""
        for index, node in enumerate(self._graph.node):
            if node.op_type == "Transpose":
                if self._merge(node):
                    return True
            elif self._sink(index, node):
                return True
        return False

    def _perm(self, tensor: str) -> Perm:
        return tuple(attributes(self._transposes[tensor])["perm"])  # type: ignore[arg-type] # ints

    def _merge(self, node: onnx.NodeProto) -> bool:
        """Two transposes in a row; what was between them may have other readers."""
        before = self._transposes.get(node.input[0])
        if before is None or node.output[0] not in self._transposes:
            return False
        first, second = self._perm(before.output[0]), self._perm(node.output[0])
        perm = [first[axis] for axis in second]
        node.input[0] = before.input[0]
        del node.attribute[:]
        if perm == sorted(perm):
            node.op_type = "Identity"
        else:
            node.attribute.append(helper.make_attribute("perm", perm))
        self._drop_if_unread(before)
        return True

    def _sink(self, index: int, node: onnx.NodeProto) -> bool:
        """A node whose inputs are all transposed the same way comes before one Transpose."""
        count = 1 if node.op_type in _UNARY else len(node.input)
        if node.op_type not in _UNARY | _ELEMENTWISE | {"Concat"}:
            return False
        moving = [name for name in node.input[:count] if name not in self._stored]
        if not moving or not all(self._is_free(name) for name in moving):
            return False
        perms = {self._perm(name) for name in moving}
        if len(perms) != 1 or len(set(moving)) != len(moving):
            return False
        (perm,) = perms
        # A constant of more axes adds axes to the result, which this permutation has not.
        if any(np.ndim(self._stored.get(name, 0)) > len(perm) for name in node.input[:count]):
            return False
        if node.op_type == "Concat":
            axis = attributes(node)["axis"]
            assert isinstance(axis, int)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("axis", perm[axis % len(perm)]))
        self._swap(index, node, count, perm)
        return True

    def _is_free(self, tensor: str) -> bool:
        """Whether it comes from a Transpose and nobody else reads it."""
        is_alone = self._readers.get(tensor) == 1 and tensor not in self._outputs
        return tensor in self._transposes and is_alone

    def _swap(self, index: int, node: onnx.NodeProto, count: int, perm: Perm) -> None:
        gone = []
        for place in range(count):
            name = node.input[place]
            if name in self._stored:
                node.input[place] = self._untransposed(name, perm)
            else:
                gone.append(self._transposes[name])
                node.input[place] = self._transposes[name].input[0]
        output = node.output[0]
        node.output[0] = f"{output}/untransposed"
        after = helper.make_node(
            "Transpose", [node.output[0]], [output], f"{output}/transpose", perm=list(perm)
        )
        self._graph.node.insert(index + 1, after)
        self._readers[node.output[0]] = 1
        for transpose in gone:
            self._readers[transpose.output[0]] = 0
            self._drop_if_unread(transpose)

    def _untransposed(self, name: str, perm: Perm) -> str:
        """A constant in the layout before the Transpose."""
        value: Array = self._stored[name]
        if value.size == 1 and value.ndim <= 1:
            return name
        padded = value.reshape((1,) * (len(perm) - value.ndim) + value.shape)
        own = f"{name}/untransposed"
        while own in self._stored:
            own += "'"
        array = np.ascontiguousarray(np.transpose(padded, np.argsort(perm).tolist()))
        self._graph.initializer.append(numpy_helper.from_array(array, own))
        return own

    def _drop_if_unread(self, node: onnx.NodeProto) -> None:
        tensor = node.output[0]
        is_read = any(tensor in other.input for other in self._graph.node)
        if not is_read and tensor not in self._outputs:
            self._graph.node.remove(node)
