"""Integer kernels: a quantized operator from codes to codes, as onnxruntime's CPU kernels round.

Activations are uint8 or int8 with one scale and zero point, weights int8 with one per filter,
biases int32. With a real value r = scale * (code - zero_point) (arXiv:1712.05877, equation 1),
every kernel computes an exact integer, multiplies it once with a float32 factor, rounds to the
nearest integer, half to even, adds the zero point and saturates. Where onnxruntime does otherwise,
the kernel says so; ``tests/contract/test_runtimes.py`` holds each to its bound.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.onnx_read import Node
from camsdk.artifact.reference_operators import (
    OPERATORS,
    gemm_operands,
    logistic,
    softmax,
)
from camsdk.artifact.reference_windows import attribute, average_pool, convolve

Array = NDArray[Any]
F32: Final = np.float32


@dataclass(frozen=True)
class Grid:
    """What codes stand for.

    Attributes:
        scale: float32, shape () or (channels,).
        zero_point: Of the codes' type, the scale's shape.
        axis: Of the channels.
    """

    scale: Array
    zero_point: Array
    axis: int = 1

    def same_as(self, other: "Grid") -> bool:
        """Whether equal codes stand for equal values, one scale for all."""
        return (
            self.scale.size == other.scale.size == 1
            and self.scale.item() == other.scale.item()
            and self.zero_point.item() == other.zero_point.item()
            and self.zero_point.dtype == other.zero_point.dtype
        )

    def along(self, values: Array, ndim: int) -> Array:
        """Scale or zero point in a shape that broadcasts over a tensor."""
        if values.size == 1:
            return values.reshape(())
        shape = [1] * ndim
        shape[self.axis % ndim] = -1
        return values.reshape(shape)


@dataclass(frozen=True)
class Codes:
    """A quantized tensor."""

    values: Array
    grid: Grid

    def centred(self) -> NDArray[np.int64]:
        """Codes less their zero points."""
        zero = self.grid.along(self.grid.zero_point, self.values.ndim)
        return self.values.astype(np.int64) - zero.astype(np.int64)

    def real(self) -> NDArray[np.float32]:
        """What the codes stand for, as DequantizeLinear computes it."""
        scale = self.grid.along(self.grid.scale, self.values.ndim)
        return np.asarray(self.centred().astype(F32) * scale, F32)


Kernel = Callable[[Node, Sequence[Any], Grid], Array]
"""Node, its inputs (``Codes``, or arrays and None as they are), the grid of the result."""


def quantize(values: Array, grid: Grid) -> Array:
    """QuantizeLinear of float32: round half to even, then saturate."""
    scale = grid.along(grid.scale, values.ndim)
    return saturate(np.rint(values.astype(F32) / scale), grid, values.ndim)


def saturate(rounded: Array, grid: Grid, ndim: int) -> Array:
    """Add the zero point to whole numbers and clip to the type's range."""
    limits = np.iinfo(grid.zero_point.dtype)
    zero = grid.along(grid.zero_point, ndim).astype(np.float64)
    shifted = np.nan_to_num(rounded.astype(np.float64), nan=0.0) + zero
    return np.clip(shifted, limits.min, limits.max).astype(grid.zero_point.dtype)


def requantize(accumulators: Array, multiplier: Array, grid: Grid) -> Array:
    """int32 accumulators times a float32 multiplier, rounded, to codes.

    Args:
        accumulators: Whole numbers in the range of int32.
        multiplier: float32 that broadcasts over them.
    """
    scaled = np.asarray(accumulators).astype(np.int64).astype(F32) * multiplier
    return saturate(np.rint(scaled), grid, scaled.ndim)


