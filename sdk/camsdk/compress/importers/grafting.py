"""Nodes that are put before or behind a model of any opset, under names that it does not have."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from camsdk.compress.importers.onnx_opsets import opset_of

_AXES_ARE_INPUTS: Final = 18
"""From this opset on all reductions take their axes as an input."""


class Graft:
    """What is added to one model, in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = self._graph = model.graph
        self._opset = opset_of(model)
        self._taken = {info.name for info in [*graph.input, *graph.output]}
        self._taken.update(tensor.name for tensor in graph.initializer)
        for node in graph.node:
            self._taken.update([node.name, *node.input, *node.output])

    def free(self, name: str) -> str:
        """The name, or one like it that nothing has; taken from now on."""
        while name in self._taken:
            name += "'"
        self._taken.add(name)
        return name

    def store(self, name: str, value: NDArray[Any]) -> str:
        """A constant under a free name, which is returned."""
        name = self.free(name)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def reduction(
        self, op: str, source: str, result: str, axes: list[int], name: str, **attributes: Any
    ) -> onnx.NodeProto:
        """A node such as ReduceMean over ``axes``, as the model's opset has it."""
        if self._opset < _AXES_ARE_INPUTS:
            return helper.make_node(op, [source], [result], name, axes=axes, **attributes)
        stored = self.store(f"{result}/axes", np.array(axes, np.int64))
        return helper.make_node(op, [source, stored], [result], name, **attributes)

    def make_room(self, names: Iterable[str]) -> None:
        """Rename the tensors of the model that have these names."""
        rename = {name: self.free(f"{name}/inside") for name in names if name in self._taken}
        _rename(self._graph, rename)
        self._taken.difference_update(rename)


def _rename(graph: onnx.GraphProto, rename: Mapping[str, str]) -> None:
    for info in [*graph.input, *graph.output, *graph.value_info]:
        info.name = rename.get(info.name, info.name)
    for tensor in graph.initializer:
        tensor.name = rename.get(tensor.name, tensor.name)
    for node in graph.node:
        node.name = rename.get(node.name, node.name)
        node.input[:] = [rename.get(name, name) for name in node.input]
        node.output[:] = [rename.get(name, name) for name in node.output]
