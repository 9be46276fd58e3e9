"""The operator Resize of ONNX in torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from camsdk.errors import UnsupportedModel


def resize(
    x: Tensor,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    given: Mapping[str, Any],
) -> Tensor:
    """Nearest or linear interpolation of all axes from the third on.

    Args:
        x: (n, c, h, w), or with fewer or more axes at the end.
        scales, sizes: Of all axes of the result; one of the two.
        given: Attributes of the node.

    Raises:
        UnsupportedModel: Another mode, or coordinates that are not computed here.
    """
    target, factors = _target(x.shape[2:], scales, sizes)
    mode = given.get("mode", b"nearest").decode()
    place = given.get("coordinate_transformation_mode", b"half_pixel").decode()
    rounding = given.get("nearest_mode", b"round_prefer_floor").decode()
    is_plain = all(new == old * f for new, old, f in zip(target, x.shape[2:], factors, strict=True))
    # torch's own is faster where it computes the same.
    if mode == "nearest" and place == "asymmetric" and rounding == "floor" and is_plain:
        return functional.interpolate(x, target)
    sources = [
        _source(torch.arange(new, dtype=torch.float64), old, new, factor, place)
        for old, new, factor in zip(x.shape[2:], target, factors, strict=True)
    ]
    if mode == "linear" and x.ndim == 4:
        return _bilinear(x, *sources)
    for axis, at in enumerate(sources, start=2):
        old = x.shape[axis]
        if mode == "nearest":
            x = x.index_select(axis, _nearest(at, rounding).clamp(0, old - 1).to(x.device))
        elif mode == "linear":
            x = _between(x, axis, at.clamp(0, old - 1))
        else:
            raise UnsupportedModel(f"resizing by {mode!r}", "use nearest or linear")
    return x


def _target(
    shape: Sequence[int], scales: Sequence[float] | None, sizes: Sequence[int] | None
) -> tuple[list[int], list[float]]:
    """Lengths of the axes to resize, and how many times the old ones they are."""
    if sizes is not None:
        target = list(sizes)[2:]
        return target, [new / old for new, old in zip(target, shape, strict=True)]
    factors = list(scales or ())[2:]
    return [int(old * f) for old, f in zip(shape, factors, strict=True)], factors


def _bilinear(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Linear interpolation of rows and columns.

    In onnxruntime's order: weights multiplied first, four products added from the top left to the
    bottom right. Of rounded values it makes many halves, and their last bit decides how they round.
    """
    total = x.new_zeros(())
    for rows, tall in _neighbours(x.shape[2], down):
        for columns, wide in _neighbours(x.shape[3], across):
            weight = (wide * tall[:, None]).to(x.dtype)
            total = total + weight * x.index_select(2, rows).index_select(3, columns)
    return total


def _neighbours(length: int, at: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Index before and after each position, and the weight of each in float32."""
    inside = at.clamp(0, length - 1).float()
    low = inside.long()
    high = (low + 1).clamp(max=length - 1)
    at_end = low == high
    return tuple(
        (index, torch.where(at_end, 0.5, (inside - other).abs()))
        for index, other in ((low, high), (high, low))
    )


def _source(at: Tensor, old: int, new: int, factor: float, place: str) -> Tensor:
    """Coordinates in the input of those in the output."""
    if place == "asymmetric":
        return at / factor
    if place == "align_corners":
        return at * (old - 1) / max(new - 1, 1)
    if place == "pytorch_half_pixel" and new == 1:
        return torch.zeros_like(at)
    if place in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / factor - 0.5
    raise UnsupportedModel(f"resizing with coordinates {place!r}", "use half_pixel")


def _nearest(at: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return at.floor().long()
    if rounding == "ceil":
        return at.ceil().long()
    if rounding == "round_prefer_ceil":
        return (at + 0.5).floor().long()
    return (at - 0.5).ceil().long()


def _between(x: Tensor, axis: int, at: Tensor) -> Tensor:
    """Linear interpolation along one axis."""
    low = at.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = (at - low).to(x.dtype).to(x.device)
    share = share.reshape([-1 if dim == axis else 1 for dim in range(x.ndim)])
    below, above = x.index_select(axis, low.to(x.device)), x.index_select(axis, high.to(x.device))
    return below * (1 - share) + above * share
