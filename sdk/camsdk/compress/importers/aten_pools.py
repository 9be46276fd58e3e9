"""ATen's pooling, along one, two or three axes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_scope import Operator, Scope, label, refuse, spread
from camsdk.compress.importers.pt2_reader import AtenNode

MAX_WINDOWS: Final = 64
"""Along one axis, where windows differ in size and each becomes nodes of its own."""


def _pads(node: AtenNode, scope: Scope, dilation: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and after, so that rounding down gives the program's size.

    PyTorch rounds up only as long as the last window begins within the image or the padding before
    it; ONNX's ``ceil_mode`` does not know that rule.
    """
    given, rank = node.arguments, len(dilation)
    kernel, before = spread(given["kernel_size"], rank), spread(given.get("padding"), rank, 0)
    if not given.get("ceil_mode"):
        return before, before
    stride = spread(given.get("stride") or kernel, rank)
    sizes = scope.shape(given["self"])[-rank:], scope.shapes[node.outputs[0]][-rank:]
    after = [
        max(0, (made - 1) * step + reach * (taps - 1) + 1 - length - pad)
        for length, made, step, taps, reach, pad in zip(
            *sizes, stride, kernel, dilation, before, strict=True
        )
    ]
    return before, after


def _pool(op: str, node: AtenNode, scope: Scope, x: str, **settings: Any) -> tuple[str, ...]:
    """The node; an image without a batch gets one for it, as ONNX needs."""
    name, rank = label(node), _rank(node)
    kernel = spread(node.arguments["kernel_size"], rank)
    settings |= {
        "kernel_shape": kernel,
        "strides": spread(node.arguments.get("stride") or kernel, rank),
    }
    if len(scope.shape(node.arguments["self"])) == rank + 2:
        return scope.emitter.node(op, [x], name, **settings)
    first = scope.ints(f"{name}/axis", [0])
    batch = scope.emitter.node("Unsqueeze", [x, first], f"{name}/batch")
    made = scope.emitter.node(op, batch, f"{name}/pooled", **settings)
    return scope.emitter.node("Squeeze", [made[0], first], name)


def _rank(node: AtenNode) -> int:
    return next(rank for rank in (1, 2, 3) if f"pool{rank}d" in node.target)


def _max_pool(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    dilation = spread(given.get("dilation"), _rank(node), 1)
    before, after = _pads(node, scope, dilation)
    x = scope.operand(given["self"], name)
    return _pool("MaxPool", node, scope, x, pads=before + after, dilations=dilation)


def _average_pool(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Padding counts unless it is told not to; what rounding up adds beyond it never does."""
    given, name, rank = node.arguments, label(node), _rank(node)
    before, after = _pads(node, scope, [1] * rank)
    counts = bool(given.get("count_include_pad", True) and any(before))
    x = scope.operand(given["self"], name)
    divisor = given.get("divisor_override")
    if divisor:
        pixels = int(np.prod(spread(given["kernel_size"], rank)))
        if given.get("ceil_mode"):
            raise refuse(node, "rounds its size up and divides by a number of its own")
        factor = scope.operand(pixels / divisor, name)
        (x,) = scope.emitter.node("Mul", [x, factor], f"{name}/scaled")
        counts = any(before)
    if given.get("ceil_mode") and counts:
        whole = [0] * (len(scope.shape(given["self"])) - rank) + before
        zero = scope.operand(0.0, name)
        inputs = [x, scope.ints(f"{name}/pads", whole * 2), zero]
        (x,) = scope.emitter.node("Pad", inputs, f"{name}/padded")
        after = [max(0, end - pad) for end, pad in zip(after, before, strict=True)]
        before, counts = [0] * rank, False
    return _pool("AveragePool", node, scope, x, pads=before + after, count_include_pad=int(counts))


def _adaptive_pool(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Equal windows where the output divides the input; others differ in size."""
    name, rank = label(node), _rank(node)
    size = scope.shape(node.arguments["self"])[-rank:]
    wanted = scope.shapes[node.outputs[0]][-rank:]
    x = scope.operand(node.arguments["self"], name)
    is_mean, has_batch = "avg" in node.target, len(scope.shape(node.arguments["self"])) == rank + 2
    if set(wanted) == {1} and has_batch:
        return scope.emitter.node("GlobalAveragePool" if is_mean else "GlobalMaxPool", [x], name)
    if has_batch and not any(long % count for long, count in zip(size, wanted, strict=True)):
        window = [length // count for length, count in zip(size, wanted, strict=True)]
        op = "AveragePool" if is_mean else "MaxPool"
        return scope.emitter.node(op, [x], name, kernel_shape=window, strides=window)
    if max(wanted) > MAX_WINDOWS:
        raise refuse(node, f"pools {size} to {wanted}, which does not divide it")
    op = "ReduceMean" if is_mean else "ReduceMax"
    for axis, (length, count) in enumerate(zip(size, wanted, strict=True), start=-rank):
        x = _windows(op, x, axis, length, count, f"{name}/{axis + rank}", scope)
    return (x,)


def _windows(op: str, x: str, axis: int, length: int, count: int, name: str, scope: Scope) -> str:
    """Pool one axis to ``count`` windows; window i is from floor(i n / count) on."""
    parts: list[str] = []
    for place in range(count):
        limits = [place * length // count], [-(-(place + 1) * length // count)], [axis]
        inputs = [scope.ints(f"{name}/limit", limit) for limit in limits]
        part = scope.emitter.node("Slice", [x, *inputs], f"{name}/{place}/part")
        parts += scope.emitter.node(op, part, f"{name}/{place}", axes=[axis], keepdims=1)
    return scope.emitter.node("Concat", parts, name, axis=axis)[0]


POOLS: Final[Mapping[str, Operator]] = {
    **{f"max_pool{rank}d": _max_pool for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d": _average_pool for rank in (1, 2, 3)},
    **{f"adaptive_avg_pool{rank}d": _adaptive_pool for rank in (1, 2, 3)},
    "_adaptive_avg_pool2d": _adaptive_pool,
    **{f"adaptive_max_pool{rank}d": _adaptive_pool for rank in (1, 2, 3)},
}
