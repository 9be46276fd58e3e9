"""Arithmetic of shapes in TensorFlow graphs, which is folded into constants."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.onnx_emitter import Value, constant
from camsdk.compress.importers.tfjs_reader import Array, TfNode
from camsdk.compress.importers.tfjs_windows import Context, Operator
from camsdk.errors import UnsupportedModel

_MAX_FOLDED: Final = 1 << 20
"""Elements of a constant that folding may make."""


def _folded(node: TfNode, inputs: Sequence[Value]) -> Array | None:
    """What the operator gives when all of its inputs are known."""
    compute = _FOLDS.get(node.op)
    if compute is None or any(value.constant is None for value in inputs):
        return None
    result = np.asarray(compute(node, *(value.constant for value in inputs)))
    if result.size > _MAX_FOLDED:
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) would have {result.size} elements")
    return result


def or_folded(operator: Operator) -> Operator:
    """The operator, unless all of its inputs are known: then a constant."""

    def apply(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
        known = _folded(node, inputs)
        return (constant(known),) if known is not None else operator(node, inputs, context)

    return apply


def only_folded(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    """An operator that is nothing but its folding."""
    raise UnsupportedModel(
        f"layer {node.name!r} ({node.op}) works on computed values; only constants are supported",
        "cut the graph before this layer with an output",
    )


def _fill(node: TfNode, lengths: Any, value: Any) -> Array:
    shape = tuple(int(n) for n in lengths.reshape(-1))
    if min(shape, default=0) < 0 or np.prod(shape, dtype=float) > _MAX_FOLDED:
        raise ValueError(f"a constant of shape {shape}")
    return np.full(shape, value)


def _range(node: TfNode, start: Any, limit: Any, delta: Any) -> Array:
    if float(delta) == 0 or abs((float(limit) - float(start)) / float(delta)) > _MAX_FOLDED:
        raise ValueError("an endless range")
    return np.arange(start, limit, delta)


def _sliced(node: TfNode, array: Any, begin: Any, end: Any, strides: Any) -> Array:
    return np.asarray(array[window_of(node, array.ndim, begin, end, strides)])


def window_of(node: TfNode, rank: int, begin: Any, end: Any, strides: Any) -> tuple[Any, ...]:
    """The index of a StridedSlice as numpy has it."""
    if node.integer("ellipsis_mask", 0):
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) uses an ellipsis")
    index: list[Any] = []
    for place, (first, last, step) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << place
        if node.integer("new_axis_mask", 0) & bit:
            index.append(None)
        elif node.integer("shrink_axis_mask", 0) & bit:
            index.append(int(first))
        else:
            lower = None if node.integer("begin_mask", 0) & bit else int(first)
            upper = None if node.integer("end_mask", 0) & bit else int(last)
            index.append(slice(lower, upper, int(step)))
    if len(index) > 2 * rank + 1:
        raise ValueError(f"{len(index)} slices")
    return tuple(index)


def _gathered(node: TfNode, array: Any, index: Any, axis: Any) -> Array:
    if node.integer("batch_dims", 0):
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) gathers in batches")
    return np.asarray(np.take(array, index, axis=int(axis)))


def _tile(node: TfNode, array: Any, repeats: Any) -> Array:
    times = tuple(int(n) for n in np.asarray(repeats).reshape(-1))
    if min(times, default=0) < 0 or array.size * np.prod(times, dtype=float) > _MAX_FOLDED:
        raise ValueError(f"{times} repetitions")
    return np.asarray(np.tile(array, times))


def _cut(node: TfNode, array: Any, begin: Any, size: Any) -> Array:
    """TensorFlow's Slice: a size of -1 takes all that is left."""
    index = tuple(
        slice(int(first), None if length == -1 else int(first) + int(length))
        for first, length in zip(begin, size, strict=True)
    )
    return np.asarray(array[index])


_FOLDS: Final[dict[str, Callable[..., Any]]] = {
    "ConcatV2": lambda node, *rows: np.concatenate(rows[:-1], axis=int(rows[-1])),
    "Exp": lambda node, x: np.exp(x),
    "ExpandDims": lambda node, x, axis: np.expand_dims(x, int(np.asarray(axis).reshape(()))),
    "Fill": _fill,
    "GatherV2": _gathered,
    "Neg": lambda node, x: -x,
    "Pack": lambda node, *rows: np.stack(rows, axis=node.integer("axis", 0)),
    "Prod": lambda node, x, axes: np.prod(x, axis=tuple(np.asarray(axes).reshape(-1).tolist())),
    "Range": _range,
    "Rsqrt": lambda node, x: (1 / np.sqrt(x)).astype(x.dtype),
    "Sqrt": lambda node, x: np.sqrt(x),
    "Square": lambda node, x: x * x,
    "Slice": _cut,
    "StridedSlice": _sliced,
    "Tile": _tile,
}
