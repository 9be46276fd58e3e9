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
_RIDGE: Final = 0.1
_SMALLEST: Final = 1e-30
_BLOCK: Final = 128
_SWEEPS: Final = 3
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


def towards(weights: Doubles, second: Doubles, cross: Doubles) -> Doubles:
    """The weights that make of rounded inputs what the given ones make of exact inputs.

    The least squares of W z - V x over V, x being what enters the layer once the layers before it
    are rounded and z what entered it before (GPTAQ, arXiv:2504.02692, corrects for the same
    difference). A tenth of the mean second moment, added to both sides, keeps V near W where inputs
    say little.

    Args:
        weights: W, (groups, rows, columns).
        second, cross: E[x x^T] and E[z x^T], (groups, columns, columns).
    """
    size = second.shape[-1]
    level = np.trace(second, axis1=-2, axis2=-1) / size * _RIDGE + _SMALLEST
    ridged = second + level[..., np.newaxis, np.newaxis] * np.eye(size)
    # V - W alone is solved for: the ridge leaves it well within what float32 can tell
    aside = (weights @ (cross - second) / level[..., np.newaxis, np.newaxis]).transpose(0, 2, 1)
    scaled = ridged / level[..., np.newaxis, np.newaxis]
    solved = np.linalg.solve(scaled.astype(np.float32), aside.astype(np.float32))
    return np.asarray(weights + solved.transpose(0, 2, 1))


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
    kept = np.ones(weights.shape, np.bool_) if mask is None else mask
    codes = _gptq(weights, scale, damped(moments), code_set, kept)
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
    """All groups at once: a depthwise layer has many, of nine columns each.

    Columns lie along axis 1 here, so that one is contiguous.
    """
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    downwards = order[:, :, np.newaxis]
    carried = _carried(moments, order)
    exact = np.take_along_axis(weights.transpose(0, 2, 1), downwards, 1)
    kept = np.take_along_axis(kept.transpose(0, 2, 1), downwards, 1)
    codes, errors = np.empty(exact.shape, np.int8), np.empty(exact.shape)
    count = exact.shape[1]
    for begin in range(0, count, _BLOCK):
        end = min(begin + _BLOCK, count)
        before = carried[:, :begin, begin:end].transpose(0, 2, 1)
        wanted = exact[:, begin:end] + before @ errors[:, :begin]
        for column in range(begin, end):
            chosen = nearest(wanted[:, column - begin], scale, code_set) * kept[:, column]
            error = exact[:, column] - chosen * scale
            later = carried[:, column, column + 1 : end, np.newaxis]
            wanted[:, column - begin + 1 :] += later * error[:, np.newaxis]
            errors[:, column], codes[:, column] = error, chosen
    result = np.empty_like(codes)
    np.put_along_axis(result, np.broadcast_to(downwards, codes.shape), codes, 1)
    return np.ascontiguousarray(result.transpose(0, 2, 1))


def _carried(moments: Doubles, order: NDArray[np.intp]) -> Doubles:
    """How much of each column's error every later column must take up: upper triangular.

    With H = R R^T and R upper triangular, d H d^T is the sum over columns k of the squares of
    (d R)_k, which the choice of d_k alone brings to nearly nothing once the columns before it are
    chosen. That is GPTQ's result without the inverse of H (QuIP, arXiv:2307.13304, theorem 6).
    """
    backwards = order[:, ::-1]
    turned = np.take_along_axis(moments, backwards[:, :, np.newaxis], 1)
    turned = np.take_along_axis(turned, backwards[:, np.newaxis, :], 2)
    upper = _cholesky(turned)[:, ::-1, ::-1]
    return np.asarray(upper / np.diagonal(upper, axis1=1, axis2=2)[:, np.newaxis, :])


