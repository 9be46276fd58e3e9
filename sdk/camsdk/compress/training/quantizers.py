"""Quantizers for the forward pass of a training, with scales and ranges that are learned.

The gradients of scales are those of "Learned Step Size Quantization" (arXiv:1902.08153, eq. 3) and,
for ranges that begin below zero, of LSQ+ (arXiv:2004.09576, section 3.1); rounding passes gradients
straight through. Inputs beyond their range have none (eq. 5), weights do: one that is clipped keeps
its gradient, as a pruned one does, or it would hardly come back.
"""

import math
from typing import Any, Final

import torch
from torch import Generator, Tensor, nn

from camsdk.compress.options import CodeSet, WeightOptions
from camsdk.compress.training.projection import (
    filter_shape,
    nearest_codes,
    project_scale,
    project_weight,
)

_SMALLEST_STEP: Final = 1e-6
_FLOOR: Final = 0.05
"""Of a first step: at 0 nothing passes and no gradient leads back, and momentum can get there."""
_CANDIDATES: Final = 60
_SAMPLE: Final = 16_384


class _CodedWeight(torch.autograd.Function):
    """Codes times a scale of shape () or (filters,), with the gradients of LSQ for both."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, mask: Tensor, code_set: CodeSet) -> Tensor:
        shaped = filter_shape(scale, weight)
        scaled = weight / shaped
        codes = nearest_codes(scaled, code_set) * mask
        # Binary codes have no interior: the scale's derivative is the code itself everywhere.
        is_inside = scaled.abs() <= (code_set.largest if code_set.has_zero else 0)
        ctx.save_for_backward(torch.where(is_inside, codes - scaled * mask, codes))
        ctx.scale_shape = scale.shape
        # Section 2.2: the size of a step's gradient against that of its weights.
        count = weight.numel() // max(1, scale.numel())
        ctx.factor = 1 / math.sqrt(count * code_set.largest)
        # What is +0.0 in the export is +0.0 here: -0.0 would differ in its bytes alone.
        return codes * shaped + 0.0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        products = gradient * slope
        if ctx.scale_shape:
            of_scale = products.reshape(len(products), -1).sum(dim=1)
        else:
            of_scale = products.sum()
        # Pruned weights keep their gradient: it says which of them should come back.
        return gradient, of_scale * ctx.factor, None, None


class WeightQuantizer(nn.Module):
    """A parametrization: float weights in, codes times learned scales out.

    Attributes:
        shift: Added to the weights before they are rounded, filters first; None adds nothing.
        is_float: Whether weights pass as they are.

    Args:
        weight: Float, filters along axis 0; its projection gives the first scales.
        options: Codes and what shares a scale.
        is_transposed: Whether the module stores filters along axis 1, as transposed convolutions
            do. All else here is filters first.
    """

    mask: Tensor
    least: Tensor

    def __init__(
        self, weight: Tensor, options: WeightOptions, *, is_transposed: bool = False
    ) -> None:
        super().__init__()
        self.options = options
        self._is_transposed = is_transposed
        self.shift: Tensor | None = None
        self.is_float = False
        first = project_scale(weight.detach(), options.code_set, options.granularity)
        self.scale = nn.Parameter(first)
        # Masks change it, so a resumed training must find it again.
        self.register_buffer("least", first * _FLOOR)
        mask = torch.ones_like(weight, dtype=torch.bool)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights that the layer computes with, from and to the module's own layout."""
        if self.is_float:
            return weight
        filters = weight.transpose(0, 1) if self._is_transposed else weight
        scale: Tensor = self.scale
        if self.shift is not None:
            filters, scale = filters + self.shift, scale.detach()
        coded: Tensor = _CodedWeight.apply(filters, scale, self.mask, self.options.code_set)  # type: ignore[no-untyped-call] # untyped in torch
        return coded.transpose(0, 1) if self._is_transposed else coded

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Take the scales of the weights' projection, by the alternation from those it has."""
        code_set, granularity = self.options.code_set, self.options.granularity
        self.scale.copy_(project_scale(weight, code_set, granularity, self.mask, self.scale))
        self.least.copy_(self.scale * _FLOOR)

    @torch.no_grad()
    def project(self, weight: Tensor) -> Tensor:
        """The nearest codes times the scales as they are; pruned weights are 0."""
        return project_weight(weight, self.scale, self.options.code_set, self.mask)

    @torch.no_grad()
    def prune(self, weight: Tensor, mask: Tensor) -> None:
        """Take another mask; scales change as those of the projection do."""
        if torch.equal(mask, self.mask):
            return
        code_set, granularity = self.options.code_set, self.options.granularity
        before = project_scale(weight, code_set, granularity, self.mask)
        after = project_scale(weight, code_set, granularity, mask)
        self.scale.mul_(after / before)
        self.least.mul_(after / before)
        self.mask.copy_(mask)

    @torch.no_grad()
    def keep_valid(self) -> None:
        """Undo what an optimizer's step must not do: a scale of 0 or below."""
        self.scale.copy_(torch.maximum(self.scale, self.least))

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Tensor:
        """int8, of weights that are filters first, for the scales as they are."""
        scaled = weight / filter_shape(self.scale, weight)
        return (nearest_codes(scaled, self.options.code_set) * self.mask).to(torch.int8)


