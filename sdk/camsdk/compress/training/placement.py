"""Which tensors of a network integer kernels round, and so a training must.

A training quantizes what enters a layer. That is all there is in a chain. Elsewhere integers need
more: what is added, concatenated or given out has a scale too, and whoever reads such a tensor
reads it rounded (arXiv:1712.05877, section 3). Such a tensor is a *joint*: it is rounded to 8 bits
for all its readers, and a layer that wants fewer bits rounds once more for itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import onnx

from camsdk.compress.graph.layers import LAYER_OPERATORS, constants
from camsdk.compress.graph.qdq import QUANTIZED_OPERATORS

JOINT_BITS: Final = 8

PASSING: Final = frozenset(("Reshape", "Transpose", "MaxPool", "Flatten", "Squeeze", "Unsqueeze"))
"""Rounding before them is the same as behind; in integers both sides share one scale."""

_MIXING: Final = frozenset(("AveragePool", "Resize"))
"""They share one scale as well, but make values between its steps."""

_LIMITING: Final = frozenset(("Relu", "Clip"))


@dataclass(frozen=True)
class Placement:
    """What is rounded beside the inputs of layers.

    Attributes:
        joints: Tensors that are rounded to 8 bits.
        repeated: Joint by the tensor that is made from it and rounded with its scale.
        covered: Names of the layers at 8 bits that read a joint, which is enough.
        shared: Names of layers that read one tensor with the same bits, and nothing else reads it.
    """

    joints: tuple[str, ...]
    repeated: Mapping[str, str]
    covered: frozenset[str]
    shared: tuple[tuple[str, ...], ...]


def place(model: onnx.ModelProto, bit_widths: Mapping[str, int]) -> Placement:
    """Find the joints.

    Args:
        model: Float, BatchNorm folded.
        bit_widths: By layer name, of the layers whose inputs have a quantizer of their own.
    """
    placing = _Placing(model, bit_widths)
    for name in (*(value.name for value in model.graph.input), *placing.made):
        placing.visit(name)
    return Placement(
        tuple(placing.joints), placing.repeated, frozenset(placing.covered), tuple(placing.shared)
    )


@dataclass
class _Placing:
    """One walk through a graph, from its inputs to its outputs."""

    model: onnx.ModelProto
    bit_widths: Mapping[str, int]
    joints: list[str] = field(default_factory=list)
    repeated: dict[str, str] = field(default_factory=dict)
    covered: set[str] = field(default_factory=set)
    shared: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph, fixed = self.model.graph, constants(self.model)
        self.made = {
            name: node
            for node in graph.node
            for name in node.output
            if name and node.op_type != "Constant"
        }
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                if name and name not in fixed:
                    self._readers.setdefault(name, []).append(node)
        self._joint_of: dict[str, str] = {}

    def visit(self, tensor: str) -> None:
        """Decide on one tensor; what it is made from has been decided on."""
        producer = self.made.get(tensor)
        operator = producer.op_type if producer is not None else ""
        if producer is not None and operator in PASSING | _MIXING:
            source = self._joint_of.get(producer.input[0])
            if source is not None:
                self._joint_of[tensor] = source
                if operator in _MIXING:
                    self.repeated[tensor] = source
                self._cover(tensor)
            return
        if self._is_limited(tensor) or not self._is_in_integers(tensor, operator):
            return
        layers = self._only_layers(tensor)
        if layers is None:
            self.joints.append(tensor)
            self._joint_of[tensor] = tensor
            self._cover(tensor)
        elif len(layers) > 1:
            self.shared.append(layers)

    def _is_limited(self, tensor: str) -> bool:
        """Whether only a Relu or Clip sees it, which becomes a part of what makes it."""
        readers = self._readers.get(tensor, [])
        return tensor not in self._outputs and len(readers) == 1 and readers[0].op_type in _LIMITING

    def _is_in_integers(self, tensor: str, producer: str) -> bool:
        around = {producer, *(node.op_type for node in self._readers.get(tensor, ()))}
        return not around.isdisjoint(QUANTIZED_OPERATORS)

    def _only_layers(self, tensor: str) -> tuple[str, ...] | None:
        """The layers that read it, if nothing else does and they want the same bits."""
        readers = self._readers.get(tensor, [])
        if tensor in self._outputs or not readers:
            return None
        if len(readers) == 1 and readers[0].op_type in PASSING:
            return self._only_layers(readers[0].output[0])
        wanted = {
            self.bit_widths.get(node.name) if node.op_type in LAYER_OPERATORS else None
            for node in readers
        }
        if len(wanted) != 1 or None in wanted:
            return None
        return tuple(node.name for node in readers)

    def _cover(self, tensor: str) -> None:
        for node in self._readers.get(tensor, ()):
            if self.bit_widths.get(node.name) == JOINT_BITS:
                self.covered.add(node.name)
