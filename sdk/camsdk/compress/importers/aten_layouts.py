"""ATen operators that only move numbers: shapes, orders, slices, padding."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from camsdk.compress.importers.aten_scope import Operator, Scope, label, positive, refuse, spread
from camsdk.compress.importers.pt2_reader import AtenNode

_FAR: Final = 1 << 62
"""Beyond the end of every axis."""


def same(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """The first argument, as the type that the program says of the result."""
    first = node.arguments[next(iter(node.arguments))]
    return (scope.typed(first, scope.type_of(node), label(node)),)


def _shaped(x: str, shape: Sequence[int], name: str, scope: Scope) -> str:
    return scope.emitter.node("Reshape", [x, scope.ints(f"{name}/shape", shape)], name)[0]


def _cut(x: str, axis: int, start: int, end: int, name: str, scope: Scope, step: int = 1) -> str:
    inputs = [scope.ints(f"{name}/limit", [value]) for value in (start, end, axis, step)]
    return scope.emitter.node("Slice", [x, *inputs], name)[0]


def _reshape(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Everything that only changes the shape, which the program states."""
    name, shape = label(node), scope.shapes[node.outputs[0]]
    if node.target == "view.dtype":
        raise refuse(node, "reads the bytes of numbers as another element type")
    first = scope.operand(node.arguments["self"], name)
    if node.target.startswith("flatten") and len(shape) == 2 and shape[0] == 1:
        return scope.emitter.node("Flatten", [first], name, axis=1)
    return (_shaped(first, shape, name, scope),)


