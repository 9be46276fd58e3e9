"""Convolutions of TensorFlow, with the padding and the layout that they need in ONNX.

SAME padding puts the odd pixel at the end; a Pad in front of a window becomes its padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from camsdk.compress.importers.onnx_emitter import (
    CHANNELS_FIRST,
    Emitter,
    Value,
)
from camsdk.compress.importers.tfjs_reader import Array, TfNode
from camsdk.errors import UnsupportedModel

Pads = tuple[int, int, int, int]
"""Top, left, bottom, right: the order of ONNX."""


@dataclass(frozen=True)
class Context:
    """What an operator needs besides its inputs."""

    emitter: Emitter


Operator = Callable[[TfNode, Sequence[Value], Context], tuple[Value, ...]]


def known_value(value: Value, node: TfNode, what: str) -> Array:
    """The constant that a value is."""
    if value.constant is None:
        raise UnsupportedModel(
            f"{what} of layer {node.name!r} ({node.op}) is computed, it must be a constant",
            "give the inputs fixed shapes, or cut the graph before this layer with an output",
        )
    return value.constant


def known_numbers(value: Value, node: TfNode, what: str) -> tuple[int, ...]:
    """The whole numbers that a constant value is."""
    return tuple(int(number) for number in known_value(value, node, what).reshape(-1))


def need_nhwc(node: TfNode) -> None:
    """Refuse a node whose images have their channels first."""
    layout = node.text("data_format", "NHWC")
    if layout != "NHWC":
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) has data format {layout}")


def spatial_pair(node: TfNode, key: str) -> tuple[int, int]:
    """Numbers along rows and columns; those along batch and channels must be one."""
    numbers = node.ints(key) or (1, 1, 1, 1)
    if len(numbers) != 4 or numbers[0] != 1 or numbers[3] != 1 or min(numbers) < 1:
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) has {key} {numbers}")
    return numbers[1], numbers[2]


def window_pads(
    node: TfNode, size: tuple[int, int], window: tuple[int, int], strides: tuple[int, int]
) -> Pads:
    """Padding of a window operator over an image of ``size`` (height, width)."""
    mode = node.text("padding", "VALID")
    if mode == "VALID":
        return (0, 0, 0, 0)
    if mode == "EXPLICIT":
        rows = node.ints("explicit_paddings")
        if len(rows) != 8 or any(rows[:2]) or any(rows[6:]):
            raise UnsupportedModel(f"layer {node.name!r} ({node.op}) pads {rows}")
        return (rows[2], rows[4], rows[3], rows[5])
    if mode != "SAME":
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) has padding {mode}")
    totals = [
        max((-(-length // stride) - 1) * stride + reach - length, 0)
        for length, reach, stride in zip(size, window, strides, strict=True)
    ]
    top, left = totals[0] // 2, totals[1] // 2
    return (top, left, totals[0] - top, totals[1] - left)


def taken_pads(name: str, context: Context, fill: float) -> tuple[str, Pads]:
    """The tensor before a Pad of ``fill`` around the image, and what that padded.

    A Pad that only one operator uses is thereby left without use and vanishes.
    """
    pad = context.emitter.producer(name)
    if pad is None or pad.op_type != "Pad":
        return name, (0, 0, 0, 0)
    rows = context.emitter.stored(pad.input[1]).tolist()
    if float(context.emitter.stored(pad.input[2])) != fill or any(rows[:2]) or any(rows[4:6]):
        return name, (0, 0, 0, 0)
    return pad.input[0], (rows[2], rows[3], rows[6], rows[7])


def image_result(
    name: str,
    value: Value,
    channels: int,
    pads: Pads,
    node: TfNode,
    window: tuple[int, int],
    strides: tuple[int, int],
) -> Value:
    """The value of a window operator; ``pads`` are those of the operator itself."""
    _, height, width, _ = value.shape
    rows = (height + pads[0] + pads[2] - window[0]) // strides[0] + 1
    columns = (width + pads[1] + pads[3] - window[1]) // strides[1] + 1
    if rows < 1 or columns < 1:
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) is larger than its input")
    return Value(name, CHANNELS_FIRST, (value.shape[0], rows, columns, channels))


def convolution(
    node: TfNode, image: Value, weights: Array, group: int, bias: Array | None, context: Context
) -> Value:
    """A convolution; ``weights`` in ONNX's order (out, in / group, rows, columns)."""
    need_nhwc(node)
    strides, dilations = spatial_pair(node, "strides"), spatial_pair(node, "dilations")
    if image.shape[3] != weights.shape[1] * group:
        raise ValueError(f"weights take {weights.shape[1] * group} channels")
    window = (
        (weights.shape[2] - 1) * dilations[0] + 1,
        (weights.shape[3] - 1) * dilations[1] + 1,
    )
    pads = window_pads(node, (image.shape[1], image.shape[2]), window, strides)
    emitter = context.emitter
    source, before = taken_pads(
        emitter.arranged(image, CHANNELS_FIRST, node.name), context, fill=0.0
    )
    inputs = [source, emitter.initializer(f"{node.name}/weights", weights)]
    if bias is not None:
        inputs.append(emitter.initializer(f"{node.name}/bias", bias))
    (name,) = emitter.node(
        "Conv",
        inputs,
        node.name,
        strides=strides,
        dilations=dilations,
        group=group,
        kernel_shape=weights.shape[2:],
        pads=[own + taken for own, taken in zip(pads, before, strict=True)],
    )
    return image_result(name, image, weights.shape[0], pads, node, window, strides)


def conv2d(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    """``Conv2D``."""
    weights = known_value(inputs[1], node, "the kernel").transpose(3, 2, 0, 1)
    image = inputs[0]
    groups, rest = divmod(image.shape[-1], max(weights.shape[1], 1))
    return (convolution(node, image, weights, 1 if rest else max(groups, 1), None, context),)


def depthwise_weights(kernel: Array) -> Array:
    rows, columns, channels, multiplier = kernel.shape
    return kernel.reshape(rows, columns, 1, channels * multiplier).transpose(3, 2, 0, 1)


def depthwise(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    """``DepthwiseConv2dNative``."""
    kernel = known_value(inputs[1], node, "the kernel")
    weights = depthwise_weights(kernel)
    return (convolution(node, inputs[0], weights, kernel.shape[2], None, context),)
