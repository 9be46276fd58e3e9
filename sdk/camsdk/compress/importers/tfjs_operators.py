"""What each TensorFlow operator becomes in ONNX.

An operator's function takes the node and its input values and returns its output values. Semantics
follow TensorFlow's operator documentation: SAME padding puts the odd pixel at the end, bilinear
resizing with ``half_pixel_centers`` is ONNX's ``half_pixel`` without antialiasing.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from camsdk.compress.importers.onnx_emitter import (
    CHANNELS_FIRST,
    Perm,
    Value,
    constant,
    transposed,
)
from camsdk.compress.importers.tfjs_reader import MAX_RANK, TfNode
from camsdk.compress.importers.tfjs_windows import (
    Context,
    Operator,
    Pads,
    conv2d,
    convolution,
    depthwise,
    depthwise_weights,
    image_result,
    known_numbers,
    known_value,
    need_nhwc,
    spatial_pair,
    taken_pads,
    window_pads,
)
from camsdk.errors import UnsupportedModel


def _fused_conv(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    kernel = known_value(inputs[1], node, "the kernel")
    steps = node.texts("fused_ops")
    if steps[:1] != ("BiasAdd",) or len(steps) > 2 or len(inputs) != 3:
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) fuses {', '.join(steps)}")
    bias = known_value(inputs[2], node, "the bias")
    if node.op == "_FusedConv2D":
        weights, group = kernel.transpose(3, 2, 0, 1), 1
    else:
        weights, group = depthwise_weights(kernel), kernel.shape[2]
    value = convolution(node, inputs[0], weights, group, bias, context)
    if len(steps) == 1:
        return (value,)
    if steps[1] not in _ACTIVATIONS:
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) fuses {steps[1]}")
    return (_activation(steps[1], node, value, context, f"{node.name}/{steps[1]}"),)


def _activation(op: str, node: TfNode, value: Value, context: Context, name: str) -> Value:
    emitter = context.emitter
    source = emitter.held(value, name)
    if op == "LeakyRelu":
        alpha = node.number("leakyrelu_alpha" if "fused_ops" in node.attributes else "alpha", 0.2)
        (result,) = emitter.node("LeakyRelu", [source], name, alpha=alpha)
    elif op == "Relu6":
        bounds = [
            emitter.initializer(f"{name}/{end}", np.asarray(limit, np.float32))
            for end, limit in (("low", 0.0), ("high", 6.0))
        ]
        (result,) = emitter.node("Clip", [source, *bounds], name)
    else:
        (result,) = emitter.node(op, [source], name)
    return Value(result, value.perm, value.shape)


def _elementwise(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    return (_activation(node.op, node, inputs[0], context, node.name),)


_ACTIVATIONS: Final = ("Relu", "Relu6", "LeakyRelu", "Sigmoid", "Tanh", "Elu")


def _softmax(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    (value,) = inputs
    axis = value.perm[len(value.shape) - 1]
    (name,) = context.emitter.node(
        "Softmax", [context.emitter.held(value, node.name)], node.name, axis=axis
    )
    return (Value(name, value.perm, value.shape),)


_NUMPY_BINARY: Final[dict[str, np.ufunc]] = {
    "Add": np.add,
    "AddV2": np.add,
    "BiasAdd": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
}


_ONNX_BINARY: Final = {
    "Add": "Add",
    "AddV2": "Add",
    "BiasAdd": "Add",
    "Sub": "Sub",
    "Mul": "Mul",
    "Maximum": "Max",
    "Minimum": "Min",
}


def _binary(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    left, right = inputs
    if left.constant is not None and right.constant is not None:
        return (constant(np.asarray(_NUMPY_BINARY[node.op](left.constant, right.constant))),)
    shape = np.broadcast_shapes(left.shape, right.shape)
    leader = left if left.constant is None and len(left.shape) == len(shape) else right
    if leader.constant is not None or len(leader.shape) != len(shape):
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) broadcasts to a higher rank")
    if node.op == "BiasAdd" and len(shape) > 2:
        need_nhwc(node)
    names = [
        leader.name
        if value is leader
        else context.emitter.arranged(
            _same_rank(value, len(shape), node), leader.perm, f"{node.name}/{side}"
        )
        for side, value in zip(("left", "right"), inputs, strict=True)
    ]
    (name,) = context.emitter.node(_ONNX_BINARY[node.op], names, node.name)
    if _ONNX_BINARY[node.op] == "Add":
        _note_bias(node, leader, right if leader is left else left, name, context)
    return (Value(name, leader.perm, shape),)


def _same_rank(value: Value, rank: int, node: TfNode) -> Value:
    """With leading dimensions of 1, as broadcasting has it."""
    missing = rank - len(value.shape)
    if not missing:
        return value
    known = known_value(value, node, "the operand of lower rank")
    return constant(known.reshape((1,) * missing + known.shape))


def _note_bias(node: TfNode, image: Value, bias: Value, total: str, context: Context) -> None:
    """The sum ``total`` may become the bias of the layer before, when it is one."""
    emitter = context.emitter
    layer = emitter.producer(image.name)
    if bias.constant is None or layer is None or len(layer.input) != 2:
        return
    if layer.op_type not in ("Conv", "Gemm") or np.ndim(bias.constant) > len(image.shape):
        return
    channel_axis = image.perm.index(1)
    known = known_value(_same_rank(bias, len(image.shape), node), node, "the bias")
    per_channel = np.moveaxis(known, channel_axis, -1)
    channels = image.shape[channel_axis]
    if per_channel.shape[-1] not in (1, channels) or per_channel.size != per_channel.shape[-1]:
        return
    flat = np.broadcast_to(per_channel.reshape(-1), channels).astype(np.float32)
    emitter.note_bias(total, layer.name, emitter.initializer(f"{node.name}/bias", flat))


def _pool(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    need_nhwc(node)
    (image,) = inputs
    window, strides = spatial_pair(node, "ksize"), spatial_pair(node, "strides")
    pads = window_pads(node, (image.shape[1], image.shape[2]), window, strides)
    source = context.emitter.arranged(image, CHANNELS_FIRST, node.name)
    before: Pads = (0, 0, 0, 0)
    if node.op == "MaxPool":
        source, before = taken_pads(source, context, fill=-np.inf)
    (name,) = context.emitter.node(
        "MaxPool" if node.op == "MaxPool" else "AveragePool",
        [source],
        node.name,
        kernel_shape=window,
        strides=strides,
        pads=[own + taken for own, taken in zip(pads, before, strict=True)],
    )
    return (image_result(name, image, image.shape[3], pads, node, window, strides),)


def _pad(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    value = inputs[0]
    rows = np.asarray(known_value(inputs[1], node, "the padding"), np.int64)
    fill = known_value(inputs[2], node, "the fill") if len(inputs) > 2 else np.zeros((), np.float32)
    if rows.shape != (len(value.shape), 2) or rows.min(initial=0) < 0:
        raise ValueError(f"padding of shape {rows.shape}")
    physical = rows[list(value.axes)]
    emitter = context.emitter
    amounts = emitter.initializer(f"{node.name}/pads", physical.T.reshape(-1))
    filler = emitter.initializer(f"{node.name}/fill", np.asarray(fill, np.float32).reshape(()))
    (name,) = emitter.node("Pad", [emitter.held(value, node.name), amounts, filler], node.name)
    shape = tuple(
        int(n + before + after) for n, (before, after) in zip(value.shape, rows, strict=True)
    )
    return (Value(name, value.perm, shape),)


def _concat(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    *values, axis_value = inputs
    (axis,) = known_numbers(axis_value, node, "the axis")
    rank = len(values[0].shape)
    axis %= rank
    perm: Perm = next((v.perm for v in values if v.constant is None), tuple(range(rank)))
    names = [
        context.emitter.arranged(value, perm, f"{node.name}/{i}") for i, value in enumerate(values)
    ]
    (name,) = context.emitter.node("Concat", names, node.name, axis=perm[axis])
    others = {value.shape[:axis] + value.shape[axis + 1 :] for value in values}
    if len(others) > 1:
        raise ValueError("they differ beside the axis")
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    return (Value(name, perm, tuple(shape)),)


def _split(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    if node.op == "SplitV":
        value, sizes_value, axis_value = inputs
        (axis,) = known_numbers(axis_value, node, "the axis")
        sizes = list(known_numbers(sizes_value, node, "the sizes"))
    else:
        axis_value, value = inputs
        (axis,) = known_numbers(axis_value, node, "the axis")
        parts = node.integer("num_split", 1)
        if not 1 <= parts <= value.shape[axis]:
            raise ValueError(f"{parts} parts")
        sizes = [value.shape[axis] // parts] * parts
    axis %= len(value.shape)
    if -1 in sizes:
        sizes[sizes.index(-1)] = value.shape[axis] - sum(sizes) - 1
    if sum(sizes) != value.shape[axis] or min(sizes) < 0:
        raise ValueError(f"parts of {sizes}")
    emitter = context.emitter
    lengths = emitter.initializer(f"{node.name}/sizes", np.asarray(sizes, np.int64))
    names = emitter.node(
        "Split",
        [emitter.held(value, node.name), lengths],
        node.name,
        outputs=len(sizes),
        axis=value.perm[axis],
    )
    shapes = [(*value.shape[:axis], size, *value.shape[axis + 1 :]) for size in sizes]
    return tuple(Value(n, value.perm, s) for n, s in zip(names, shapes, strict=True))


def _completed(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """A shape of so many elements, with its one free dimension filled in."""
    known = math.prod(length for length in shape if length != -1)
    if shape.count(-1) == 1 and known > 0:
        shape = tuple(size // known if length == -1 else length for length in shape)
    if min(shape, default=0) < 0 or math.prod(shape) != size:
        raise ValueError(f"{size} elements have no shape {shape}")
    return shape


def _reshape(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    value = inputs[0]
    shape = _completed(known_numbers(inputs[1], node, "the shape"), math.prod(value.shape))
    if value.constant is not None:
        return (constant(value.constant.reshape(shape)),)
    emitter = context.emitter
    wanted = emitter.initializer(f"{node.name}/shape", np.asarray(shape, np.int64))
    (name,) = emitter.node("Reshape", [emitter.plain(value, node.name), wanted], node.name)
    return (Value(name, tuple(range(len(shape))), shape),)


def _transpose(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    perm = known_numbers(inputs[1], node, "the permutation")
    if sorted(perm) != list(range(len(inputs[0].shape))):
        raise ValueError(f"permutation {perm}")
    return (transposed(inputs[0], perm),)


def _resize(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    image = inputs[0]
    rows, columns = known_numbers(inputs[1], node, "the size")
    if node.flag("align_corners") or not node.flag("half_pixel_centers"):
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) does not use half-pixel centers")
    batch, _, _, channels = image.shape
    emitter = context.emitter
    size = np.asarray((batch, channels, rows, columns), np.int64)
    names = [
        emitter.arranged(image, CHANNELS_FIRST, node.name),
        "",
        "",
        emitter.initializer(f"{node.name}/size", size),
    ]
    # Nearest, TensorFlow: the pixel in which the centre lies, and on a border the later one.
    (name,) = emitter.node(
        "Resize",
        names,
        node.name,
        mode="linear" if node.op == "ResizeBilinear" else "nearest",
        coordinate_transformation_mode="half_pixel",
        nearest_mode="round_prefer_ceil",
    )
    return (Value(name, CHANNELS_FIRST, (batch, rows, columns, channels)),)


def _sparse_to_dense(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    """Only of constants: converters leave it in the arithmetic of shapes."""
    indices, shape, values, default = (known_value(value, node, "an input") for value in inputs)
    lengths = tuple(int(n) for n in shape.reshape(-1))
    if math.prod(lengths) > MAX_RANK:
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) is no arithmetic of shapes")
    dense = np.full(lengths, default, values.dtype)
    dense[tuple(indices.reshape(-1, dense.ndim).T)] = values
    return (constant(dense),)


def _identity(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    return (inputs[0],)


OPERATORS: Final[dict[str, Operator]] = {
    "AvgPool": _pool,
    "ConcatV2": _concat,
    "Conv2D": conv2d,
    "DepthwiseConv2dNative": depthwise,
    "FusedDepthwiseConv2dNative": _fused_conv,
    "Identity": _identity,
    "MaxPool": _pool,
    "Pad": _pad,
    "PadV2": _pad,
    "Reshape": _reshape,
    "ResizeBilinear": _resize,
    "ResizeNearestNeighbor": _resize,
    "Softmax": _softmax,
    "SparseToDense": _sparse_to_dense,
    "Split": _split,
    "SplitV": _split,
    "Transpose": _transpose,
    "_FusedConv2D": _fused_conv,
    **dict.fromkeys(_NUMPY_BINARY, _binary),
    **dict.fromkeys(_ACTIVATIONS, _elementwise),
}
