"""What each type of Caffe layer becomes in ONNX.

Semantics follow Caffe's layer sources. The one that surprises is pooling: its output is rounded up,
and the mean counts the padding, though only up to the padded image's edge.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np

from camsdk.compress.importers.caffe_call import Call, Operator, axis_of, number_of
from camsdk.compress.importers.caffe_reader import Message
from camsdk.compress.importers.onnx_emitter import Value, plain_value
from camsdk.compress.importers.pooling import Pooling


def _spatial(options: Message, repeated: str, stem: str, default: int) -> tuple[int, int]:
    """A pair (rows, columns) that may be given by one number, two, or ``stem_h``, ``stem_w``."""
    rows, columns = options.integers(f"{stem}_h"), options.integers(f"{stem}_w")
    if rows or columns:
        return (rows or [default])[-1], (columns or [default])[-1]
    numbers = options.integers(repeated) or [default]
    return numbers[0], numbers[-1]


def _window(
    call: Call, options: Message
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride, padding."""
    if len(call.shape) != 4:
        raise call.refusal(f"reads a blob of shape {call.shape}, not an image")
    kernel = _spatial(options, "kernel_size", "kernel", 0)
    stride = _spatial(options, "stride", "stride", 1)
    pad = _spatial(options, "pad", "pad", 0)
    if min(kernel) < 1 or min(stride) < 1 or min(pad) < 0 or max(*kernel, *stride, *pad) > 4096:
        raise call.refusal(f"has kernel {kernel}, stride {stride}, padding {pad}")
    return kernel, stride, pad