def _permute(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    rank = len(scope.shape(given["self"]))
    order = list(range(rank))
    if "dims" in given:
        order = positive(given["dims"], rank)
    elif node.target.split(".")[0] in ("mT", "mH", "adjoint"):
        order[-2:] = order[:-3:-1]
    else:
        keys = ("axis0", "axis1") if "axis0" in given else ("dim0", "dim1")
        one, other = (given.get(key, i) % rank for i, key in enumerate(keys))
        order[one], order[other] = order[other], order[one]
    return scope.emitter.node("Transpose", [scope.operand(given["self"], name)], name, perm=order)


def _move(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    rank = len(scope.shape(given["self"]))
    sources, targets = (positive(given[key], rank) for key in ("source", "destination"))
    order = [axis for axis in range(rank) if axis not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return scope.emitter.node("Transpose", [scope.operand(given["self"], name)], name, perm=order)


def _cat(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, kind = label(node), scope.type_of(node)
    rank = len(scope.shapes[node.outputs[0]])
    parts = [scope.typed(part, kind, name) for part in node.arguments["tensors"]]
    axis = int(node.arguments.get("dim", 0))
    if node.target.startswith("hstack"):
        axis = min(1, rank - 1)
    return scope.emitter.node("Concat", parts, name, axis=axis)


def _stack(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, rank, kind = label(node), len(scope.shapes[node.outputs[0]]), scope.type_of(node)
    axis = int(node.arguments.get("dim", 0)) % rank
    target = scope.ints(f"{name}/axis", [axis])
    parts = [
        scope.emitter.node("Unsqueeze", [scope.typed(part, kind, name), target], f"{name}/part")[0]
        for part in node.arguments["tensors"]
    ]
    return scope.emitter.node("Concat", parts, name, axis=axis)


def _unbind(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, axis = label(node), int(node.arguments.get("dim", 0))
    x = scope.operand(node.arguments["self"], name)
    made: list[str] = []
    for place in range(len(node.outputs)):
        index = scope.emitter.initializer(f"{name}/index", np.array(place, np.int64))
        made += scope.emitter.node("Gather", [x, index], f"{name}/{place}", axis=axis)
    return tuple(made)


def _split(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    axis = int(given.get("dim", 0))
    sizes = [scope.shapes[output][axis] for output in node.outputs]
    inputs = [scope.operand(given["self"], name), scope.ints(f"{name}/sizes", sizes)]
    return scope.emitter.node("Split", inputs, name, outputs=len(sizes), axis=axis)


def _slice(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    start, axis = given.get("start") or 0, int(given.get("dim", 0))
    end = _FAR if given.get("end") is None else min(given["end"], _FAR)
    if node.target.startswith("narrow"):
        start = start % scope.shape(given["self"])[axis] if start < 0 else start
        end = start + given["length"]
    x = scope.operand(given["self"], name)
    return (_cut(x, axis, start, end, name, scope, given.get("step", 1)),)


def _select(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    index = scope.emitter.initializer(f"{name}/index", np.array(given["index"], np.int64))
    inputs = [scope.operand(given["self"], name), index]
    return scope.emitter.node("Gather", inputs, name, axis=int(given["dim"]))


def _expand(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, shape = label(node), scope.shapes[node.outputs[0]]
    x = scope.operand(node.arguments["self"], name)
    return scope.emitter.node("Expand", [x, scope.ints(f"{name}/shape", shape)], name)


def _repeat(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Counts for more axes than there are add axes in front."""
    given, name = node.arguments, label(node)
    counts, shape = list(given.get("repeats", given.get("dims"))), scope.shape(given["self"])
    x = scope.operand(given["self"], name)
    if len(counts) > len(shape):
        x = _shaped(x, [*[1] * (len(counts) - len(shape)), *shape], f"{name}/wide", scope)
    counts = [1] * (len(shape) - len(counts)) + counts
    return scope.emitter.node("Tile", [x, scope.ints(f"{name}/repeats", counts)], name)


def _repeat_each(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    made, axis = scope.shapes[node.outputs[0]], given.get("dim")
    if not isinstance(given["repeats"], int):
        raise refuse(node, "repeats as often as a tensor says")
    shape = list(scope.shape(given["self"])) if axis is not None else [-1]
    axis = 0 if axis is None else axis % len(shape)
    x = scope.operand(given["self"], name)
    thin = _shaped(x, [*shape[: axis + 1], 1, *shape[axis + 1 :]], f"{name}/thin", scope)
    counts = [1] * (len(shape) + 1)
    counts[axis + 1] = given["repeats"]
    tiled = scope.emitter.node("Tile", [thin, scope.ints(f"{name}/counts", counts)], f"{name}/all")
    return (_shaped(tiled[0], made, name, scope),)


def _flip(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    axes = positive(given["dims"], len(scope.shape(given["self"])))
    rows = [[-1] * len(axes), [-_FAR] * len(axes), axes, [-1] * len(axes)]
    inputs = [scope.ints(f"{name}/limit", row) for row in rows]
    return scope.emitter.node("Slice", [scope.operand(given["self"], name), *inputs], name)


def _roll(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    shape, x = scope.shape(given["self"]), scope.operand(given["self"], name)
    shifts, axes = spread(given["shifts"], 1), given.get("dims")
    is_flat = axes in (None, [])
    lengths = [int(np.prod(shape))] if is_flat else list(shape)
    x = _shaped(x, lengths, f"{name}/flat", scope) if is_flat else x
    for shift, axis in zip(shifts, [0] if is_flat else spread(axes, 1), strict=True):
        at = -shift % lengths[axis]
        parts = [
            _cut(x, axis, at, _FAR, f"{name}/{axis}/end", scope),
            _cut(x, axis, 0, at, f"{name}/{axis}/start", scope),
        ]
        (x,) = scope.emitter.node("Concat", parts, f"{name}/{axis}", axis=axis)
    return (_shaped(x, shape, name, scope),) if is_flat else (x,)


_PAD_MODES: Final = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def _pad(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name, kind = node.arguments, label(node), scope.type_of(node)
    if given.get("mode") == "circular":
        return _wrap(node, scope)
    mode = _PAD_MODES.get(given.get("mode") or "constant")
    if mode is None:
        raise refuse(node, f"pads by {given['mode']}")
    rank, pads = len(scope.shape(given["self"])), given["pad"]
    before, after = [0] * rank, [0] * rank
    for index in range(len(pads) // 2):  # the last axis comes first
        before[rank - 1 - index], after[rank - 1 - index] = pads[2 * index : 2 * index + 2]
    value = scope.typed(given.get("value") or 0, kind, name)
    inputs = [scope.operand(given["self"], name), scope.ints(f"{name}/pads", before + after), value]
    return scope.emitter.node("Pad", inputs, name, mode=mode)


def _wrap(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Padding by the other end of the image; opset 17 has no such mode."""
    given, name = node.arguments, label(node)
    pads, x = given["pad"], scope.operand(given["self"], name)
    if min(pads) < 0:
        raise refuse(node, "takes pixels away while it wraps")
    for index in range(len(pads) // 2):
        axis, (before, after) = -1 - index, pads[2 * index : 2 * index + 2]
        parts = [x]
        if before:
            parts.insert(0, _cut(x, axis, -before, _FAR, f"{name}/{index}/end", scope))
        if after:
            parts.append(_cut(x, axis, 0, after, f"{name}/{index}/start", scope))
        (x,) = scope.emitter.node("Concat", parts, f"{name}/{index}", axis=axis)
    return (x,)


def _pixel_shuffle(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    first = scope.operand(node.arguments["self"], label(node))
    size = int(node.arguments["upscale_factor"])
    return scope.emitter.node("DepthToSpace", [first], label(node), blocksize=size, mode="CRD")


def _turned(node: AtenNode, scope: Scope, split: Sequence[int], order: Sequence[int]) -> str:
    """Reshape, transpose, reshape to what the program says."""
    name = label(node)
    x = _shaped(scope.operand(node.arguments["self"], name), split, f"{name}/split", scope)
    (turned,) = scope.emitter.node("Transpose", [x], f"{name}/turned", perm=list(order))
    return _shaped(turned, scope.shapes[node.outputs[0]], name, scope)


def _pixel_unshuffle(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    *lead, c, h, w = scope.shape(node.arguments["self"])
    r, n = int(node.arguments["downscale_factor"]), len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return (_turned(node, scope, [*lead, c, h // r, r, w // r, r], order),)


def _channel_shuffle(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    n, c, *rest = scope.shape(node.arguments["self"])
    groups = int(node.arguments["groups"])
    order = [0, 2, 1, *range(3, 3 + len(rest))]
    return (_turned(node, scope, [n, groups, c // groups, *rest], order),)


def _unfold(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Windows of one axis; their pixels become the last axis."""
    given, name = node.arguments, label(node)
    shape = scope.shape(given["self"])
    axis = given["dimension"] % len(shape)
    count = scope.shapes[node.outputs[0]][axis]
    scope.check_size(node, (count, given["size"]))
    places = given["step"] * np.arange(count)[:, None] + np.arange(given["size"])
    index = scope.emitter.initializer(f"{name}/places", places.astype(np.int64))
    x = scope.operand(given["self"], name)
    found = scope.emitter.node("Gather", [x, index], f"{name}/windows", axis=axis)
    order = [place for place in range(len(shape) + 1) if place != axis + 1] + [axis + 1]
    return scope.emitter.node("Transpose", found, name, perm=order)


def _columns(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """``im2col``: the pixels under each window, one column a window."""
    given, name, emitter = node.arguments, label(node), scope.emitter
    settings: dict[str, list[int]] = {
        key: spread(given[key], 2) for key in ("kernel_size", "dilation", "padding", "stride")
    }
    *lead, _, h, w = scope.shape(given["self"])
    x = scope.operand(given["self"], name)
    if any(settings["padding"]):
        pads = [*[0] * (len(lead) + 1), *settings["padding"]] * 2
        (x,) = emitter.node("Pad", [x, scope.ints(f"{name}/pads", pads)], f"{name}/padded")
    axis = len(lead) + 1
    for kernel, dilation, pad, stride, length in zip(*settings.values(), (h, w), strict=True):
        count = (length + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        scope.check_size(node, (kernel, count))
        places = dilation * np.arange(kernel)[:, None] + stride * np.arange(count)
        index = emitter.initializer(f"{name}/places", places.astype(np.int64))
        (x,) = emitter.node("Gather", [x, index], f"{name}/windows", axis=axis)
        axis += 2
    n = len(lead)
    order = [*range(n + 1), n + 1, n + 3, n + 2, n + 4]
    (turned,) = emitter.node("Transpose", [x], f"{name}/turned", perm=order)
    return (_shaped(turned, scope.shapes[node.outputs[0]], name, scope),)


_SHAPES: Final = (
    *("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten"),
    *("_unsafe_view", "view_as", "reshape_as"),
)

LAYOUTS: Final[Mapping[str, Operator]] = {
    **dict.fromkeys(_SHAPES, _reshape),
    **dict.fromkeys(("permute", "transpose", "t", "mT", "mH", "adjoint"), _permute),
    **dict.fromkeys(("swapaxes", "swapdims"), _permute),
    **dict.fromkeys(("movedim", "moveaxis"), _move),
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack"), _cat),
    "stack": _stack,
    "unbind": _unbind,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    **dict.fromkeys(("unsafe_split", "unsafe_chunk"), _split),
    **dict.fromkeys(("slice", "narrow"), _slice),
    "select": _select,
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expand),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    "repeat_interleave": _repeat_each,
    "flip": _flip,
    "roll": _roll,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "unfold": _unfold,
    "im2col": _columns,
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh_copy"), same),
    **dict.fromkeys(("to", "_to_copy", "type_as", "float"), same),
}