def _cholesky(moments: Doubles) -> Doubles:
    """Of moments that may be a little indefinite, lifted until they are not.

    Moments are summed in single precision. What is left of them about a mean that is large beside
    it, such as that of a nearly constant channel, may come out below zero.
    """
    try:
        return np.asarray(np.linalg.cholesky(moments), np.float64)
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(moments)
        lift = 2 * np.maximum(0.0, -values[:, 0]) + 1e-9 * np.abs(values).max(axis=1) + _SMALLEST
        lifted = moments + lift[:, np.newaxis, np.newaxis] * np.eye(len(moments[0]))
        return np.asarray(np.linalg.cholesky(lifted), np.float64)


def refine(
    codes: NDArray[np.int8],
    weights: Doubles,
    scale: Doubles,
    moments: Doubles,
    code_set: CodeSet,
    *,
    is_shared: bool,
) -> tuple[NDArray[np.int8], Doubles]:
    """Codes and scales with a smaller error of the output, found from given ones.

    In turn the scales that suit the codes, and column by column the codes that suit all the other
    columns (the coordinate descent of QuantEase, arXiv:2309.01885, algorithm 1). Neither step can
    raise the error, which includes the damping.

    Args:
        codes, weights: (groups, rows, columns).
        scale: (groups, rows).
        moments: (groups, columns, columns), not yet damped.
        is_shared: One scale for all rows, given as equal values.
    """
    damp = damped(moments)
    order = np.argsort(-np.diagonal(damp, axis1=1, axis2=2).mean(axis=0), kind="stable")
    damp, exact = damp[:, order[:, np.newaxis], order], weights[..., order].transpose(0, 2, 1)
    found = codes[..., order].transpose(0, 2, 1)
    wanted = damp @ exact
    for _ in range(_SWEEPS):
        product = damp @ found
        scale = _suited(found, exact, scale, product, is_shared=is_shared)
        found = _swept(found, wanted - product * scale[:, np.newaxis], scale, damp, code_set)
    result = np.empty_like(codes)
    result[..., order] = found.transpose(0, 2, 1)
    return result, scale


def _suited(
    codes: NDArray[np.int8], weights: Doubles, scale: Doubles, product: Doubles, *, is_shared: bool
) -> Doubles:
    """The scales of least error for these codes, as float32 holds them.

    Args:
        codes, weights, product: (groups, columns, rows); the product is that of H and the codes.
    """
    aligned, energy = np.sum(product * weights, axis=1), np.sum(product * codes, axis=1)
    if is_shared:
        aligned, energy = np.full_like(aligned, aligned.sum()), np.full_like(energy, energy.sum())
    is_usable = (aligned > 0) & (energy > 0)
    suited = np.where(is_usable, aligned / np.where(energy > 0, energy, 1.0), scale)
    return suited.astype(np.float32).astype(np.float64)


def _swept(
    codes: NDArray[np.int8], slope: Doubles, scale: Doubles, damp: Doubles, code_set: CodeSet
) -> NDArray[np.int8]:
    """Each column chosen anew, given the others; those of a block see one another at once.

    Args:
        codes: (groups, columns, rows).
        slope: H times the errors of these codes, the same shape; is used up.
    """
    codes = codes.copy()
    own = np.diagonal(damp, axis1=1, axis2=2)
    count = codes.shape[1]
    for begin in range(0, count, _BLOCK):
        end = min(begin + _BLOCK, count)
        changes = np.empty((len(codes), end - begin, codes.shape[2]))
        for column in range(begin, end):
            best = codes[:, column] * scale + slope[:, column] / own[:, column, np.newaxis]
            chosen = nearest(best, scale, code_set)
            change = (chosen.astype(np.float64) - codes[:, column]) * scale
            later = damp[:, column, column + 1 : end, np.newaxis]
            slope[:, column + 1 : end] -= later * change[:, np.newaxis]
            changes[:, column - begin], codes[:, column] = change, chosen
        slope[:, end:] -= damp[:, end:, begin:end] @ changes
    return codes
