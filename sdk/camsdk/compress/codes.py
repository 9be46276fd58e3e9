"""Integer codes times scales: what every method of quantization makes of a weight tensor."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.options import CodeSet, Granularity
from camsdk.errors import InvalidInput

_CLIPPING_STARTS: Final = 20
_STARTS: Final = 2
_MAX_ROUNDS: Final = 30
_SMALLEST: Final = 1e-30
"""Scales below lose their precision as float32; weights below are nothing."""


@dataclass(frozen=True)
class CodedTensor:
    """A weight tensor as ``codes * scale``.

    Attributes:
        codes: int8, the weight's shape; each in ``code_set.levels``, or 0 where pruned.
        scale: float32 above 0; shape () for the whole tensor, or (filters,) along axis 0.
        code_set: What the codes were chosen from.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    code_set: CodeSet

    def __post_init__(self) -> None:
        if self.scale.shape not in ((), self.codes.shape[:1]):
            raise InvalidInput(
                f"scales of shape {self.scale.shape} do not fit codes of shape {self.codes.shape}"
            )

    @property
    def values(self) -> NDArray[np.float32]:
        """The weights that the codes stand for, float32, same shape."""
        scale = self.scale.reshape(self.scale.shape + (1,) * (self.codes.ndim - self.scale.ndim))
        return self.codes.astype(np.float32) * scale

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return float(np.mean(self.codes == 0))


def nearest(
    weights: NDArray[np.floating], scale: NDArray[np.floating], code_set: CodeSet
) -> NDArray[np.int8]:
    """The codes whose multiples of ``scale`` are nearest; a tie goes to the even or upper code.

    Args:
        weights: Any shape.
        scale: Above 0; broadcasts against ``weights``.
    """
    scaled = np.asarray(weights, np.float64) / scale
    if code_set.bit_width == 1:
        return np.where(scaled < 0, np.int8(-1), np.int8(1))
    if code_set.spacing == "uniform":
        return np.clip(np.rint(scaled), -code_set.largest, code_set.largest).astype(np.int8)
    levels = code_set.levels
    between = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    return levels[np.searchsorted(between, scaled, side="right")]


def project(
    weights: NDArray[np.floating],
    code_set: CodeSet,
    granularity: Granularity = "filter",
    mask: NDArray[np.bool_] | None = None,
) -> CodedTensor:
    """The codes and scales that are nearest to the weights in least squares.

    For given codes Q the best scale is <w, Q> / <Q, Q>, for a given scale the best codes are the
    nearest ("Extremely Low Bit Neural Network", arXiv:1707.09870, projection). Alternating the
    two finds a fixed point; which one depends on the start. So every scale that puts the largest
    weight on a code, and twenty that clip it, are tried first, and the two best are the starts.
    Binary weights have one fixed point, sign(w) mean|w|, which is the optimum.

    Args:
        weights: Float, filters along axis 0.
        granularity: One scale per "filter" or for the whole "tensor".
        mask: Where False the weight is pruned: its code is 0, whatever the code set.

    Returns:
        Codes of the same shape. A filter without weights gets scale 1.

    Raises:
        InvalidInput: A weight is not finite, or the mask has another shape.
    """
    if not np.isfinite(weights).all():
        raise InvalidInput(
            "there are weights that are no finite numbers",
            "the model is damaged or its training has diverged: use an earlier one",
        )
    if mask is not None and mask.shape != weights.shape:
        raise InvalidInput(f"a mask of shape {mask.shape} for weights of shape {weights.shape}")
    kept = np.ones(weights.shape, np.bool_) if mask is None else mask
    shape = (1, -1) if granularity == "tensor" or not weights.ndim else (len(weights), -1)
    rows = np.where(kept, weights, 0).astype(np.float64).reshape(shape)
    codes, scale = _best(rows, kept.reshape(shape), code_set)
    return CodedTensor(
        codes.reshape(weights.shape),
        scale[0] if granularity == "tensor" else scale,
        code_set,
    )


def _best(
    rows: NDArray[np.float64], kept: NDArray[np.bool_], code_set: CodeSet
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (rows, n) and scales (rows,) of least squared error, each row by itself."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    is_empty = largest < _SMALLEST
    unit = np.where(is_empty, 1.0, largest)
    positive = code_set.levels[code_set.levels > 0].astype(np.float64)
    clipping = code_set.largest * np.linspace(1.05, 3.0, _CLIPPING_STARTS)
    divisors = np.concatenate([positive, clipping]) if code_set.has_zero else np.ones(1)
    errors = np.stack([_error(rows, kept, unit / divisor, code_set) for divisor in divisors])
    best_error = np.full(len(rows), np.inf)
    best_scale = unit.copy()
    for start in np.argsort(errors, axis=0, kind="stable")[:_STARTS]:
        scale = _alternated(rows, kept, unit / divisors[start], code_set)
        error = _error(rows, kept, scale, code_set)
        best_scale = np.where(error < best_error, scale, best_scale)
        best_error = np.minimum(error, best_error)
    scale32 = np.maximum(np.where(is_empty, 1.0, best_scale), _SMALLEST).astype(np.float32)
    return nearest(rows, scale32[:, np.newaxis], code_set) * kept, scale32


def _error(
    rows: NDArray[np.float64],
    kept: NDArray[np.bool_],
    scale: NDArray[np.float64],
    code_set: CodeSet,
) -> NDArray[np.float64]:
    codes = nearest(rows, scale[:, np.newaxis], code_set) * kept
    error: NDArray[np.float64] = np.square(rows - codes * scale[:, np.newaxis]).sum(axis=1)
    return error


def _alternated(
    rows: NDArray[np.float64],
    kept: NDArray[np.bool_],
    scale: NDArray[np.float64],
    code_set: CodeSet,
) -> NDArray[np.float64]:
    """The fixed point that a start leads to; the error never rises on the way."""
    for _ in range(_MAX_ROUNDS):
        codes = nearest(rows, scale[:, np.newaxis], code_set) * kept
        energy = np.einsum("rn,rn->r", codes, codes, dtype=np.float64)
        aligned = np.einsum("rn,rn->r", rows, codes, dtype=np.float64)
        better = np.where((energy > 0) & (aligned > 0), aligned / np.maximum(energy, 1.0), scale)
        if np.array_equal(better, scale):
            break
        scale = better
    return scale