def _convolution(call: Call) -> tuple[Value, ...]:
    options = call.options("convolution_param")
    kernel, stride, pad = _window(call, options)
    dilation = _spatial(options, "dilation", "dilation", 1)
    filters, group = options.integer("num_output", 0), options.integer("group", 1)
    if call.layer.kind == "DepthwiseConvolution":
        group = call.shape[1]
    is_transposed = call.layer.kind == "Deconvolution"
    count, channels, *size = call.shape
    if filters < 1 or group < 1 or channels % group or filters % group or min(dilation) < 1:
        raise call.refusal(f"has {filters} filters in {group} groups for {channels} channels")
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if is_transposed:
        shape = (channels, filters // group, *kernel)
        result = [s * (n - 1) + r - 2 * p
                  for n, s, r, p in zip(size, stride, reach, pad, strict=True)]  # fmt: skip
    else:
        shape = (filters, channels // group, *kernel)
        result = [(n + 2 * p - r) // s + 1
                  for n, s, r, p in zip(size, stride, reach, pad, strict=True)]  # fmt: skip
    if min(result) < 1:
        raise call.refusal(f"is larger than its input of {size}")
    inputs = [call.first.name, call.store("weight", call.blob(0, shape))]
    if options.flag("bias_term", True):
        inputs.append(call.store("bias", call.blob(1, (filters,))))
    return call.emit(
        "ConvTranspose" if is_transposed else "Conv", inputs, (count, filters, *result),
        kernel_shape=kernel, strides=stride, pads=[*pad, *pad], dilations=dilation, group=group,
    )  # fmt: skip


def _inner_product(call: Call) -> tuple[Value, ...]:
    options = call.options("inner_product_param")
    axis = axis_of(call, options.integer("axis", 1))
    if axis != 1:
        raise call.refusal(f"has axis {axis}")
    units, width = options.integer("num_output", 0), int(np.prod(call.shape[1:]))
    if units < 1:
        raise call.refusal("has no outputs")
    flat = call.first.name
    if len(call.shape) != 2:
        (flat,) = call.emitter.node("Flatten", [flat], f"{call.name}/flatten", axis=1)
    is_turned = options.flag("transpose", False)
    weight = call.blob(0, (width, units) if is_turned else (units, width))
    inputs = [flat, call.store("weight", weight)]
    if options.flag("bias_term", True):
        inputs.append(call.store("bias", call.blob(1, (units,))))
    return call.emit("Gemm", inputs, (call.shape[0], units), transB=int(not is_turned))


def _batch_norm(call: Call) -> tuple[Value, ...]:
    """With the scale and bias that NVIDIA's branch of Caffe has in the layer itself."""
    options, channels = call.options("batch_norm_param"), call.shape[1:2]
    if not options.flag("use_global_stats", True):
        raise call.refusal("uses statistics of its own, set use_global_stats: true")
    gamma, beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if options.flag("scale_bias", False) or len(call.blobs) > 3:
        gamma, beta = call.blob(3, channels), call.blob(4, channels)
    factor = float(call.blob(2, (1,))[0]) if len(call.blobs) > 2 else 1.0
    factor = 0.0 if factor == 0 else 1 / factor
    inputs = [
        call.first.name,
        call.store("gamma", gamma),
        call.store("beta", beta),
        call.store("mean", call.blob(0, channels) * np.float32(factor)),
        call.store("variance", call.blob(1, channels) * np.float32(factor)),
    ]
    epsilon = options.number("eps", 1e-5)
    return call.emit("BatchNormalization", inputs, call.shape, epsilon=epsilon)


def _scale(call: Call) -> tuple[Value, ...]:
    options = call.options("scale_param")
    if len(call.bottoms) != 1 or options.integer("axis", 1) != 1 or len(call.shape) < 2:
        raise call.refusal("scales by a blob, or another axis than the channels")
    if options.integer("num_axes", 1) != 1:
        raise call.refusal("scales along several axes")
    channels = call.shape[1:2]
    gamma = call.blob(0, channels)
    beta = call.blob(1, channels) if options.flag("bias_term", False) else np.zeros_like(gamma)
    before = call.emitter.producer(call.first.name)
    if before is not None and before.op_type == "BatchNormalization":
        # The plain normalization is left without use and vanishes, unless others read it too.
        old = [call.emitter.stored(before.input[i]).astype(np.float32) for i in (1, 2)]
        merged = [old[0] * gamma, old[1] * gamma + beta]
        inputs = [before.input[0], call.store("gamma", merged[0]), call.store("beta", merged[1])]
        inputs += before.input[3:]
        epsilon = before.attribute[0].f
        return call.emit("BatchNormalization", inputs, call.shape, epsilon=epsilon)
    wide = (-1, *(1,) * (len(call.shape) - 2))
    scaled = call.emitter.node(
        "Mul", [call.first.name, call.store("gamma", gamma.reshape(wide))], f"{call.name}/scaled"
    )
    return call.emit("Add", [scaled[0], call.store("beta", beta.reshape(wide))], call.shape)


def _bias(call: Call) -> tuple[Value, ...]:
    if len(call.bottoms) != 1 or call.options("bias_param").integer("axis", 1) != 1:
        raise call.refusal("adds a blob, or along another axis than the channels")
    wide = (-1, *(1,) * (len(call.shape) - 2))
    beta = call.blob(0, call.shape[1:2]).reshape(wide)
    return call.emit("Add", [call.first.name, call.store("beta", beta)], call.shape)


def _pooling(call: Call) -> tuple[Value, ...]:
    options = call.options("pooling_param")
    method = options.text("pool", "MAX")
    if method not in ("MAX", "AVE", "0", "1"):
        raise call.refusal(f"pools by {method}")
    is_max = method in ("MAX", "0")
    if options.flag("global_pooling", False):
        op = "GlobalMaxPool" if is_max else "GlobalAveragePool"
        return call.emit(op, [call.first.name], (*call.shape[:2], 1, 1))
    kernel, stride, pad = _window(call, options)
    is_ceil = options.flag("ceil_mode", True) and options.text("round_mode", "CEIL") == "CEIL"
    pooling = Pooling(is_max, kernel, stride, pad, is_ceil, must_start_inside=True)
    return (pooling.emit(call.emitter, call.first, call.name),)


def _unary(op: str) -> Operator:
    return lambda call: call.emit(op, [call.first.name], call.shape)


def _relu(call: Call) -> tuple[Value, ...]:
    slope = call.options("relu_param").number("negative_slope", 0.0)
    if slope:
        return call.emit("LeakyRelu", [call.first.name], call.shape, alpha=slope)
    return call.emit("Relu", [call.first.name], call.shape)


def _relu6(call: Call) -> tuple[Value, ...]:
    limits = [call.store(what, np.array(value, np.float32)) for what, value in
              (("low", 0), ("high", 6))]  # fmt: skip
    return call.emit("Clip", [call.first.name, *limits], call.shape)


def _prelu(call: Call) -> tuple[Value, ...]:
    is_shared = call.options("prelu_param").flag("channel_shared", False)
    slope = call.blob(0, (1,) if is_shared else call.shape[1:2])
    wide = slope.reshape(-1, *(1,) * (len(call.shape) - 2))
    return call.emit("PRelu", [call.first.name, call.store("slope", wide)], call.shape)


def _elu(call: Call) -> tuple[Value, ...]:
    alpha = call.options("elu_param").number("alpha", 1.0)
    return call.emit("Elu", [call.first.name], call.shape, alpha=alpha)


def _power(call: Call) -> tuple[Value, ...]:
    options = call.options("power_param")
    name, emitter = call.first.name, call.emitter
    for op, key, neutral in (("Mul", "scale", 1.0), ("Add", "shift", 0.0)):
        value = options.number(key, neutral)
        if value != neutral:
            operand = call.store(key, np.array(value, np.float32))
            (name,) = emitter.node(op, [name, operand], f"{call.name}/{key}")
    exponent = call.store("power", np.array(options.number("power", 1.0), np.float32))
    return call.emit("Pow", [name, exponent], call.shape)


def _eltwise(call: Call) -> tuple[Value, ...]:
    options = call.options("eltwise_param")
    kind = options.text("operation", "SUM")
    op = {"PROD": "Mul", "SUM": "Add", "MAX": "Max", "0": "Mul", "1": "Add", "2": "Max"}.get(kind)
    if op is None or len(call.bottoms) < 2:
        raise call.refusal(f"combines {len(call.bottoms)} blobs by {kind}")
    if any(value.shape != call.shape for value in call.bottoms):
        raise call.refusal("combines blobs of different shapes")
    factors = [number_of(call, factor) for factor in options.scalars("coeff")]
    names = [value.name for value in call.bottoms]
    if factors and op == "Add":
        if len(factors) != len(names):
            raise call.refusal(f"has {len(factors)} factors for {len(names)} blobs")
        for index, factor in enumerate(factors):
            if factor != 1:
                operand = call.store(f"factor{index}", np.array(factor, np.float32))
                part = f"{call.name}/factor{index}"
                (names[index],) = call.emitter.node("Mul", [names[index], operand], part)
    total = names[0]
    for index, name in enumerate(names[1:-1]):
        (total,) = call.emitter.node(op, [total, name], f"{call.name}/{index}")
    return call.emit(op, [total, names[-1]], call.shape)


def _concat(call: Call) -> tuple[Value, ...]:
    options = call.options("concat_param")
    axis = axis_of(call, options.integer("axis", options.integer("concat_dim", 1)))
    total = sum(value.shape[axis] for value in call.bottoms)
    shape = (*call.shape[:axis], total, *call.shape[axis + 1 :])
    return call.emit("Concat", [value.name for value in call.bottoms], shape, axis=axis)


def _slice(call: Call) -> tuple[Value, ...]:
    options = call.options("slice_param")
    axis = axis_of(call, options.integer("axis", options.integer("slice_dim", 1)))
    length, count = call.shape[axis], len(call.layer.tops)
    points = options.integers("slice_point")
    if not points:
        if not count or length % count:
            raise call.refusal(f"cannot cut {length} into {count} equal parts")
        points = [length // count * index for index in range(1, count)]
    limits = [0, *points, length]
    sizes = [end - start for start, end in pairwise(limits)]
    if len(sizes) != count or min(sizes) < 1:
        raise call.refusal(f"cuts {length} at {points} for {count} tops")
    inputs = [call.first.name, call.store("sizes", np.array(sizes, np.int64))]
    names = call.emitter.node("Split", inputs, call.name, outputs=count, axis=axis)
    shapes = [(*call.shape[:axis], size, *call.shape[axis + 1 :]) for size in sizes]
    return tuple(map(plain_value, names, shapes))


def _softmax(call: Call) -> tuple[Value, ...]:
    axis = axis_of(call, call.options("softmax_param").integer("axis", 1))
    return call.emit("Softmax", [call.first.name], call.shape, axis=axis)


def _reshaped(call: Call, shape: tuple[int, ...]) -> tuple[Value, ...]:
    if int(np.prod(shape, dtype=np.float64)) != int(np.prod(call.shape, dtype=np.float64)):
        raise call.refusal(f"cannot make {shape} of {call.shape}")
    target = call.store("shape", np.array(shape, np.int64))
    return call.emit("Reshape", [call.first.name, target], shape)


def _flatten(call: Call) -> tuple[Value, ...]:
    options = call.options("flatten_param")
    start, end = (axis_of(call, options.integer(key, default)) for key, default in
                  (("axis", 1), ("end_axis", -1)))  # fmt: skip
    middle = int(np.prod(call.shape[start : end + 1]))
    shape = (*call.shape[:start], middle, *call.shape[end + 1 :])
    if start == 1 and end == len(call.shape) - 1:
        return call.emit("Flatten", [call.first.name], shape, axis=1)
    return _reshaped(call, shape)


def _reshape(call: Call) -> tuple[Value, ...]:
    options = call.options("reshape_param")
    if options.integer("axis", 0) != 0 or options.integer("num_axes", -1) != -1:
        raise call.refusal("reshapes only some axes")
    wanted = options.message("shape").integers("dim")
    known = [call.shape[i] if length == 0 else length for i, length in enumerate(wanted)]
    if known.count(-1) > 1 or any(length < -1 for length in known):
        raise call.refusal(f"reshapes to {wanted}")
    rest = int(np.prod([length for length in known if length != -1], dtype=np.float64))
    total = int(np.prod(call.shape))
    return _reshaped(call, tuple(total // rest if n == -1 else n for n in known))


def _permute(call: Call) -> tuple[Value, ...]:
    order = call.options("permute_param").integers("order")
    order += [axis for axis in range(len(call.shape)) if axis not in order]
    if sorted(order) != list(range(len(call.shape))):
        raise call.refusal(f"permutes by {order}")
    shape = tuple(call.shape[axis] for axis in order)
    return call.emit("Transpose", [call.first.name], shape, perm=order)


def _lrn(call: Call) -> tuple[Value, ...]:
    options = call.options("lrn_param")
    if options.text("norm_region", "ACROSS_CHANNELS") not in ("ACROSS_CHANNELS", "0"):
        raise call.refusal("normalizes within channels")
    return call.emit(
        "LRN", [call.first.name], call.shape, size=options.integer("local_size", 5),
        alpha=options.number("alpha", 1.0), beta=options.number("beta", 0.75),
        bias=options.number("k", 1.0),
    )  # fmt: skip


def _normalize(call: Call) -> tuple[Value, ...]:
    """Of the SSD branch: each pixel's channels are divided by their length, then scaled."""
    options = call.options("norm_param")
    axes = [1, 2, 3] if options.flag("across_spatial", True) else [1]
    is_shared = options.flag("channel_shared", True)
    scale = call.blob(0, (1,) if is_shared else call.shape[1:2])
    name, node = call.name, call.emitter.node
    squares = node("ReduceSumSquare", [call.first.name], f"{name}/squares", axes=axes, keepdims=1)
    epsilon = call.store("epsilon", np.array(options.number("eps", 1e-10), np.float32))
    (sum_,) = node("Add", [squares[0], epsilon], f"{name}/sum")
    (length,) = node("Sqrt", [sum_], f"{name}/length")
    (unit,) = node("Div", [call.first.name, length], f"{name}/unit")
    return call.emit("Mul", [unit, call.store("scale", scale.reshape(-1, 1, 1))], call.shape)


def _crop(call: Call) -> tuple[Value, ...]:
    options = call.options("crop_param")
    if len(call.bottoms) != 2:
        raise call.refusal("needs two bottoms")
    axis, rank = axis_of(call, options.integer("axis", 2)), len(call.shape)
    offsets = options.integers("offset") or [0]
    offsets = offsets * (rank - axis) if len(offsets) == 1 else offsets
    lengths = call.bottoms[1].shape[axis:]
    ends = [start + length for start, length in zip(offsets, lengths, strict=True)]
    if min(offsets) < 0 or any(e > n for e, n in zip(ends, call.shape[axis:], strict=True)):
        raise call.refusal(f"cuts beyond its input of {call.shape}")
    axes = list(range(axis, rank))
    parts = {"starts": offsets, "ends": ends, "axes": axes}
    inputs = [call.store(key, np.array(value, np.int64)) for key, value in parts.items()]
    return call.emit("Slice", [call.first.name, *inputs], (*call.shape[:axis], *lengths))


def _copies(call: Call) -> tuple[Value, ...]:
    return (call.first,) * max(len(call.layer.tops), 1)


OPERATORS: Final[Mapping[str, Operator]] = {
    **dict.fromkeys(("Convolution", "Deconvolution", "DepthwiseConvolution"), _convolution),
    "InnerProduct": _inner_product,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Bias": _bias,
    "Pooling": _pooling,
    "ReLU": _relu,
    "ReLU6": _relu6,
    "PReLU": _prelu,
    "ELU": _elu,
    "Sigmoid": _unary("Sigmoid"),
    "TanH": _unary("Tanh"),
    "AbsVal": _unary("Abs"),
    "Power": _power,
    "Eltwise": _eltwise,
    "Concat": _concat,
    "Slice": _slice,
    "Softmax": _softmax,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "LRN": _lrn,
    "Normalize": _normalize,
    "Crop": _crop,
    **dict.fromkeys(("Dropout", "Split"), _copies),
}
