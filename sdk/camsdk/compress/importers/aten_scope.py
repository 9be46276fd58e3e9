"""What the functions that convert ATen operators share."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from onnx.helper import np_dtype_to_tensor_dtype

from camsdk.compress.importers.onnx_emitter import Array, Emitter
from camsdk.compress.importers.pt2_reader import OTHER_WAYS, AtenNode, Tensor
from camsdk.compress.importers.runnable import MAX_VECTOR_ELEMENTS
from camsdk.errors import ResourceExhausted, UnsupportedModel

MAX_MADE_ELEMENTS: Final = 1 << 26
"""Of all constants together that a program does not hold but names the size of."""


@dataclass(frozen=True)
class Scope:
    """What an operator needs besides its node.

    Attributes:
        tensors: ONNX tensor of each tensor of the program that was made so far.
        shapes: Of every tensor of the program.
        types: Element type of every tensor; all floating types are float32 here.
        stored: Values of the weights, by their name in the program.
        made: How many elements ``check_size`` let through so far.
    """

    emitter: Emitter
    tensors: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, np.dtype[Any]]
    stored: Mapping[str, Array]
    made: Counter[str] = field(default_factory=Counter)

    def check_size(self, node: AtenNode, shape: Sequence[int]) -> None:
        """Called before a constant is made whose size the file says: few bytes may ask for much.

        Raises:
            ResourceExhausted: It, or all such constants of the program, would be too large.
        """
        count = math.prod(max(1, abs(length)) for length in shape)  # lengths of 0 and below too
        self.made["elements"] += count
        if count > MAX_VECTOR_ELEMENTS or self.made["elements"] > MAX_MADE_ELEMENTS:
            raise ResourceExhausted(
                f"{label(node)!r} ({node.target}) asks for a constant of {count} elements, after "
                f"{self.made['elements'] - count} in others",
                f"at most {MAX_VECTOR_ELEMENTS} are made for one layer and {MAX_MADE_ELEMENTS} for "
                "all: export the model for a smaller input",
            )

    def operand(self, value: Any, label: str) -> str:
        """The ONNX tensor of an argument; numbers become float32 scalars."""
        if isinstance(value, Tensor):
            return self.tensors[value.name]
        return self.emitter.initializer(f"{label}/constant", np.array(value, np.float32))

    def typed(self, value: Any, dtype: np.dtype[Any], label: str) -> str:
        """The ONNX tensor of an argument, cast to an element type where it has another."""
        if not isinstance(value, Tensor):
            return self.emitter.initializer(f"{label}/constant", np.array(value, dtype))
        if self.types[value.name] == dtype:
            return self.tensors[value.name]
        return self.cast(self.tensors[value.name], dtype, f"{label}/cast")

    def cast(self, tensor: str, dtype: np.dtype[Any], label: str) -> str:
        """An ONNX tensor as another element type."""
        (made,) = self.emitter.node("Cast", [tensor], label, to=np_dtype_to_tensor_dtype(dtype))
        return made

    def type_of(self, node: AtenNode) -> np.dtype[Any]:
        """Of what a node makes first."""
        return self.types[node.outputs[0]]

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
    """The error of a call that its operator's function does not take."""
    return UnsupportedModel(f"{label(node)!r} ({node.target}, {node.place}) {what}", OTHER_WAYS)


_MEANS_NOTHING: Final = frozenset(
    {
        *("momentum", "p", "train", "training", "implicit", "inplace", "requires_grad"),
        *("cudnn_enabled", "cudnn_enable", "benchmark", "deterministic", "allow_tf32"),
        *("pin_memory", "non_blocking", "copy", "device", "layout", "half_to_float"),
        *("sorted", "stable", "scale_grad_by_freq", "sparse", "sparse_grad"),
    }
)
"""Arguments that do not change what a network computes when it is not trained."""


class _Read(dict[str, Any]):
    """Arguments that remember which of them were looked at."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__(arguments)
        self.unread = dict.fromkeys(arguments)

    def __getitem__(self, key: str) -> Any:
        self.unread.pop(key, None)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.unread.pop(key, None)
        return super().get(key, default)

    def values(self) -> Any:
        """All at once: of the operators whose arguments all mean the same."""
        self.unread.clear()
        return super().values()


def converted(operator: Operator, node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """What an operator's function makes of a node.

    Raises:
        UnsupportedModel: It did not look at a choice or a factor that may mean something. Whole
            numbers and lists are sizes, which the shape of the result says too.
    """
    arguments = _Read(node.arguments)
    made = operator(replace(node, arguments=arguments), scope)
    for name in arguments.unread:
        value = node.arguments[name]
        if isinstance(value, bool | float | str) and name not in _MEANS_NOTHING:
            raise refuse(node, f"has {name}={value!r}, which cannot be imported")
    return made


def common_type(left: Any, right: Any, scope: Scope) -> np.dtype[Any]:
    """The type that PyTorch compares two arguments in: floating beats whole beats true or false.

    A number takes the type of the tensor unless its own kind is higher.
    """
    kinds = [
        scope.types[value.name] if isinstance(value, Tensor) else np.array(value).dtype
        for value in (left, right)
    ]
    if any(kind.kind == "f" for kind in kinds):
        return np.dtype(np.float32)
    tensors = [
        kind for kind, value in zip(kinds, (left, right), strict=True) if isinstance(value, Tensor)
    ]
    highest = np.result_type(*kinds)
    return tensors[0] if len(tensors) == 1 and tensors[0].kind != "b" else highest


def positive(axes: Any, rank: int) -> list[int]:
    """One axis or several, counted from the first."""
    return [axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]


def spread(value: Any, rank: int, default: int | None = None) -> list[int]:
    """One number for all axes, or one for each."""
    if value is None or value == []:
        assert default is not None
        return [default] * rank
    numbers = [value] if isinstance(value, int) else [int(number) for number in value]
    return numbers * rank if len(numbers) == 1 else numbers