def _conv(node: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    x, weights = inputs[0], inputs[1]
    sums = convolve(x.centred(), weights.centred(), node)
    if len(inputs) > 2 and inputs[2] is not None:
        sums = sums + inputs[2].values.reshape(1, -1, 1, 1)
    return requantize(sums, _multiplier(x, weights, grid, (1, -1, 1, 1)), grid)


def _gemm(node: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    a, b = inputs[:2]
    left, right = gemm_operands(node, (a.centred(), b.centred()))
    sums = left.astype(np.float64) @ right.astype(np.float64)
    if len(inputs) > 2 and inputs[2] is not None:
        sums = sums + inputs[2].values
    alpha = F32(attribute(node, "alpha", 1.0))
    return requantize(sums, _multiplier(a, b, grid, (1, -1)) * alpha, grid)


def _matmul(_: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    a, b = inputs
    sums = a.centred().astype(np.float64) @ b.centred().astype(np.float64)
    return requantize(sums, _multiplier(a, b, grid, (-1,)), grid)


def _multiplier(x: Codes, weights: Codes, grid: Grid, shape: tuple[int, ...]) -> Array:
    """Scale of x times scale of w over scale of y, in float32 in this order."""
    scale = weights.grid.scale
    factor = x.grid.scale.reshape(()) * (scale.reshape(shape) if scale.size > 1 else scale)
    return np.asarray(factor / grid.scale.reshape(()), F32)


def _add(_: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    """Sums in float32: a_code * a + (zero - (a * a_zero + b * b_zero)) + b_code * b."""
    a, b = inputs
    ratio_a = np.asarray(a.grid.scale / grid.scale, F32).reshape(())
    ratio_b = np.asarray(b.grid.scale / grid.scale, F32).reshape(())
    zero_a, zero_b = (F32(codes.grid.zero_point.item()) for codes in (a, b))
    fixed = F32(grid.zero_point.item()) - (ratio_a * zero_a + ratio_b * zero_b)
    total = a.values.astype(F32) * ratio_a + fixed + b.values.astype(F32) * ratio_b
    return _saturate_shifted(np.rint(total), grid)


def _mul(_: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    """The zero point is added before the rounding."""
    a, b = inputs
    ratio = np.asarray(a.grid.scale * b.grid.scale / grid.scale, F32).reshape(())
    product = (a.centred() * b.centred()).astype(F32) * ratio + F32(grid.zero_point.item())
    return _saturate_shifted(np.rint(product), grid)


def _saturate_shifted(rounded: Array, grid: Grid) -> Array:
    """Clip whole numbers that have the zero point in them already."""
    limits = np.iinfo(grid.zero_point.dtype)
    return np.clip(rounded, limits.min, limits.max).astype(grid.zero_point.dtype)


def _concat(node: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    parts = [
        codes.values if codes.grid.same_as(grid) else quantize(codes.real(), grid)
        for codes in inputs
    ]
    return np.concatenate(parts, attribute(node, "axis", 0))


def _average_pool(node: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    """In float32: values summed in the order of rows, divided twice, zero point, then rounded."""
    sums, counts = average_pool(inputs[0].real(), node)
    means = sums / counts.astype(F32)
    return _saturate_shifted(np.rint(means / grid.scale + F32(grid.zero_point.item())), grid)


def _global_average_pool(_: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    x = inputs[0].centred()
    sums = x.sum(axis=tuple(range(2, x.ndim)), keepdims=True)
    count = F32(x[0, 0].size)
    multiplier = np.asarray(inputs[0].grid.scale / (grid.scale * count), F32).reshape(())
    return requantize(sums, multiplier, grid)


def _by_table(compute: Callable[[Node, Array], Array]) -> Kernel:
    """A function of one value: the result for each of the 256 codes, then looked up."""

    def kernel(node: Node, inputs: Sequence[Any], grid: Grid) -> Array:
        x = inputs[0]
        limits = np.iinfo(x.values.dtype)
        every = np.arange(limits.min, limits.max + 1).astype(x.values.dtype)
        table = quantize(compute(node, Codes(every, x.grid).real()), grid)
        found: Array = table[x.values.astype(np.int64) - limits.min]
        return found

    return kernel


def _softmax(node: Node, inputs: Sequence[Any], grid: Grid) -> Array:
    return quantize(softmax(inputs[0].real(), attribute(node, "axis", -1)), grid)


KERNELS: Final[Mapping[str, Kernel]] = MappingProxyType(
    {
        "Add": _add,
        "AveragePool": _average_pool,
        "Concat": _concat,
        "Conv": _conv,
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "LeakyRelu": _by_table(lambda node, x: np.asarray(OPERATORS["LeakyRelu"](node, [x]))),
        "MatMul": _matmul,
        "Mul": _mul,
        "Sigmoid": _by_table(lambda _, x: logistic(x)),
        "Softmax": _softmax,
    }
)
"""By operator. Inputs that the operator quantizes come as ``Codes``."""

MOVES: Final = frozenset(
    ("Flatten", "Gather", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that only choose among codes: they run on the codes where both grids are the same."""
