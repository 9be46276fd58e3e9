"""ONNX operators in float32, by numpy: what the reference interpreter does between integers.

One function an operator: the node, its inputs (None where left out), and back its outputs. Sums of
products are made in float64 and rounded once. Definitions: https://onnx.ai/onnx/operators.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.onnx_read import Node
from camsdk.artifact.reference_windows import (
    attribute,
    average_pool,
    convolve,
    convolve_transposed,
    max_pool,
    resize,
)
from camsdk.errors import UnsupportedModel

Array = NDArray[Any]
Inputs = Sequence[Any]
"""Arrays, None for an input that is left out."""
Operator = Callable[[Node, Inputs], Any]
"""Gives an array, or a tuple of several."""

F32: Final = np.float32


def _as_f32(values: Any) -> Array:
    return np.asarray(values, F32)


def _conv(node: Node, inputs: Inputs) -> Array:
    product = convolve(inputs[0], inputs[1], node)
    return _with_bias(product, inputs).astype(F32)


def _conv_transpose(node: Node, inputs: Inputs) -> Array:
    return _with_bias(convolve_transposed(inputs[0], inputs[1], node), inputs).astype(F32)


def _with_bias(product: Array, inputs: Inputs) -> Array:
    if len(inputs) < 3 or inputs[2] is None:
        return product
    biased: Array = product + inputs[2].reshape(1, -1, 1, 1)
    return biased


def gemm_operands(node: Node, inputs: Inputs) -> tuple[Array, Array]:
    """Both factors of a Gemm, transposed as its attributes say."""
    a, b = inputs[:2]
    return (
        a.T if attribute(node, "transA", 0) else a,
        b.T if attribute(node, "transB", 0) else b,
    )


def _gemm(node: Node, inputs: Inputs) -> Array:
    a, b = gemm_operands(node, inputs)
    product = a.astype(np.float64) @ b.astype(np.float64) * attribute(node, "alpha", 1.0)
    if len(inputs) > 2 and inputs[2] is not None:
        product = product + inputs[2] * attribute(node, "beta", 1.0)
    return _as_f32(product)


def _matmul(_: Node, inputs: Inputs) -> Array:
    return _as_f32(inputs[0].astype(np.float64) @ inputs[1].astype(np.float64))


def _batch_normalization(node: Node, inputs: Inputs) -> Array:
    x, *rest = inputs
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale, bias, mean, variance = (value.reshape(shape) for value in rest)
    epsilon = F32(attribute(node, "epsilon", 1e-5))
    return _as_f32((x - mean) / np.sqrt(variance + epsilon) * scale + bias)


def _average_pool(node: Node, inputs: Inputs) -> Array:
    sums, counts = average_pool(inputs[0], node)
    return _as_f32(sums / counts.astype(F32))


def _global_average_pool(_: Node, inputs: Inputs) -> Array:
    axes = tuple(range(2, inputs[0].ndim))
    return _as_f32(inputs[0].mean(axis=axes, keepdims=True, dtype=np.float64))


def _resize(node: Node, inputs: Inputs) -> Array:
    padded = [*inputs, None, None, None]
    return resize(padded[0], node, padded[2], padded[3])


def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)) in float64, rounded to float32."""
    wide = x.astype(np.float64)
    return (1 / (1 + np.exp(-wide))).astype(F32)


def _leaky_relu(node: Node, inputs: Inputs) -> Array:
    x = inputs[0]
    return _as_f32(np.where(x >= 0, x, x * F32(attribute(node, "alpha", 0.01))))


def _hard_sigmoid(node: Node, inputs: Inputs) -> Array:
    alpha, beta = F32(attribute(node, "alpha", 0.2)), F32(attribute(node, "beta", 0.5))
    return _as_f32(np.clip(inputs[0] * alpha + beta, F32(0), F32(1)))


def _hard_swish(_: Node, inputs: Inputs) -> Array:
    x = inputs[0]
    return _as_f32(x * np.clip(x / F32(6) + F32(0.5), F32(0), F32(1)))


def clip_bounds(node: Node, inputs: Inputs) -> tuple[float, float]:
    """Lower and upper bound of a Clip, whichever way it states them."""
    low, high = attribute(node, "min", -np.inf), attribute(node, "max", np.inf)
    if len(inputs) > 1 and inputs[1] is not None:
        low = inputs[1]
    if len(inputs) > 2 and inputs[2] is not None:
        high = inputs[2]
    return float(low), float(high)


def _clip(node: Node, inputs: Inputs) -> Array:
    """Of float32, or of codes: activations below 8 bits are clipped so."""
    x = inputs[0]
    low, high = clip_bounds(node, inputs)
    if x.dtype.kind != "f":
        limits = np.iinfo(x.dtype)
        low, high = max(low, limits.min), min(high, limits.max)
    clipped: Array = np.clip(x, x.dtype.type(low), x.dtype.type(high))
    return clipped


def softmax(x: Array, axis: int) -> Array:
    """Softmax in float64, rounded to float32."""
    wide = x.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=axis, keepdims=True))
    return _as_f32(powers / powers.sum(axis=axis, keepdims=True))


