"""MXNet operators that only move numbers: shapes, orders, slices, padding."""

import numpy as np

from camsdk.compress.importers.mxnet_call import Call, axis_of
from camsdk.compress.importers.onnx_emitter import Array, Value, plain_value


def _to_shape(call: Call, shape: tuple[int, ...]) -> tuple[Value, ...]:
    if np.prod(shape, dtype=np.float64) != np.prod(call.shape, dtype=np.float64):
        raise call.refusal(f"cannot make {shape} of {call.shape}")
    return call.emit("Reshape", [call.tensor(), call.store("shape", longs(shape))], shape)


def longs(values: tuple[int, ...]) -> Array:
    """Numbers as a tensor of int64."""
    return np.array(values, np.int64)


def flatten(call: Call) -> tuple[Value, ...]:
    """``Flatten``."""
    shape = (call.shape[0], int(np.prod(call.shape[1:])))
    return call.emit("Flatten", [call.tensor()], shape, axis=1)


def reshape(call: Call) -> tuple[Value, ...]:
    """With MXNet's codes: 0 copies, -1 infers, -2 copies the rest, -3 joins two, -4 splits."""
    if call.node.flag("reverse"):
        raise call.refusal("reshapes from the right")
    wanted = list(call.node.integers("shape") or call.node.integers("target_shape"))
    source, at = call.shape, 0
    made: list[int] = []
    while wanted:
        code = wanted.pop(0)
        if code == -2:
            made += source[at:]
            at = len(source)
        elif code == -3:
            made.append(source[at] * source[at + 1])
            at += 2
        elif code == -4:
            parts = [wanted.pop(0), wanted.pop(0)]
            for index, other in ((0, 1), (1, 0)):
                if parts[index] == -1:
                    parts[index] = source[at] // parts[other]
            made += parts
            at += 1
        else:
            made.append(source[at] if code == 0 else code)
            at += 1
    if made.count(-1) > 1 or any(length < -1 for length in made):
        raise call.refusal(f"has the shape {call.node.text('shape')}")
    rest = int(np.prod([length for length in made if length != -1], dtype=np.float64))
    total = int(np.prod(source))
    return _to_shape(call, tuple(total // rest if length == -1 else length for length in made))


def expand_dims(call: Call) -> tuple[Value, ...]:
    """``expand_dims``."""
    axis = call.node.integer("axis", 0) % (len(call.shape) + 1)
    return _to_shape(call, (*call.shape[:axis], 1, *call.shape[axis:]))


def transpose(call: Call) -> tuple[Value, ...]:
    """``transpose`` and ``SwapAxis``."""
    rank = len(call.shape)
    order = list(call.node.integers("axes") or range(rank)[::-1])
    if call.node.op == "SwapAxis":
        order = list(range(rank))
        one, other = (axis_of(call, call.node.integer(key, 0)) for key in ("dim1", "dim2"))
        order[one], order[other] = order[other], order[one]
    if sorted(order) != list(range(rank)):
        raise call.refusal(f"has axes {order}")
    shape = tuple(call.shape[axis] for axis in order)
    return call.emit("Transpose", [call.tensor()], shape, perm=order)


def pad_edges(call: Call) -> tuple[Value, ...]:
    """``Pad``."""
    node, widths = call.node, call.node.integers("pad_width")
    mode = node.text("mode", "constant")
    if len(widths) != 2 * len(call.shape) or mode not in ("constant", "edge", "reflect"):
        raise call.refusal(f"pads {widths} by {mode!r}")
    if not all(0 <= width <= 4096 for width in widths):
        raise call.refusal(f"pads {widths}")
    before, after = widths[::2], widths[1::2]
    shape = tuple(n + b + a for n, b, a in zip(call.shape, before, after, strict=True))
    fill = call.store("fill", np.array(node.number("constant_value", 0.0), np.float32))
    inputs = [call.tensor(), call.store("pads", longs((*before, *after))), fill]
    return call.emit("Pad", inputs, shape, mode=mode)


def slice_axis(call: Call) -> tuple[Value, ...]:
    """``slice_axis``."""
    axis = axis_of(call, call.node.integer("axis", 0))
    length = call.shape[axis]
    start, end = call.node.integer("begin", 0), call.node.integer("end", length)
    start, end, _ = slice(start, end).indices(length)
    if end <= start:
        raise call.refusal("leaves nothing")
    parts = {"begin": start, "end": end, "axis": axis}
    inputs = [call.store(key, longs((value,))) for key, value in parts.items()]
    shape = (*call.shape[:axis], end - start, *call.shape[axis + 1 :])
    return call.emit("Slice", [call.tensor(), *inputs], shape)


def slice_channel(call: Call) -> tuple[Value, ...]:
    """``SliceChannel``."""
    axis, count = axis_of(call, call.node.integer("axis", 1)), call.node.integer("num_outputs", 1)
    length = call.shape[axis]
    if count < 1 or length % count or call.node.flag("squeeze_axis"):
        raise call.refusal(f"cuts {length} into {count} parts")
    size = length // count
    inputs = [call.tensor(), call.store("sizes", longs((size,) * count))]
    names = call.emitter.node("Split", inputs, call.name, outputs=count, axis=axis)
    shape = (*call.shape[:axis], size, *call.shape[axis + 1 :])
    return tuple(plain_value(name, shape) for name in names)
