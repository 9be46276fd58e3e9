"""One node of MXNet with the values that it reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from camsdk.compress.importers.mxnet_reader import Node
from camsdk.compress.importers.onnx_emitter import Array, Emitter, Value, plain_value
from camsdk.errors import UnsupportedModel


@dataclass(frozen=True)
class Call:
    """One node with the values that it reads."""

    node: Node
    inputs: tuple[Value, ...]
    emitter: Emitter

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def first(self) -> Value:
        return self.inputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first input."""
        return self.first.shape

    def refusal(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"layer {self.name!r} ({self.node.op}) {what}")

    def tensor(self, index: int = 0) -> str:
        """The ONNX tensor of an input."""
        value = self.inputs[index]
        if value.constant is not None:
            return self.emitter.initializer(f"{self.name}.input{index}", value.constant)
        return value.name

    def weight(self, index: int, what: str, shape: tuple[int, ...]) -> Array:
        """A parameter, which must be stored and have this shape."""
        known = self.inputs[index].constant if index < len(self.inputs) else None
        if known is None or known.size != int(np.prod(shape, dtype=np.float64)):
            have = None if known is None else known.shape
            raise self.refusal(f"needs {what} of shape {shape}, the parameters have {have}")
        return known.reshape(shape)

    def store(self, what: str, value: Array) -> str:
        return self.emitter.initializer(f"{self.name}.{what}", value)

    def emit(
        self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any
    ) -> tuple[Value]:
        (made,) = self.emitter.node(op, inputs, self.name, **attributes)
        return (plain_value(made, shape),)


Operator = Callable[[Call], tuple[Value, ...]]


def pair_of(call: Call, key: str, default: int) -> tuple[int, int]:
    """Two whole numbers of a node."""
    numbers = call.node.integers(key) or (default, default)
    if len(numbers) != 2 or not all(0 <= number <= 4096 for number in numbers):
        raise call.refusal(f"has {key} {numbers}")
    return numbers[0], numbers[1]


def image_sizes(call: Call) -> tuple[int, int, int, int]:
    """Batch, channels, rows and columns of the first input."""
    if len(call.shape) != 4 or call.node.text("layout", "NCHW") not in ("NCHW", "None"):
        raise call.refusal(f"reads {call.shape}, not an image with its channels first")
    count, channels, height, width = call.shape
    return count, channels, height, width


def axis_of(call: Call, axis: int) -> int:
    """An axis of the first input, counted from its first."""
    if not -len(call.shape) <= axis < len(call.shape):
        raise call.refusal(f"has axis {axis} for a tensor of shape {call.shape}")
    return axis % len(call.shape)