def _reshape(node: Node, inputs: Inputs) -> Array:
    x, shape = inputs[0], [int(size) for size in inputs[1]]
    if not attribute(node, "allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    reshaped: Array = x.reshape(shape)
    return reshaped


def _flatten(node: Node, inputs: Inputs) -> Array:
    axis = attribute(node, "axis", 1) % (inputs[0].ndim + 1)
    rows = int(np.prod(inputs[0].shape[:axis], dtype=np.int64))
    flat: Array = inputs[0].reshape(rows, -1)
    return flat


def _axes(node: Node, inputs: Inputs, index: int = 1) -> tuple[int, ...] | None:
    """Axes by input, as newer versions have it, or by attribute."""
    if len(inputs) > index and inputs[index] is not None:
        return tuple(int(axis) for axis in inputs[index])
    axes = attribute(node, "axes", None)
    return None if axes is None else tuple(axes)


def _squeeze(node: Node, inputs: Inputs) -> Array:
    squeezed: Array = np.squeeze(inputs[0], _axes(node, inputs))
    return squeezed


def _unsqueeze(node: Node, inputs: Inputs) -> Array:
    return np.expand_dims(inputs[0], _axes(node, inputs) or ())


def _split(node: Node, inputs: Inputs) -> tuple[Array, ...]:
    axis, count = attribute(node, "axis", 0), len(node.outputs)
    sizes = attribute(node, "split", None)
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = inputs[1]
    if sizes is None:
        step = -(-inputs[0].shape[axis] // count)
        sizes = [step] * (count - 1)
    return tuple(np.split(inputs[0], np.cumsum(np.asarray(sizes, np.int64))[: count - 1], axis))


def _slice(_: Node, inputs: Inputs) -> Array:
    x, starts, ends, *rest = inputs
    axes = rest[0] if rest and rest[0] is not None else range(len(starts))
    steps = rest[1] if len(rest) > 1 and rest[1] is not None else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Far beyond either side means the end; python's slice would count -1 from the back.
        stop = None if step < 0 and end < -x.shape[axis] else int(end)
        index[int(axis)] = slice(int(start), stop, int(step))
    sliced: Array = x[tuple(index)]
    return sliced


def _pad(node: Node, inputs: Inputs) -> Array:
    if attribute(node, "mode", "constant") != "constant":
        raise UnsupportedModel("a Pad that repeats the image is not computed here")
    x, pads = inputs[0], inputs[1].reshape(2, -1)
    axes = inputs[3] if len(inputs) > 3 and inputs[3] is not None else range(x.ndim)
    widths = [(0, 0)] * x.ndim
    for column, axis in enumerate(axes):
        widths[int(axis)] = (int(pads[0, column]), int(pads[1, column]))
    value = inputs[2] if len(inputs) > 2 and inputs[2] is not None else 0
    return np.pad(x, widths, constant_values=value)


def _transpose(node: Node, inputs: Inputs) -> Array:
    moved: Array = np.transpose(inputs[0], attribute(node, "perm", None))
    return moved


def _reduce_mean(node: Node, inputs: Inputs) -> Array:
    is_kept = bool(attribute(node, "keepdims", 1))
    mean = inputs[0].mean(axis=_axes(node, inputs), keepdims=is_kept, dtype=np.float64)
    return _as_f32(mean)


def _sum(_: Node, inputs: Inputs) -> Array:
    total: Array = inputs[0]
    for value in inputs[1:]:
        total = total + value
    return total


OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "Add": lambda _, inputs: inputs[0] + inputs[1],
        "AveragePool": _average_pool,
        "BatchNormalization": _batch_normalization,
        "Clip": _clip,
        "Concat": lambda node, inputs: np.concatenate(inputs, attribute(node, "axis", 0)),
        "Constant": lambda node, _: np.asarray(node.attributes["value"]),
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "Div": lambda _, inputs: inputs[0] / inputs[1],
        "Exp": lambda _, inputs: np.exp(inputs[0]),
        "Flatten": _flatten,
        "Gather": lambda node, inputs: np.take(inputs[0], inputs[1], attribute(node, "axis", 0)),
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _hard_swish,
        "Identity": lambda _, inputs: inputs[0],
        "LeakyRelu": _leaky_relu,
        "MatMul": _matmul,
        "MaxPool": lambda node, inputs: max_pool(inputs[0], node),
        "Mul": lambda _, inputs: inputs[0] * inputs[1],
        "PRelu": lambda _, inputs: np.where(inputs[0] >= 0, inputs[0], inputs[0] * inputs[1]),
        "Pad": _pad,
        "ReduceMean": _reduce_mean,
        "Relu": lambda _, inputs: np.maximum(inputs[0], 0),
        "Reshape": _reshape,
        "Resize": _resize,
        "Shape": lambda _, inputs: np.array(inputs[0].shape, np.int64),
        "Sigmoid": lambda _, inputs: logistic(inputs[0]),
        "Slice": _slice,
        "Softmax": lambda node, inputs: softmax(inputs[0], attribute(node, "axis", -1)),
        "Split": _split,
        "Sqrt": lambda _, inputs: np.sqrt(inputs[0]),
        "Squeeze": _squeeze,
        "Sub": lambda _, inputs: inputs[0] - inputs[1],
        "Sum": _sum,
        "Tanh": lambda _, inputs: np.tanh(inputs[0]),
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
"""By name. Each takes float32, those that only move data take any type."""
