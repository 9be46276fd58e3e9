"""Rounding that is learned: each weight goes up or down, whichever serves the layer's output.

"Up or Down? Adaptive Rounding for Post-Training Quantization" (arXiv:2004.10568): a relaxed choice
h between the two codes around each weight is optimised with Adam (equations 21 to 24). The squared
error of a layer's output is a quadratic form in the second moments of its inputs, so no inputs are
needed while learning.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.codes import nearest
from camsdk.compress.options import CodeSet
from camsdk.compress.ptq.rounding import Doubles, weighted_error

_STEPS: Final = 400
_LEARNING_RATE: Final = 0.05
_REGULARIZATION: Final = 2.0
"""Of the term that drives h to 0 or 1, per weight, the error being 1 for the nearest codes."""
_WARM_UP: Final = 0.2
_FIRST_BETA: Final = 20.0
_LAST_BETA: Final = 2.0
_STRETCH: Final = 1.2
_SHIFT: Final = -0.1
"""The rectified sigmoid is clip(sigmoid(v) * stretch + shift, 0, 1)."""


def round_learned(
    weights: Doubles, scale: Doubles, moments: Doubles, code_set: CodeSet
) -> NDArray[np.int8]:
    """Codes that are next to the weights, up or down.

    Args, returns: As ``rounding.round_gptq``; a row for which the nearest codes are better keeps
    those. Binary codes have no choice between them and are the nearest.
    """
    wide = scale[..., np.newaxis]
    plain = nearest(weights, wide, code_set)
    if len(code_set.levels) < 3:
        return plain
    levels = code_set.levels.astype(np.float64)
    below = np.searchsorted(levels, weights / wide, side="right") - 1
    below = np.clip(below, 0, len(levels) - 2)
    low, gap = levels[below], levels[below + 1] - levels[below]
    error = weighted_error(weights - plain * wide, moments)
    unit = np.maximum(error, 1e-30)[..., np.newaxis] / weights.shape[-1]
    share = _optimise((weights - low * wide) / wide, gap, wide, moments, unit)
    codes = np.where(share >= 0.5, low + gap, low).astype(np.int8)
    is_worse = weighted_error(weights - codes * wide, moments) > error
    return np.where(is_worse[..., np.newaxis], plain, codes)


def _optimise(
    above: Doubles, gap: Doubles, wide: Doubles, moments: Doubles, unit: Doubles
) -> Doubles:
    """h of each weight, given how far it lies above the lower code, in units of the scale."""
    start = np.clip((np.clip(above / gap, 0, 1) - _SHIFT) / _STRETCH, 0.01, 0.99)
    free = np.log(start / (1 - start))
    first, second = np.zeros_like(free), np.zeros_like(free)
    for step in range(1, _STEPS + 1):
        sigmoid = 1 / (1 + np.exp(-free))
        stretched = sigmoid * _STRETCH + _SHIFT
        share = np.clip(stretched, 0, 1)
        error = (share * gap - above) * wide
        gradient = 2 * (error @ moments) * wide * gap / unit
        progress = step / _STEPS
        if progress > _WARM_UP:
            part = (progress - _WARM_UP) / (1 - _WARM_UP)
            beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * (1 + np.cos(np.pi * part)) / 2
            offset = 2 * share - 1
            gradient -= _REGULARIZATION * 2 * beta * np.abs(offset) ** (beta - 1) * np.sign(offset)
        gradient *= _STRETCH * sigmoid * (1 - sigmoid) * ((stretched > 0) & (stretched < 1))
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        change = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-12)
        free -= _LEARNING_RATE * change
    return np.clip(1 / (1 + np.exp(-free)) * _STRETCH + _SHIFT, 0, 1)
