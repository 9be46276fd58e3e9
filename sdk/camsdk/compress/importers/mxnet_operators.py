"""What each MXNet operator becomes in ONNX.

Defaults and semantics follow the operators' parameter structures in MXNet 1.9, which also reads
what older versions wrote.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from camsdk.compress.importers.mxnet_call import Call, Operator, axis_of, image_sizes, pair_of
from camsdk.compress.importers.mxnet_layouts import (
    expand_dims,
    flatten,
    longs,
    pad_edges,
    reshape,
    slice_axis,
    slice_channel,
    transpose,
)
from camsdk.compress.importers.onnx_emitter import Value, plain_value
from camsdk.compress.importers.pooling import Pooling


def _convolution(call: Call) -> tuple[Value, ...]:
    node, (count, channels, *size) = call.node, image_sizes(call)
    kernel, pad = pair_of(call, "kernel", 0), pair_of(call, "pad", 0)
    stride, dilate = pair_of(call, "stride", 1), pair_of(call, "dilate", 1)
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
        adjust = pair_of(call, "adj", 0)
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
    node, shape = call.node, image_sizes(call)
    kind = node.text("pool_type", "max")
    if kind not in ("max", "avg"):
        raise call.refusal(f"pools by {kind!r}")
    if node.flag("global_pool"):
        op = "GlobalMaxPool" if kind == "max" else "GlobalAveragePool"
        return call.emit(op, [call.tensor()], (*shape[:2], 1, 1))
    convention = node.text("pooling_convention", "valid")
    if convention not in ("valid", "full"):
        raise call.refusal(f"has pooling_convention {convention!r}")
    kernel, stride = pair_of(call, "kernel", 0), pair_of(call, "stride", 1)
    if min(*kernel, *stride) < 1:
        raise call.refusal(f"has kernel {kernel} and stride {stride}")
    pooling = Pooling(
        is_max=kind == "max",
        kernel=kernel,
        stride=stride,
        pad=pair_of(call, "pad", 0),
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


def _concat(call: Call) -> tuple[Value, ...]:
    axis = axis_of(call, call.node.integer("dim", 1))
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
        axis = axis_of(call, node.integer("axis", -1))
        if node.number("temperature", 1.0) != 1 or node.flag("use_length"):
            raise call.refusal("has a temperature or lengths")
    op = "LogSoftmax" if node.op == "log_softmax" else "Softmax"
    return call.emit(op, [call.tensor()], call.shape, axis=axis)


def _up_sampling(call: Call) -> tuple[Value, ...]:
    count, channels, height, width = image_sizes(call)
    scale = call.node.integer("scale", 1)
    if call.node.text("sample_type") != "nearest" or len(call.inputs) != 1 or not 0 < scale < 65:
        raise call.refusal("is not the nearest neighbour of one tensor")
    shape = (count, channels, height * scale, width * scale)
    inputs = [call.tensor(), "", "", call.store("size", longs(shape))]
    return call.emit(
        "Resize", inputs, shape, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip


def _clip(call: Call) -> tuple[Value, ...]:
    limits = [call.store(key, np.array(call.node.number(key, 0.0), np.float32))
              for key in ("a_min", "a_max")]  # fmt: skip
    return call.emit("Clip", [call.tensor(), *limits], call.shape)


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


def _mean(call: Call) -> tuple[Value, ...]:
    node, rank = call.node, len(call.shape)
    given = node.integers("axis") or tuple(range(rank))
    axes = sorted({axis_of(call, axis) for axis in given})
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
    **dict.fromkeys(("Flatten", "flatten"), flatten),
    **dict.fromkeys(("Reshape", "reshape"), reshape),
    "expand_dims": expand_dims,
    **dict.fromkeys(("transpose", "SwapAxis"), transpose),
    "UpSampling": _up_sampling,
    "clip": _clip,
    **dict.fromkeys(("Pad", "pad"), pad_edges),
    "L2Normalization": _l2_normalization,
    "slice_axis": slice_axis,
    **dict.fromkeys(("SliceChannel", "split"), slice_channel),
    "mean": _mean,
    "LRN": _lrn,
    **dict.fromkeys(("Dropout", "identity", "_copy", "BlockGrad", "MakeLoss"), _same),
    "LinearRegressionOutput": _same,
    "LogisticRegressionOutput": _unary("Sigmoid"),
}  # fmt: skip
