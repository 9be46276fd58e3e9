"""What each MXNet operator becomes in ONNX.

Defaults and semantics follow the operators' parameter structures in MXNet 1.9, which also reads
what older versions wrote.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.mxnet_reader import Node
from camsdk.compress.importers.onnx_emitter import Array, Emitter, Value, plain_value
from camsdk.compress.importers.pooling import Pooling
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


def _pair(call: Call, key: str, default: int) -> tuple[int, int]:
    numbers = call.node.integers(key) or (default, default)
    if len(numbers) != 2 or not all(0 <= number <= 4096 for number in numbers):
        raise call.refusal(f"has {key} {numbers}")
    return numbers[0], numbers[1]


def _image(call: Call) -> tuple[int, int, int, int]:
    if len(call.shape) != 4 or call.node.text("layout", "NCHW") not in ("NCHW", "None"):
        raise call.refusal(f"reads {call.shape}, not an image with its channels first")
    count, channels, height, width = call.shape
    return count, channels, height, width


def _convolution(call: Call) -> tuple[Value, ...]:
    node, (count, channels, *size) = call.node, _image(call)
    kernel, pad = _pair(call, "kernel", 0), _pair(call, "pad", 0)
    stride, dilate = _pair(call, "stride", 1), _pair(call, "dilate", 1)
    filters, group = node.integer("num_filter", 0), node.integer("num_group", 1)
    if filters < 1 or group < 1 or channels % group or filters % group:
        raise call.refusal(f"has {filters} filters in {group} groups for {channels} channels")
    if min(*kernel, *stride, *dilate) < 1:
        raise call.refusal(f"has kernel {kernel}, stride {stride}, dilation {dilate}")
    is_transposed = node.op == "Deconvolution"
    reach = [d * (k - 1) + 1 for d, k in zip(dilate, kernel, strict=True)]
    attributes: dict[str, object] = {}
    sides = list(zip(size, stride, reach, pad, strict=True))
    if is_transposed:
        if node.integers("target_shape", (0, 0)) != (0, 0):
            raise call.refusal("has a target_shape, export it with pad and adj")
        adjust = _pair(call, "adj", 0)
        attributes["output_padding"] = adjust
        shape = (channels, filters // group, *kernel)
        result = [
            s * (n - 1) + r - 2 * p + a for (n, s, r, p), a in zip(sides, adjust, strict=True)
        ]
    else:
        shape = (filters, channels // group, *kernel)
        result = [(n + 2 * p - r) // s + 1 for n, s, r, p in sides]
    if min(result) < 1:
        raise call.refusal(f"is larger than its input of {size}")
    inputs = [call.tensor(), call.store("weight", call.weight(1, "weights", shape))]
    if not node.flag("no_bias", is_transposed):
        inputs.append(call.store("bias", call.weight(2, "biases", (filters,))))
    op = "ConvTranspose" if is_transposed else "Conv"
    return call.emit(
        op, inputs, (count, filters, *result), kernel_shape=kernel, strides=stride,
        pads=[*pad, *pad], dilations=dilate, group=group, **attributes,
    )  # fmt: skip


def _fully_connected(call: Call) -> tuple[Value, ...]:
    node, units = call.node, call.node.integer("num_hidden", 0)
    if not node.flag("flatten", True) and len(call.shape) != 2:
        raise call.refusal(f"is applied along the last axis of {call.shape}")
    flat = call.tensor()
    if len(call.shape) != 2:
        (flat,) = call.emitter.node("Flatten", [flat], f"{call.name}/flatten", axis=1)
    width = int(np.prod(call.shape[1:]))
    inputs = [flat, call.store("weight", call.weight(1, "weights", (units, width)))]
    if not node.flag("no_bias"):
        inputs.append(call.store("bias", call.weight(2, "biases", (units,))))
    return call.emit("Gemm", inputs, (call.shape[0], units), transB=1)


def _batch_norm(call: Call) -> tuple[Value, ...]:
    node = call.node
    if node.integer("axis", 1) != 1 or len(call.shape) < 2:
        raise call.refusal("normalizes another axis than the channels")
    channels = call.shape[1:2]
    gamma = call.weight(1, "gamma", channels)
    if node.flag("fix_gamma", True):
        gamma = np.ones_like(gamma)  # whatever is stored
    inputs = [call.tensor(), call.store("gamma", gamma)]
    for index, what in ((2, "beta"), (3, "mean"), (4, "variance")):
        inputs.append(call.store(what, call.weight(index, what, channels)))
    epsilon = node.number("eps", 1e-3)
    return call.emit("BatchNormalization", inputs, call.shape, epsilon=epsilon)


def _instance_norm(call: Call) -> tuple[Value, ...]:
    channels = call.shape[1:2]
    inputs = [call.tensor(), call.store("gamma", call.weight(1, "gamma", channels))]
    inputs.append(call.store("beta", call.weight(2, "beta", channels)))
    epsilon = call.node.number("eps", 1e-3)
    return call.emit("InstanceNormalization", inputs, call.shape, epsilon=epsilon)


def _unary(op: str) -> Operator:
    return lambda call: call.emit(op, [call.tensor()], call.shape)


_ACTIVATIONS: Final = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus",
    "softsign": "Softsign",
}  # fmt: skip


def _activation(call: Call) -> tuple[Value, ...]:
    kind = call.node.text("act_type")
    if kind not in _ACTIVATIONS:
        raise call.refusal(f"has act_type {kind!r}")
    return call.emit(_ACTIVATIONS[kind], [call.tensor()], call.shape)


def _leaky_relu(call: Call) -> tuple[Value, ...]:
    node, kind = call.node, call.node.text("act_type", "leaky")
    if kind == "prelu":
        known = call.inputs[1].constant if len(call.inputs) > 1 else None
        count = call.shape[1] if known is None or known.size != 1 else 1
        slope = call.weight(1, "slopes", (count,)).reshape(-1, *(1,) * (len(call.shape) - 2))
        return call.emit("PRelu", [call.tensor(), call.store("slope", slope)], call.shape)
    if kind == "leaky":
        return call.emit("LeakyRelu", [call.tensor()], call.shape, alpha=node.number("slope", 0.25))
    if kind == "elu":
        return call.emit("Elu", [call.tensor()], call.shape, alpha=node.number("slope", 0.25))
    if kind == "selu":
        return call.emit("Selu", [call.tensor()], call.shape)
    raise call.refusal(f"has act_type {kind!r}")


def _pooling(call: Call) -> tuple[Value, ...]:
    node, shape = call.node, _image(call)
    kind = node.text("pool_type", "max")
    if kind not in ("max", "avg"):
        raise call.refusal(f"pools by {kind!r}")
    if node.flag("global_pool"):
        op = "GlobalMaxPool" if kind == "max" else "GlobalAveragePool"
        return call.emit(op, [call.tensor()], (*shape[:2], 1, 1))
    convention = node.text("pooling_convention", "valid")
    if convention not in ("valid", "full"):
        raise call.refusal(f"has pooling_convention {convention!r}")
    kernel, stride = _pair(call, "kernel", 0), _pair(call, "stride", 1)
    if min(*kernel, *stride) < 1:
        raise call.refusal(f"has kernel {kernel} and stride {stride}")
    pooling = Pooling(
        is_max=kind == "max",
        kernel=kernel,
        stride=stride,
        pad=_pair(call, "pad", 0),
        is_rounded_up=convention == "full",
        must_start_inside=False,
        counts_padding=node.flag("count_include_pad", True),
    )
    return (pooling.emit(call.emitter, plain_value(call.tensor(), shape), call.name),)


def _binary(op: str) -> Operator:
    def emit(call: Call) -> tuple[Value, ...]:
        left, right = call.inputs
        shape = tuple(np.broadcast_shapes(left.shape, right.shape))
        return call.emit(op, [call.tensor(0), call.tensor(1)], shape)

    return emit


def _with_scalar(op: str, is_reversed: bool = False) -> Operator:
    def emit(call: Call) -> tuple[Value, ...]:
        number = call.store("scalar", np.array(call.node.number("scalar", 1.0), np.float32))
        inputs = [call.tensor(), number]
        return call.emit(op, inputs[::-1] if is_reversed else inputs, call.shape)

    return emit


def _sum_of_all(call: Call) -> tuple[Value, ...]:
    if any(value.shape != call.shape for value in call.inputs):
        raise call.refusal("adds tensors of different shapes")
    return call.emit("Sum", [call.tensor(i) for i in range(len(call.inputs))], call.shape)


def _axis(call: Call, axis: int) -> int:
    if not -len(call.shape) <= axis < len(call.shape):
        raise call.refusal(f"has axis {axis} for a tensor of shape {call.shape}")
    return axis % len(call.shape)


def _concat(call: Call) -> tuple[Value, ...]:
    axis = _axis(call, call.node.integer("dim", 1))
    total = sum(value.shape[axis] for value in call.inputs)
    shape = (*call.shape[:axis], total, *call.shape[axis + 1 :])
    return call.emit("Concat", [call.tensor(i) for i in range(len(call.inputs))], shape, axis=axis)


def _softmax(call: Call) -> tuple[Value, ...]:
    node, rank = call.node, len(call.shape)
    if node.op == "SoftmaxOutput":
        is_last = node.flag("preserve_shape")
        if rank != 2 and not is_last and not node.flag("multi_output"):
            raise call.refusal(f"reads a tensor of shape {call.shape}")
        axis = rank - 1 if is_last else 1
    elif node.op == "SoftmaxActivation":
        axis = 1
        if rank != 2 and node.text("mode", "instance") != "channel":
            raise call.refusal(f"reads a tensor of shape {call.shape}")
    else:
        axis = _axis(call, node.integer("axis", -1))
        if node.number("temperature", 1.0) != 1 or node.flag("use_length"):
            raise call.refusal("has a temperature or lengths")
    op = "LogSoftmax" if node.op == "log_softmax" else "Softmax"
    return call.emit(op, [call.tensor()], call.shape, axis=axis)


def _to_shape(call: Call, shape: tuple[int, ...]) -> tuple[Value, ...]:
    if np.prod(shape, dtype=np.float64) != np.prod(call.shape, dtype=np.float64):
        raise call.refusal(f"cannot make {shape} of {call.shape}")
    return call.emit("Reshape", [call.tensor(), call.store("shape", _longs(shape))], shape)


def _longs(values: tuple[int, ...]) -> Array:
    return np.array(values, np.int64)


def _flatten(call: Call) -> tuple[Value, ...]:
    shape = (call.shape[0], int(np.prod(call.shape[1:])))
    return call.emit("Flatten", [call.tensor()], shape, axis=1)


def _reshape(call: Call) -> tuple[Value, ...]:
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


def _expand_dims(call: Call) -> tuple[Value, ...]:
    axis = call.node.integer("axis", 0) % (len(call.shape) + 1)
    return _to_shape(call, (*call.shape[:axis], 1, *call.shape[axis:]))


def _transpose(call: Call) -> tuple[Value, ...]:
    rank = len(call.shape)
    order = list(call.node.integers("axes") or range(rank)[::-1])
    if call.node.op == "SwapAxis":
        order = list(range(rank))
        one, other = (_axis(call, call.node.integer(key, 0)) for key in ("dim1", "dim2"))
        order[one], order[other] = order[other], order[one]
    if sorted(order) != list(range(rank)):
        raise call.refusal(f"has axes {order}")
    shape = tuple(call.shape[axis] for axis in order)
    return call.emit("Transpose", [call.tensor()], shape, perm=order)


def _up_sampling(call: Call) -> tuple[Value, ...]:
    count, channels, height, width = _image(call)
    scale = call.node.integer("scale", 1)
    if call.node.text("sample_type") != "nearest" or len(call.inputs) != 1 or not 0 < scale < 65:
        raise call.refusal("is not the nearest neighbour of one tensor")
    shape = (count, channels, height * scale, width * scale)
    inputs = [call.tensor(), "", "", call.store("size", _longs(shape))]
    return call.emit(
        "Resize", inputs, shape, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip


def _clip(call: Call) -> tuple[Value, ...]:
    limits = [call.store(key, np.array(call.node.number(key, 0.0), np.float32))
              for key in ("a_min", "a_max")]  # fmt: skip
    return call.emit("Clip", [call.tensor(), *limits], call.shape)


def _pad(call: Call) -> tuple[Value, ...]:
    node, widths = call.node, call.node.integers("pad_width")
    mode = node.text("mode", "constant")
    if len(widths) != 2 * len(call.shape) or mode not in ("constant", "edge", "reflect"):
        raise call.refusal(f"pads {widths} by {mode!r}")
    if not all(0 <= width <= 4096 for width in widths):
        raise call.refusal(f"pads {widths}")
    before, after = widths[::2], widths[1::2]
    shape = tuple(n + b + a for n, b, a in zip(call.shape, before, after, strict=True))
    fill = call.store("fill", np.array(node.number("constant_value", 0.0), np.float32))
    inputs = [call.tensor(), call.store("pads", _longs((*before, *after))), fill]
    return call.emit("Pad", inputs, shape, mode=mode)


def _l2_normalization(call: Call) -> tuple[Value, ...]:
    mode, node = call.node.text("mode", "instance"), call.emitter.node
    every = range(1, len(call.shape))
    axes = {"instance": list(every), "channel": [1], "spatial": list(every[1:])}.get(mode)
    if axes is None:
        raise call.refusal(f"has mode {mode!r}")
    source, name = call.tensor(), call.name
    squares = node("ReduceSumSquare", [source], f"{name}/squares", axes=axes, keepdims=1)
    epsilon = call.store("epsilon", np.array(call.node.number("eps", 1e-10), np.float32))
    total = node("Add", [squares[0], epsilon], f"{name}/sum")
    length = node("Sqrt", [total[0]], f"{name}/length")
    return call.emit("Div", [source, length[0]], call.shape)


def _slice_axis(call: Call) -> tuple[Value, ...]:
    axis = _axis(call, call.node.integer("axis", 0))
    length = call.shape[axis]
    start, end = call.node.integer("begin", 0), call.node.integer("end", length)
    start, end, _ = slice(start, end).indices(length)
    if end <= start:
        raise call.refusal("leaves nothing")
    parts = {"begin": start, "end": end, "axis": axis}
    inputs = [call.store(key, _longs((value,))) for key, value in parts.items()]
    shape = (*call.shape[:axis], end - start, *call.shape[axis + 1 :])
    return call.emit("Slice", [call.tensor(), *inputs], shape)


def _slice_channel(call: Call) -> tuple[Value, ...]:
    axis, count = _axis(call, call.node.integer("axis", 1)), call.node.integer("num_outputs", 1)
    length = call.shape[axis]
    if count < 1 or length % count or call.node.flag("squeeze_axis"):
        raise call.refusal(f"cuts {length} into {count} parts")
    size = length // count
    inputs = [call.tensor(), call.store("sizes", _longs((size,) * count))]
    names = call.emitter.node("Split", inputs, call.name, outputs=count, axis=axis)
    shape = (*call.shape[:axis], size, *call.shape[axis + 1 :])
    return tuple(plain_value(name, shape) for name in names)


def _mean(call: Call) -> tuple[Value, ...]:
    node, rank = call.node, len(call.shape)
    given = node.integers("axis") or tuple(range(rank))
    axes = sorted({_axis(call, axis) for axis in given})
    keep = node.flag("keepdims")
    if node.flag("exclude"):
        axes = [axis for axis in range(rank) if axis not in axes]
    shape = tuple(1 if axis in axes else length for axis, length in enumerate(call.shape)
                  if keep or axis not in axes)  # fmt: skip
    return call.emit("ReduceMean", [call.tensor()], shape, axes=axes, keepdims=int(keep))


def _lrn(call: Call) -> tuple[Value, ...]:
    node = call.node
    return call.emit(
        "LRN", [call.tensor()], call.shape, size=node.integer("nsize", 5),
        alpha=node.number("alpha", 1e-4), beta=node.number("beta", 0.75),
        bias=node.number("knorm", 2.0),
    )  # fmt: skip


def _same(call: Call) -> tuple[Value, ...]:
    return (plain_value(call.tensor(), call.shape),)


OPERATORS: Final[Mapping[str, Operator]] = {
    **dict.fromkeys(("Convolution", "Deconvolution"), _convolution),
    "FullyConnected": _fully_connected,
    "BatchNorm": _batch_norm,
    "InstanceNorm": _instance_norm,
    "Activation": _activation,
    "LeakyReLU": _leaky_relu,
    "Pooling": _pooling,
    **{name: _unary(op) for name, op in (
        ("relu", "Relu"), ("sigmoid", "Sigmoid"), ("tanh", "Tanh"), ("exp", "Exp"), ("log", "Log"),
        ("sqrt", "Sqrt"), ("abs", "Abs"), ("negative", "Neg"), ("floor", "Floor"),
    )},
    **{name: _binary(op) for op, stem in (
        ("Add", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Div", "div"),
    ) for name in (f"elemwise_{stem}", f"broadcast_{stem}", f"_{stem}")},
    **{"_Plus": _binary("Add"), "_Minus": _binary("Sub"), "_Mul": _binary("Mul")},
    **{"broadcast_plus": _binary("Add"), "_plus": _binary("Add"), "_Div": _binary("Div")},
    **{"broadcast_maximum": _binary("Max"), "broadcast_minimum": _binary("Min")},
    **dict.fromkeys(("_plus_scalar", "_PlusScalar"), _with_scalar("Add")),
    **dict.fromkeys(("_minus_scalar", "_MinusScalar"), _with_scalar("Sub")),
    **dict.fromkeys(("_mul_scalar", "_MulScalar"), _with_scalar("Mul")),
    **dict.fromkeys(("_div_scalar", "_DivScalar"), _with_scalar("Div")),
    **dict.fromkeys(("_power_scalar", "_PowerScalar"), _with_scalar("Pow")),
    **dict.fromkeys(("_rminus_scalar", "_RMinusScalar"), _with_scalar("Sub", is_reversed=True)),
    **dict.fromkeys(("_rdiv_scalar", "_RDivScalar"), _with_scalar("Div", is_reversed=True)),
    **dict.fromkeys(("add_n", "ElementWiseSum"), _sum_of_all),
    **dict.fromkeys(("Concat", "concat"), _concat),
    **dict.fromkeys(("SoftmaxOutput", "SoftmaxActivation", "softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("Flatten", "flatten"), _flatten),
    **dict.fromkeys(("Reshape", "reshape"), _reshape),
    "expand_dims": _expand_dims,
    **dict.fromkeys(("transpose", "SwapAxis"), _transpose),
    "UpSampling": _up_sampling,
    "clip": _clip,
    **dict.fromkeys(("Pad", "pad"), _pad),
    "L2Normalization": _l2_normalization,
    "slice_axis": _slice_axis,
    **dict.fromkeys(("SliceChannel", "split"), _slice_channel),
    "mean": _mean,
    "LRN": _lrn,
    **dict.fromkeys(("Dropout", "identity", "_copy", "BlockGrad", "MakeLoss"), _same),
    "LinearRegressionOutput": _same,
    "LogisticRegressionOutput": _unary("Sigmoid"),
}  # fmt: skip
