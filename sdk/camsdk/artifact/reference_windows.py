"""What slides over an image: convolution, its transpose, pooling and resizing, in plain numpy.

Tensors are (batch, channels, rows, columns). Products are summed in float64, so sums of products
of 8-bit integers are exact, and sums of float32 products are better than any float32 kernel's.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.onnx_read import Node
from camsdk.errors import UnsupportedModel

Array = NDArray[Any]


def attribute(node: Node, name: str, default: Any) -> Any:
    """Value of an attribute, or its default."""
    return node.attributes.get(name, default)


def pads_of(node: Node, size: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and after each of the two axes.

    Args:
        size: Rows and columns of the input.
        kernel: Of the window, without dilation.
    """
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode == "VALID":
        return [(0, 0), (0, 0)]
    if mode == "NOTSET":
        pads = attribute(node, "pads", (0, 0, 0, 0))
        return [(pads[0], pads[2]), (pads[1], pads[3])]
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    found = []
    for length, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-length // stride) - 1) * stride + (k - 1) * dilation + 1 - length, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return found


def windows(
    tensor: Array, kernel: Sequence[int], node: Node, *, fill: Any = 0, is_ceil: bool = False
) -> Array:
    """All positions of the window, a view: (batch, channels, out rows, out columns, *kernel)."""
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    pads = pads_of(node, tensor.shape[2:], kernel)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if is_ceil:
        pads = [_ceil_pads(tensor.shape[2 + i], pads[i], spans[i], strides[i]) for i in range(2)]
    padded = np.pad(tensor, [(0, 0), (0, 0), *pads], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def convolve(tensor: Array, weights: Array, node: Node) -> Array:
    """Convolution without bias, float64 sums.

    Args:
        tensor: (batch, channels, rows, columns).
        weights: (filters, channels / groups, rows, columns).

    Returns:
        float64 (batch, filters, rows, columns).
    """
    if weights.ndim != 4:
        raise UnsupportedModel(f"a convolution over {weights.ndim - 2} axes is not computed here")
    groups = attribute(node, "group", 1)
    view = windows(tensor, weights.shape[2:], node).astype(np.float64)
    batch, _, rows, columns = view.shape[:4]
    grouped = view.reshape(batch, groups, -1, rows, columns, *weights.shape[2:])
    # (batch, groups, channels x kernel, rows x columns)
    flat = grouped.transpose(0, 1, 2, 5, 6, 3, 4).reshape(batch, groups, -1, rows * columns)
    filters = weights.astype(np.float64).reshape(groups, weights.shape[0] // groups, -1)
    product: Array = filters[None] @ flat
    return product.reshape(batch, weights.shape[0], rows, columns)


def convolve_transposed(tensor: Array, weights: Array, node: Node) -> Array:
    """Transposed convolution without bias, float64 sums.

    Args:
        tensor: (batch, channels, rows, columns).
        weights: (channels, filters / groups, rows, columns).
    """
    groups, strides = attribute(node, "group", 1), _pair(node, "strides")
    dilations, extra = _pair(node, "dilations"), attribute(node, "output_padding", (0, 0))
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
        raise UnsupportedModel("a ConvTranspose without explicit pads is not computed here")
    pads = pads_of(node, tensor.shape[2:], weights.shape[2:])
    batch, channels, rows, columns = tensor.shape
    kernel = weights.shape[2:]
    full = [
        (length - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
        for i, length in enumerate((rows, columns))
    ]
    split = tensor.astype(np.float64).reshape(batch, groups, channels // groups, -1)
    matrix = weights.astype(np.float64).reshape(groups, channels // groups, -1)
    columns_of = matrix.transpose(0, 2, 1)[None] @ split
    pieces = columns_of.reshape(batch, groups * weights.shape[1], *kernel, rows, columns)
    out = np.zeros((batch, groups * weights.shape[1], *full))
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            top, left = y * dilations[0], x * dilations[1]
            rows_at = slice(top, top + (rows - 1) * strides[0] + 1, strides[0])
            columns_at = slice(left, left + (columns - 1) * strides[1] + 1, strides[1])
            out[:, :, rows_at, columns_at] += pieces[:, :, y, x]
    return out[:, :, pads[0][0] : full[0] - pads[0][1], pads[1][0] : full[1] - pads[1][1]]


def max_pool(tensor: Array, node: Node) -> Array:
    """Largest value of each window, the input's type."""
    lowest = -np.inf if tensor.dtype.kind == "f" else np.iinfo(tensor.dtype).min
    is_ceil = bool(attribute(node, "ceil_mode", 0))
    kernel = attribute(node, "kernel_shape", ())
    view = windows(tensor, kernel, node, fill=lowest, is_ceil=is_ceil)
    largest: Array = view.max(axis=(4, 5))
    return largest


def average_pool(tensor: Array, node: Node) -> tuple[Array, Array]:
    """Sums of each window, and by how many values to divide them, (rows, columns).

    The sums are float32, added one value after the other, row by row, as onnxruntime does.
    """
    kernel = attribute(node, "kernel_shape", ())
    is_ceil = bool(attribute(node, "ceil_mode", 0))
    view = windows(tensor.astype(np.float32), kernel, node, is_ceil=is_ceil)
    sums = np.zeros(view.shape[:4], np.float32)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            sums = sums + view[..., row, column]
    if attribute(node, "count_include_pad", 0):
        if is_ceil:
            raise UnsupportedModel("an AveragePool over padding with ceil_mode is not computed")
        return sums, np.full(sums.shape[2:], float(math.prod(kernel)))
    ones = np.ones((1, 1, *tensor.shape[2:]))
    return sums, windows(ones, kernel, node, is_ceil=is_ceil).sum(axis=(4, 5))[0, 0]


def resize(tensor: Array, node: Node, scales: Array | None, sizes: Array | None) -> Array:
    """Nearest or linear interpolation of rows and columns.

    The linear one in float32 in onnxruntime's order: weights multiplied first, four products added
    from the top left to the bottom right. Halves are common here, so the order decides roundings.
    """
    mode = attribute(node, "mode", "nearest")
    if mode not in ("nearest", "linear") or tensor.ndim != 4:
        raise UnsupportedModel(f"Resize with mode {mode} is not computed here")
    _check_plain(node)
    axes = []
    for axis in (2, 3):
        length = tensor.shape[axis]
        if sizes is not None and sizes.size:
            out, scale = int(sizes[axis]), np.float32(sizes[axis]) / np.float32(length)
        elif scales is not None and scales.size:
            scale = np.float32(scales[axis])
            out = math.floor(length * float(scale))
        else:
            raise UnsupportedModel("a Resize without sizes and scales is not computed here")
        axes.append((length, _positions(node, length, out, scale)))
    if mode == "nearest":
        rows, columns = (_nearest(node, *axis) for axis in axes)
        picked: Array = tensor[:, :, rows][:, :, :, columns]
        return picked
    return _bilinear(tensor, *axes)


def _check_plain(node: Node) -> None:
    """Refuse what later opsets added to a Resize."""
    plain = {
        "antialias": 0,
        "exclude_outside": 0,
        "keep_aspect_ratio_policy": "stretch",
        "axes": None,
    }
    for name, value in plain.items():
        if attribute(node, name, value) != value:
            raise UnsupportedModel(f"Resize with {name} is not computed here")


def _bilinear(
    tensor: Array, down: tuple[int, NDArray[np.float32]], across: tuple[int, NDArray[np.float32]]
) -> Array:
    top, bottom, near_top, near_bottom = _neighbours(*down)
    left, right, near_left, near_right = _neighbours(*across)
    total: Array = np.zeros((), np.float32)
    for rows, tall in ((top, near_top), (bottom, near_bottom)):
        for columns, wide in ((left, near_left), (right, near_right)):
            total = total + (wide * tall[:, None]) * tensor[:, :, rows][:, :, :, columns]
    return total


def _neighbours(length: int, positions: NDArray[np.float32]) -> tuple[Array, Array, Array, Array]:
    """Indices before and after each position, and the weight of each."""
    inside = np.clip(positions, 0, length - 1).astype(np.float32)
    low = np.minimum(inside.astype(np.int64), length - 1)
    high = np.minimum(low + 1, length - 1)
    weight_high = np.abs(inside - low.astype(np.float32))
    weight_low = np.abs(inside - high.astype(np.float32))
    is_one = low == high
    half = np.float32(0.5)
    return low, high, np.where(is_one, half, weight_low), np.where(is_one, half, weight_high)


def _positions(node: Node, length: int, out: int, scale: np.float32) -> NDArray[np.float32]:
    index = np.arange(out, dtype=np.float32)
    match attribute(node, "coordinate_transformation_mode", "half_pixel"):
        case "half_pixel":
            return (index + np.float32(0.5)) / scale - np.float32(0.5)
        case "pytorch_half_pixel":
            centred = (index + np.float32(0.5)) / scale - np.float32(0.5)
            return centred if out > 1 else np.zeros(out, np.float32)
        case "asymmetric":
            return index / scale
        case "align_corners":
            return index * np.float32(length - 1) / np.float32(max(out - 1, 1))
        case other:
            raise UnsupportedModel(f"Resize with {other} coordinates is not computed here")


def _nearest(node: Node, length: int, positions: NDArray[np.float32]) -> Array:
    match attribute(node, "nearest_mode", "round_prefer_floor"):
        case "round_prefer_floor":
            index = np.ceil(positions - np.float32(0.5))
        case "round_prefer_ceil":
            index = np.floor(positions + np.float32(0.5))
        case "floor":
            index = np.floor(positions)
        case _:
            index = np.ceil(positions)
    inside: Array = np.clip(index, 0, length - 1).astype(np.int64)
    return inside


def _ceil_pads(length: int, pads: tuple[int, int], span: int, stride: int) -> tuple[int, int]:
    """Padding that lets the last, cut window in, if it starts inside the input or its padding."""
    room = length + sum(pads) - span
    outputs = -(-room // stride) + 1
    if (outputs - 1) * stride >= length + pads[0]:
        outputs -= 1
    return pads[0], max(pads[1], (outputs - 1) * stride + span - length - pads[0])


def _pair(node: Node, name: str) -> tuple[int, int]:
    values = attribute(node, name, (1, 1))
    return int(values[0]), int(values[1])
