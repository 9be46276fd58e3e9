"""Weights onto codes times a scale, in torch: ``codes.project`` for every step of a training.

The same alternation as ``camsdk.compress.codes``, on all filters at once, in float32 and with a
start from the step before, so that it costs little beside a forward pass.
"""

from typing import Final

import torch
from torch import Tensor

from camsdk.compress.options import CodeSet, Granularity

_ROUNDS: Final = 8
_WARM_ROUNDS: Final = 2
_CLIPPING_STARTS: Final = 20
_SMALLEST: Final = 1e-30


def nearest_codes(scaled: Tensor, code_set: CodeSet) -> Tensor:
    """Codes nearest to weights that are divided by their scale; the same shape and dtype."""
    if code_set.bit_width == 1:
        return torch.where(scaled < 0, -1.0, 1.0).to(scaled.dtype)
    if code_set.spacing == "uniform":
        return scaled.round().clamp(-code_set.largest, code_set.largest)
    levels = torch.from_numpy(code_set.levels).to(scaled)
    between = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(scaled.detach(), between, right=True)]


def filter_shape(scale: Tensor, weight: Tensor) -> Tensor:
    """A scale of shape () or (filters,) so that it broadcasts against its weights."""
    return scale.reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))


@torch.no_grad()
def project_scale(
    weight: Tensor,
    code_set: CodeSet,
    granularity: Granularity = "filter",
    mask: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The scale of least squared error, each filter with its own best codes.

    Args:
        weight: Filters along axis 0.
        granularity: One scale per "filter" or for the whole "tensor".
        mask: bool; False where the weight is pruned.
        start: A scale to go on from; None tries the largest weight on every code and clippings.

    Returns:
        Above 0; shape () or (filters,); 1 for a filter without weights.
    """
    kept = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
    flat = (1, -1) if granularity == "tensor" else (len(weight), -1)
    rows = (weight * kept).reshape(flat)
    kept = kept.reshape(flat)
    largest = rows.abs().amax(dim=1)
    if not code_set.has_zero:
        # One fixed point for every start: sign(w) mean|w| over what is kept.
        scale = rows.abs().sum(dim=1) / kept.sum(dim=1).clamp(min=1)
    elif start is not None:
        scale = _alternated(rows, kept, start.reshape(-1), code_set, _WARM_ROUNDS)
    else:
        scale = _alternated(rows, kept, _best_start(rows, kept, code_set), code_set, _ROUNDS)
    scale = torch.where(largest < _SMALLEST, 1.0, scale).clamp(min=_SMALLEST)
    return scale[0] if granularity == "tensor" else scale


@torch.no_grad()
def project_weight(
    weight: Tensor, scale: Tensor, code_set: CodeSet, mask: Tensor | None = None
) -> Tensor:
    """Nearest codes times a given scale; pruned weights are 0."""
    shaped = filter_shape(scale, weight)
    projected = nearest_codes(weight / shaped, code_set) * shaped
    return projected if mask is None else torch.where(mask, projected, 0.0)


def _best_start(rows: Tensor, kept: Tensor, code_set: CodeSet) -> Tensor:
    positive = torch.from_numpy(code_set.levels[code_set.levels > 0]).to(rows)
    clipping = code_set.largest * torch.linspace(1.05, 3.0, _CLIPPING_STARTS).to(rows)
    largest = rows.abs().amax(dim=1).clamp(min=_SMALLEST)
    best = largest / code_set.largest
    least = torch.full_like(best, torch.inf)
    for divisor in torch.cat([positive, clipping]):
        # One round first: a start is as good as the fixed point that it leads to.
        scale = _alternated(rows, kept, largest / divisor, code_set, 1)
        error = _error(rows, kept, scale, code_set)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _error(rows: Tensor, kept: Tensor, scale: Tensor, code_set: CodeSet) -> Tensor:
    shaped = scale[:, None]
    return (rows - nearest_codes(rows / shaped, code_set) * shaped * kept).square().sum(dim=1)


def _alternated(
    rows: Tensor, kept: Tensor, scale: Tensor, code_set: CodeSet, rounds: int
) -> Tensor:
    """arXiv:1707.09870, projection step: codes for the scale, then the scale for the codes."""
    for _ in range(rounds):
        codes = nearest_codes(rows / scale[:, None], code_set) * kept
        energy = codes.square().sum(dim=1)
        aligned = (rows * codes).sum(dim=1)
        is_found = (energy > 0) & (aligned > 0)
        scale = torch.where(is_found, aligned / energy.clamp(min=1), scale)
    return scale
