"""ATen operators that choose: by a condition, by place, by order; and that count or sum."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_numbers import NUMBERS
from camsdk.compress.importers.aten_scope import Operator, Scope, label, positive, refuse
from camsdk.compress.importers.pt2_reader import AtenNode, Tensor

_TRUTH: Final = np.dtype(np.bool_)
_COUNT: Final = np.dtype(np.int64)
_SMALL: Final = np.dtype(np.int32)


def _where(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name, kind = node.arguments, label(node), scope.type_of(node)
    if "self" not in given:
        raise refuse(node, "counts what is true, so that its shape depends on data")
    condition = scope.typed(given["condition"], _TRUTH, name)
    parts = [scope.typed(given[key], kind, name) for key in ("self", "other")]
    return scope.emitter.node("Where", [condition, *parts], name)


def _masked_fill(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name, kind = node.arguments, label(node), scope.type_of(node)
    parts = [scope.typed(given[key], kind, name) for key in ("value", "self")]
    return scope.emitter.node("Where", [scope.typed(given["mask"], _TRUTH, name), *parts], name)


def _comparable(value: Tensor, scope: Scope, name: str) -> str:
    """A tensor as a type whose elements onnxruntime orders without loss."""
    kind = scope.types[value.name]
    known = kind if kind.kind == "f" or kind in (_SMALL, _COUNT) else _SMALL
    return scope.typed(value, known, name)


def _place(op: str) -> Operator:
    """Where the largest or the least stands; of a whole tensor, in its flat order."""

    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        given, name = node.arguments, label(node)
        kind = scope.types[given["self"].name]
        ordered = kind if kind.kind == "f" else np.dtype(np.float64)
        x, axis = scope.typed(given["self"], ordered, name), given.get("dim")
        keep = int(bool(given.get("keepdim")))
        if axis is None:
            inputs = [x, scope.ints(f"{name}/all", [-1])]
            flat = scope.emitter.node("Reshape", inputs, f"{name}/flat")
            (place,) = scope.emitter.node(op, flat, f"{name}/place", axis=0, keepdims=0)
            target = scope.ints(f"{name}/shape", scope.shapes[node.outputs[0]])
            return scope.emitter.node("Reshape", [place, target], name)
        return scope.emitter.node(op, [x], name, axis=int(axis), keepdims=keep)

    return emit


def _extreme(reduce: str, place: str, pair: str) -> Operator:
    """``max`` and ``min``: of all, along an axis with the places, or of two tensors."""

    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        given, name = node.arguments, label(node)
        if "other" in given:
            return NUMBERS[pair](node, scope)
        x = _comparable(given["self"], scope, name)
        if "dim" not in given:
            return scope.emitter.node(reduce, [x], name, keepdims=0)
        settings: dict[str, Any] = {"keepdims": int(bool(given.get("keepdim")))}
        axis = int(given["dim"])
        values = scope.emitter.node(reduce, [x], name, axes=[axis], **settings)
        return values + _place(place)(node, scope)

    return emit


def _top(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """``topk``, ``sort`` and ``argsort``; of equal ones the first comes first."""
    given, name = node.arguments, label(node)
    is_top = node.target.startswith("topk")
    axis = int(given.get("dim", -1))
    count = given["k"] if is_top else (scope.shape(given["self"]) or (1,))[axis]
    largest = given.get("largest", True) if is_top else given.get("descending", False)
    x = _comparable(given["self"], scope, name)
    inputs = [x, scope.ints(f"{name}/count", [count])]
    made = scope.emitter.node(
        "TopK", inputs, name, outputs=2, axis=axis, largest=int(bool(largest)), sorted=1
    )
    return made[1:] if node.target.startswith("argsort") else made


def _cumsum(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    axis = scope.emitter.initializer(f"{name}/axis", np.array(given["dim"], np.int64))
    value = scope.typed(given["self"], scope.type_of(node), name)
    return scope.emitter.node("CumSum", [value, axis], name)


def _gather(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    inputs = [scope.operand(given[key], name) for key in ("self", "index")]
    op = "Gather" if node.target.startswith("index_select") else "GatherElements"
    return scope.emitter.node(op, inputs, name, axis=int(given["dim"]))


def _index(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """``x[:, i, j]``: tensors of places, which must stand at axes side by side."""
    given, name = node.arguments, label(node)
    axes = [axis for axis, place in enumerate(given["indices"]) if place is not None]
    places = [given["indices"][axis] for axis in axes]
    if any(scope.types[place.name].kind == "b" for place in places):
        raise refuse(node, "takes what a condition is true for, so that its shape depends on data")
    x = scope.operand(given["self"], name)
    if len(axes) == 1:
        index = scope.operand(places[0], name)
        return scope.emitter.node("Gather", [x, index], name, axis=axes[0])
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise refuse(node, "takes places at axes that do not stand side by side")
    wide = np.broadcast_shapes(*(scope.shape(place) for place in places))
    columns: list[str] = []
    for place in places:
        index = scope.typed(place, _COUNT, name)
        full = scope.emitter.node("Expand", [index, scope.ints(f"{name}/wide", wide)], f"{name}/at")
        last = scope.ints(f"{name}/last", [-1])
        columns += scope.emitter.node("Unsqueeze", [full[0], last], f"{name}/column")
    (table,) = scope.emitter.node("Concat", columns, f"{name}/places", axis=-1)
    rest = [axis for axis in range(len(scope.shape(given["self"]))) if axis not in axes]
    turned = scope.emitter.node("Transpose", [x], f"{name}/turned", perm=axes + rest)
    found = scope.emitter.node("GatherND", [turned[0], table], f"{name}/found")
    new, before = len(wide), axes[0]
    order = [*range(new, new + before), *range(new), *range(new + before, new + len(rest))]
    return scope.emitter.node("Transpose", found, name, perm=order)


def _one_hot(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    depth = scope.emitter.initializer(
        f"{name}/depth", np.array(scope.shapes[node.outputs[0]][-1], np.int64)
    )
    inputs = [scope.operand(given["self"], name), depth, scope.ints(f"{name}/values", [0, 1])]
    return scope.emitter.node("OneHot", inputs, name)


def _axes(node: AtenNode, scope: Scope) -> list[int]:
    rank, axes = len(scope.shape(node.arguments["self"])), node.arguments.get("dim")
    return list(range(rank)) if axes in (None, []) else sorted(positive(axes, rank))


def _reduced(op: str, x: str, axes: Sequence[int], keep: int, name: str, scope: Scope) -> str:
    if op == "ReduceSum":  # whose axes are an input in opset 17
        inputs = [x, scope.ints(f"{name}/axes", axes)]
        return scope.emitter.node(op, inputs, name, keepdims=keep)[0]
    return scope.emitter.node(op, [x], name, axes=list(axes), keepdims=keep)[0]


def _reduce(op: str) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        name, keep = label(node), int(bool(node.arguments.get("keepdim")))
        value = scope.typed(node.arguments["self"], scope.type_of(node), name)
        return (_reduced(op, value, _axes(node, scope), keep, name, scope),)

    return emit


def _truth(op: str) -> Operator:
    """``any`` and ``all``."""

    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        name, keep = label(node), int(bool(node.arguments.get("keepdim")))
        truth = scope.typed(node.arguments["self"], _TRUTH, name)
        number = scope.cast(truth, _SMALL, f"{name}/number")
        made = _reduced(op, number, _axes(node, scope), keep, f"{name}/made", scope)
        return (scope.cast(made, _TRUTH, name),)

    return emit


_NORMS: Final = {1.0: "ReduceL1", 2.0: "ReduceL2"}


def _norm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    order = float(node.arguments.get("ord", 2))
    if order not in _NORMS:
        raise refuse(node, f"is a norm of order {order}")
    return _reduce(_NORMS[order])(node, scope)


def _mean(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    is_image = _axes(node, scope) == [2, 3] and len(scope.shape(given["self"])) == 4
    if is_image and given.get("keepdim"):
        return scope.emitter.node("GlobalAveragePool", [scope.operand(given["self"], name)], name)
    return _reduce("ReduceMean")(node, scope)


def _spread_of_values(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """``var`` and ``std``: squares of what differs from the mean, over the count less one."""
    given, name, axes = node.arguments, label(node), _axes(node, scope)
    less = given.get("correction", int(bool(given.get("unbiased", True))))
    less = 1 if less is None else less
    lengths = [scope.shape(given["self"])[axis] for axis in axes]
    count = float(np.prod(lengths)) - float(less)
    x = scope.operand(given["self"], name)
    middle = _reduced("ReduceMean", x, axes, 1, f"{name}/mean", scope)
    (off,) = scope.emitter.node("Sub", [x, middle], f"{name}/off")
    (square,) = scope.emitter.node("Mul", [off, off], f"{name}/square")
    keep = int(bool(given.get("keepdim")))
    total = _reduced("ReduceSum", square, axes, keep, f"{name}/total", scope)
    is_root = node.target.startswith("std")
    made = scope.emitter.node(
        "Div", [total, scope.operand(count, name)], f"{name}/var" if is_root else name
    )
    return scope.emitter.node("Sqrt", made, name) if is_root else made


CHOICES: Final[Mapping[str, Operator]] = {
    "where": _where,
    "masked_fill": _masked_fill,
    "argmax": _place("ArgMax"),
    "argmin": _place("ArgMin"),
    "max": _extreme("ReduceMax", "ArgMax", "maximum"),
    "min": _extreme("ReduceMin", "ArgMin", "minimum"),
    **dict.fromkeys(("topk", "sort", "argsort"), _top),
    "cumsum": _cumsum,
    **dict.fromkeys(("gather", "index_select"), _gather),
    "index": _index,
    "one_hot": _one_hot,
    "sum": _reduce("ReduceSum"),
    "prod": _reduce("ReduceProd"),
    "amax": _reduce("ReduceMax"),
    "amin": _reduce("ReduceMin"),
    "logsumexp": _reduce("ReduceLogSumExp"),
    "any": _truth("ReduceMax"),
    "all": _truth("ReduceMin"),
    "mean": _mean,
    **dict.fromkeys(("var", "std"), _spread_of_values),
    "linalg_vector_norm": _norm,
}