class _CodedInput(torch.autograd.Function):
    """Unsigned codes times a step, minus a zero point."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: Tensor, count: int) -> Tensor:
        # In place wherever it can be: this runs on every activation, and memory is what it costs.
        zero = float((-low / step).round().clamp(0, count))
        scaled = x / step
        codes = scaled.round().clamp_(-zero, count - zero)
        is_inside = scaled <= count - zero
        if zero or scaled.min() < 0:
            is_inside.logical_and_(scaled >= -zero)
        slope = torch.sub(codes, scaled.mul_(is_inside), out=scaled)
        ctx.save_for_backward(is_inside, slope)
        ctx.factor = 1 / math.sqrt(x[0].numel() * count)
        return codes.mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        is_inside, slope = ctx.saved_tensors
        of_step = (gradient * slope).sum() * ctx.factor
        of_input = gradient * is_inside
        # LSQ+: moving the range moves every clipped value with it.
        of_low = (gradient - of_input).sum() * ctx.factor if ctx.needs_input_grad[2] else None
        return of_input, of_step, of_low, None


class InputQuantizer(nn.Module):
    """What enters a layer, on unsigned codes: the range is learned, and contains 0.

    Args:
        sample: Values that enter the layer, any shape; their range of least squared error is the
            start. If none is below 0, as behind a ReLU, the range begins at 0 for good.
        bit_width: 2 to 8.
    """

    def __init__(self, sample: Tensor, bit_width: int) -> None:
        super().__init__()
        self.bit_width = bit_width
        low, high = _least_squares_range(sample.detach(), bit_width)
        step = max((high - low) / self.count, _SMALLEST_STEP)
        self.step = nn.Parameter(torch.tensor(step))
        self.low = nn.Parameter(torch.tensor(low), requires_grad=low < 0)
        self._least = step * _FLOOR

    @property
    def count(self) -> int:
        """The largest code."""
        return (1 << self.bit_width) - 1

    def forward(self, x: Tensor) -> Tensor:
        """The nearest multiples of the step within the range."""
        coded: Tensor = _CodedInput.apply(x, self.step, self.low, self.count)  # type: ignore[no-untyped-call] # untyped in torch
        return coded

    @torch.no_grad()
    def keep_valid(self) -> None:
        """Undo what an optimizer's step must not do: a step or a range of no width."""
        self.step.clamp_(min=self._least)
        self.low.clamp_(max=0.0)

    @torch.no_grad()
    def settle(self) -> None:
        """Begin the range at a multiple of the step, as integers with a zero point must."""
        self.keep_valid()
        self.low.copy_(-self.step * self._zero())

    def range(self) -> tuple[float, float, int]:
        """Low, high and bits of what the layer reads."""
        step, zero = float(self.step.detach()), float(self._zero())
        return (-zero * step if zero else 0.0, (self.count - zero) * step, self.bit_width)

    def _zero(self) -> Tensor:
        return (-self.low / self.step).detach().round().clamp(0, self.count)


def sample_of(values: Tensor) -> Tensor:
    """Values that stand for a tensor when its range is chosen: its extremes and 16384 others.

    They are drawn at random, the same for the same number of values: a stride would meet the same
    columns of a picture over and over. Extremes decide whether a range begins at 0.
    """
    flat = values.detach().reshape(-1)
    if len(flat) <= _SAMPLE:
        return flat.clone()
    chosen = torch.randint(len(flat), (_SAMPLE,), generator=Generator().manual_seed(0))
    return torch.cat([flat[chosen.to(flat.device)], torch.stack([flat.min(), flat.max()])])


def _least_squares_range(sample: Tensor, bit_width: int) -> tuple[float, float]:
    """The range [a low, a high] with 0 < a <= 1 whose codes are nearest to the sample."""
    values = sample.reshape(-1).float()
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if high - low < _SMALLEST_STEP:
        return low, low + 1.0
    count = 2**bit_width - 1
    best, least = 1.0, math.inf
    for share in torch.linspace(1 / _CANDIDATES, 1.0, _CANDIDATES).tolist():
        step = (high - low) * share / count
        zero = min(max(round(-low * share / step), 0), count)
        coded = ((values / step).round() + zero).clamp(0, count).sub_(zero).mul_(step)
        error = float((coded - values).square().mean())
        if error < least:
            best, least = share, error
    return low * best, high * best
