"""One layer of Caffe with the blobs that it reads."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camsdk.compress.importers.caffe_reader import Floats, Layer, Message
from camsdk.compress.importers.onnx_emitter import Array, Emitter, Value, plain_value
from camsdk.errors import DataCorrupted, UnsupportedModel


@dataclass(frozen=True)
class Call:
    """One layer with all that it needs.

    Attributes:
        bottoms: Values of the blobs that it reads.
        blobs: Its weights.
        read: Places of the weights that were asked for.
    """

    layer: Layer
    bottoms: tuple[Value, ...]
    blobs: tuple[Floats, ...]
    emitter: Emitter
    read: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.layer.name or f"{self.layer.kind}_{'_'.join(self.layer.tops)}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first bottom."""
        return self.first.shape

    @property
    def first(self) -> Value:
        if not self.bottoms:
            raise self.refusal("reads nothing")
        return self.bottoms[0]

    def options(self, name: str) -> Message:
        return self.layer.text.message(name)

    def refusal(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(f"layer {self.layer.name!r} ({self.layer.kind}) {what}")

    def blob(self, index: int, shape: tuple[int, ...]) -> Floats:
        """A weight in the shape that the layer implies.

        Raises:
            DataCorrupted: It is missing or has another number of elements.
        """
        self.read.add(index)
        count = int(np.prod(shape, dtype=np.float64))
        if index >= len(self.blobs) or self.blobs[index].size != count:
            have = [blob.shape for blob in self.blobs]
            raise DataCorrupted(
                f"layer {self.layer.name!r} ({self.layer.kind}) needs weights of shape {shape}, "
                f"the caffemodel has {have}",
                "prototxt and caffemodel must belong together",
            )
        return self.blobs[index].reshape(shape)

    def check_all_read(self) -> None:
        """Refuse weights that nothing was made of: the layer computes something else too."""
        left = [place for place in range(len(self.blobs)) if place not in self.read]
        if left:
            raise self.refusal(
                f"has {len(self.blobs)} blobs of weights, of which {len(left)} are not known"
            )

    def store(self, what: str, value: Array) -> str:
        return self.emitter.initializer(f"{self.name}.{what}", value)

    def emit(
        self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any
    ) -> tuple[Value]:
        (name,) = self.emitter.node(op, inputs, self.name, **attributes)
        return (plain_value(name, shape),)


Operator = Callable[[Call], tuple[Value, ...]]


def axis_of(call: Call, axis: int) -> int:
    """An axis of the first bottom, counted from its first."""
    rank = len(call.shape)
    if not -rank <= axis < rank:
        raise call.refusal(f"has axis {axis} for a blob of shape {call.shape}")
    return axis % rank


def number_of(call: Call, value: object) -> float:
    """A finite number of a layer."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise call.refusal(f"has the factor {value!r}")
