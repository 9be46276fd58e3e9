"""Weights to codes so that a layer's output, not its weights, stays close.

For inputs with second moments H = E[x x^T] the squared error of a row of weights is d H d^T with d
its rounding error. All functions here take rows in groups, (groups, rows, columns), with one H per
group, (groups, columns, columns): a depthwise convolution is a layer with as many groups as
filters.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.codes import nearest
from camsdk.compress.options import CodeSet

Doubles = NDArray[np.float64]

_DAMPING: Final = 0.01
_BLOCK: Final = 128
_SCALE_FACTORS: Final = np.linspace(0.6, 1.15, 23)


def damped(moments: Doubles) -> Doubles:
    """Second moments with 1% of their mean added to the diagonal, so that they can be inverted.

    The paper's section 3.3, step 3.
    """
    size = moments.shape[-1]
    level = np.trace(moments, axis1=-2, axis2=-1) / size
    level = np.where(level > 0, level * _DAMPING, 1.0)
    return np.asarray(moments + level[..., np.newaxis, np.newaxis] * np.eye(size))


def weighted_error(difference: Doubles, moments: Doubles) -> Doubles:
    """d H d^T per row: (groups, rows)."""
    return np.asarray(np.sum((difference @ moments) * difference, axis=-1))


def fit_scale(
    weights: Doubles, scale: Doubles, moments: Doubles, code_set: CodeSet, *, is_shared: bool
) -> Doubles:
    """The scale near a given one with which nearest rounding errs least, by the diagonal of H.

    Args:
        scale: (groups, rows), to start from.
        is_shared: One scale for all rows, given as equal values.
    """
    importance = np.diagonal(moments, axis1=-2, axis2=-1)[:, np.newaxis, :]
    errors = []
    for factor in _SCALE_FACTORS:
        tried = (scale * factor)[..., np.newaxis]
        difference = weights - nearest(weights, tried, code_set) * tried
        errors.append(np.sum(importance * difference**2, axis=-1))
    stacked = np.stack(errors)
    if is_shared:
        stacked = np.broadcast_to(stacked.sum(axis=(1, 2), keepdims=True), stacked.shape)
    return np.asarray(scale * _SCALE_FACTORS[np.argmin(stacked, axis=0)])


def round_gptq(
    weights: Doubles,
    scale: Doubles,
    moments: Doubles,
    code_set: CodeSet,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.int8]:
    """Round column after column and let the columns that follow make up for the error.

    "GPTQ: Accurate Post-Training Quantization" (arXiv:2210.17323), algorithm 1, columns in falling
    order of their second moment. A row for which the nearest codes are better keeps those.

    Args:
        weights: (groups, rows, columns).
        scale: (groups, rows).
        moments: (groups, columns, columns), not yet damped.
        mask: False where a weight is pruned; the columns that follow make up for that too
            (SparseGPT, arXiv:2301.00774, algorithm 1). The shape of the weights.

    Returns:
        Codes, (groups, rows, columns).
    """
    damp = damped(moments)
    kept = np.ones(weights.shape, np.bool_) if mask is None else mask
    codes = np.stack(
        [_gptq(w, s, h, code_set, k) for w, s, h, k in zip(weights, scale, damp, kept, strict=True)]
    )
    wide = scale[..., np.newaxis]
    plain = nearest(weights, wide, code_set) * kept
    is_worse = weighted_error(weights - codes * wide, moments) > weighted_error(
        weights - plain * wide, moments
    )
    return np.where(is_worse[..., np.newaxis], plain, codes)


def _gptq(
    weights: Doubles,
    scale: Doubles,
    moments: Doubles,
    code_set: CodeSet,
    kept: NDArray[np.bool_],
) -> NDArray[np.int8]:
    """One group: weights and kept (rows, columns), scale (rows,), moments (columns, columns)."""
    order = np.argsort(-np.diagonal(moments), kind="stable")
    inverse = np.linalg.inv(moments[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, kept = weights[:, order].copy(), kept[:, order]
    codes = np.empty(left.shape, np.int8)
    count = left.shape[1]
    for begin in range(0, count, _BLOCK):
        end = min(begin + _BLOCK, count)
        errors = np.empty((len(left), end - begin))
        for column in range(begin, end):
            codes[:, column] = nearest(left[:, column], scale, code_set) * kept[:, column]
            error = (left[:, column] - codes[:, column] * scale) / upper[column, column]
            left[:, column + 1 : end] -= np.outer(error, upper[column, column + 1 : end])
            errors[:, column - begin] = error
        left[:, end:] -= errors @ upper[begin:end, end:]
    result = np.empty_like(codes)
    result[:, order] = codes
    return result
