"""Which weights stay: masks of a stated sparsity from the importance of every weight.

A weight tensor is seen as (filters, inputs, taps): axis 0, axis 1 and all kernel positions. A
*unit* is what is pruned together: one element, a block of neighbouring filters and inputs at one
tap, or a whole filter. Units are ranked by their mean importance, so that every pruned weight costs
as little as possible whatever the unit's size. Of equals the one of the lower index goes:
masks are reproducible.

Invariants: the number of zeros is the target, exactly for elements and N:M, and for blocks and
filters the most that whole units allow; and no unit that stays is less important than one that
goes, within the layer or, with one threshold for all, within the model. Only two rules override
the ranking: N:M's own law, and that every layer keeps its best unit, since a layer of zeros cuts
the network in two. Where the inputs do not divide into N:M's groups, a layer stays dense and counts
for nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.options import Block, Element, Filter, NOfM, PruneGranularity
from camsdk.errors import InvalidInput

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]

_FIRST: Final = 0
_RANKED: Final = 1
_PROTECTED: Final = 2


def cubic_sparsity(progress: float, final: float, *, begin: float = 0.0, end: float = 1.0) -> float:
    """Sparsity at a moment of the training: arXiv:1710.01878, eq. 1, from 0.

    It rises fast while the network has weights to spare and slowly when few are left.

    Args:
        progress, begin, end: Shares of the training, 0 to 1.
        final: Sparsity from ``end`` on.
    """
    if progress <= begin:
        return 0.0
    if progress >= end:
        return final
    return final * (1 - (1 - (progress - begin) / (end - begin)) ** 3)


def find_masks(
    importance: Mapping[str, Floats],
    sparsity: float | Mapping[str, float],
    granularity: PruneGranularity = Element(),  # noqa: B008 - a frozen value
    *,
    is_global: bool = True,
    completeness: float = 1.0,
    costs: Mapping[str, int] | None = None,
) -> dict[str, Mask]:
    """Masks, True where a weight stays, that prune the least important units.

    Args:
        importance: By layer, one finite number a weight, filters first, at least 2 dimensions.
        sparsity: Share of zeros, 0 to below 1; of all layers together, or by layer. N:M prunes
            at least what its law demands.
        granularity: What is pruned together.
        is_global: One threshold for all layers; without it, or with a sparsity by layer, each
            layer reaches the share by itself.
        completeness: Share of the zeros to make now, for a schedule. N:M's law holds from 1 on;
            above 1 goes beyond the sparsity asked for.
        costs: Of one weight, by layer, such as its multiply-accumulates: makes sparsity a share of
            the cost. The ranking stays that of importance.

    Returns:
        By layer, a mask of the importance's shape.

    Raises:
        InvalidInput: A share is out of range, or importance is not finite.
    """
    layers = {
        name: _rank(name, array, granularity, 1 if costs is None else costs[name])
        for name, array in importance.items()
        if array.ndim < 2 or suits(array.shape, granularity)
    }
    if isinstance(sparsity, Mapping):
        groups = [({name: layers[name]}, sparsity.get(name, 0.0)) for name in layers]
    elif is_global:
        groups = [(layers, sparsity)]
    else:
        groups = [({name: layer}, sparsity) for name, layer in layers.items()]
    result: dict[str, Mask] = {}
    for group, share in groups:
        if not 0 <= share < 1 or completeness < 0:
            raise InvalidInput(
                f"sparsity {share} or completeness {completeness} is out of range",
                "give a sparsity from 0 to below 1 and a completeness of at least 0",
            )
        result |= _prune(group, share, completeness)
    return {
        name: result[name] if name in result else np.ones(array.shape, np.bool_)
        for name, array in importance.items()
    }


def suits(shape: tuple[int, ...], granularity: PruneGranularity) -> bool:
    """Whether a layer can be pruned so: N:M needs its inputs, along axis 1, in whole groups."""
    return not isinstance(granularity, NOfM) or shape[1] % granularity.m == 0


def count_zeros(masks: Mapping[str, Mask]) -> int:
    """Weights that the masks prune."""
    return sum(int(mask.size - np.count_nonzero(mask)) for mask in masks.values())


def measure_sparsity(masks: Mapping[str, Mask]) -> float:
    """Share of the weights that the masks prune; 0 without weights."""
    total = sum(mask.size for mask in masks.values())
    return count_zeros(masks) / total if total else 0.0


@dataclass(frozen=True)
class _Layer:
    """Units of one layer.

    Attributes:
        shape: Of the weights.
        score: Mean importance by unit, float64, (filters, inputs, taps) in units.
        tier: Of each unit, same shape: goes first, goes by rank, or stays until the end.
        edges: Sizes in weights of the units along each of the three axes.
        cost: Of one weight.
    """

    shape: tuple[int, ...]
    score: NDArray[np.float64]
    tier: NDArray[np.int8]
    edges: tuple[NDArray[np.intp], ...]
    cost: int

    @property
    def size(self) -> NDArray[np.intp]:
        """Cost of all weights, by unit."""
        rows, columns, taps = self.edges
        result: NDArray[np.intp] = rows[:, None, None] * columns[:, None] * taps * self.cost
        return result

    def expand(self, keep: Mask) -> Mask:
        """Units to weights."""
        for axis, edges in enumerate(self.edges):
            keep = np.repeat(keep, edges, axis=axis)
        return keep.reshape(self.shape)


def _rank(name: str, importance: Floats, granularity: PruneGranularity, cost: int) -> _Layer:
    if importance.ndim < 2 or not importance.size:
        raise InvalidInput(
            f"importance of layer {name} has shape {importance.shape}",
            "prune only weights with filters and inputs",
        )
    if not np.isfinite(importance).all():
        raise InvalidInput(
            f"importance of layer {name} is not finite",
            "the training has diverged: lower the learning rate",
        )
    weights = importance.reshape(*importance.shape[:2], -1).astype(np.float64)
    block = _unit_shape(weights.shape, granularity)
    score, edges = weights, []
    for axis, step in enumerate(block):
        starts = np.arange(0, weights.shape[axis], step)
        edges.append(np.diff(np.append(starts, weights.shape[axis])))
        if step > 1:
            score = np.add.reduceat(score, starts, axis=axis)
    tier = np.full(score.shape, _RANKED, np.int8)
    layer = _Layer(importance.shape, score, tier, tuple(edges), cost)
    layer = replace(layer, score=score * cost / layer.size)
    if isinstance(granularity, NOfM):
        layer.tier[_excess(layer.score, granularity)] = _FIRST
    # The last of equals, since the first goes first.
    layer.tier.flat[layer.score.size - 1 - int(np.argmax(layer.score.ravel()[::-1]))] = _PROTECTED
    return layer


def _unit_shape(shape: tuple[int, ...], granularity: PruneGranularity) -> tuple[int, int, int]:
    match granularity:
        case Element() | NOfM():
            return 1, 1, 1
        case Block(filters, inputs):
            return filters, inputs, 1
        case Filter():
            return 1, shape[1], shape[2]


def _excess(score: NDArray[np.float64], pattern: NOfM) -> Mask:
    """Weights beyond the n best of each m neighbours along the inputs."""
    filters, _, taps = score.shape
    groups = score.reshape(filters, -1, pattern.m, taps)
    # Best first; of equals the later is the better, as everywhere.
    order = np.argsort(-groups[:, :, ::-1], axis=2, kind="stable")
    rank = np.argsort(order, axis=2)[:, :, ::-1]
    return (rank >= pattern.n).reshape(score.shape)


def _prune(layers: Mapping[str, _Layer], share: float, completeness: float) -> dict[str, Mask]:
    """Prune units in rank order until the target cost is reached."""
    if not layers:
        return {}
    tier = np.concatenate([layer.tier.ravel() for layer in layers.values()])
    score = np.concatenate([layer.score.ravel() for layer in layers.values()])
    size = np.concatenate([layer.size.ravel() for layer in layers.values()])
    demanded = int(size[tier == _FIRST].sum())
    target = round(completeness * max(demanded, round(share * int(size.sum()))))
    keep = np.ones(len(score), np.bool_)
    for level in (_FIRST, _RANKED):
        units = np.flatnonzero(tier == level)
        gone = units[_lowest(score[units], size[units], target)]
        keep[gone] = False
        target -= int(size[gone].sum())
        if len(gone) < len(units):
            break
    result, start = {}, 0
    for name, layer in layers.items():
        stop = start + layer.score.size
        result[name] = layer.expand(keep[start:stop].reshape(layer.score.shape))
        start = stop
    return result


def _lowest(score: NDArray[np.float64], size: NDArray[np.intp], target: int) -> Mask:
    """Units in the order of their scores as long as their sizes stay within the target."""
    result = np.zeros(len(score), np.bool_)
    if not len(score) or target < size.min():
        return result
    if size.min() < size.max():
        order = np.argsort(score, kind="stable")
        result[order[np.cumsum(size[order]) <= target]] = True
        return result
    # Millions of single weights, many times in a training: partition instead of sorting.
    count = min(target // int(size[0]), len(score))
    limit = np.partition(score, count - 1)[count - 1]
    result[score < limit] = True
    ties = np.flatnonzero(score == limit)
    result[ties[: count - int(result.sum())]] = True
    return result
