"""What the functions that convert ATen operators share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.onnx_emitter import Array, Emitter
from camsdk.compress.importers.pt2_reader import AtenNode, Tensor
from camsdk.errors import UnsupportedModel


@dataclass(frozen=True)
class Scope:
    """What an operator needs besides its node.

    Attributes:
        tensors: ONNX tensor of each tensor of the program that was made so far.
        shapes: Of every tensor of the program.
        stored: Values of the weights, by their name in the program.
    """

    emitter: Emitter
    tensors: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    stored: Mapping[str, Array]

    def operand(self, value: Any, label: str) -> str:
        """The ONNX tensor of an argument; numbers become float32 scalars."""
        if isinstance(value, Tensor):
            return self.tensors[value.name]
        return self.emitter.initializer(f"{label}/constant", np.array(value, np.float32))

    def shape(self, value: Any) -> tuple[int, ...]:
        """Of an argument that is a tensor."""
        return self.shapes[value.name]

    def ints(self, label: str, values: Sequence[int]) -> str:
        return self.emitter.initializer(label, np.array(values, np.int64))


Operator = Callable[[AtenNode, Scope], tuple[str, ...]]

_OWN_MODULES: Final = ("conv", "linear", "addmm", "batch_norm", "native_batch", "_native_batch")


def label(node: AtenNode) -> str:
    """Layers are called like their modules, other nodes after the module and their own name."""
    if not node.module:
        return node.name
    is_layer = any(part in node.target.split(".")[0] for part in _OWN_MODULES)
    return node.module if is_layer else f"{node.module}/{node.name}"


def refuse(node: AtenNode, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"{label(node)!r} ({node.target}) {what}")


def positive(axes: Any, rank: int) -> list[int]:
    """One axis or several, counted from the first."""
    return [axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]
