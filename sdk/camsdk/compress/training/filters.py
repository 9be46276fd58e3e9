"""Whole filters go, with every weight that read their output.

A filter is rarely alone: a residual sum ties it to the same filter of another layer, a depthwise
convolution has one filter a channel, a concatenation shifts it. ``filter_search`` finds which
slices of which parameters go together; here it is decided which, and done.

Filters are first zeroed while the network trains, which changes no shape, and removed at the end,
which changes no output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from camsdk.compress.options import Saved
from camsdk.compress.sparsity import Mask
from camsdk.errors import InvalidInput

CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Member:
    """What of one parameter goes with the filters of a group.

    Attributes:
        parameter: Qualified name.
        axis: Along which indices go.
        filters, indices: Pairs of a filter of the group and an index along the axis.
    """

    parameter: str
    axis: int
    filters: NDArray[np.intp]
    indices: NDArray[np.intp]


@dataclass(frozen=True)
class FilterGroup:
    """Filters that are pruned one by one, each with its slices everywhere.

    Where a sum ties two filters of one layer, as with a tensor concatenated with itself, the two
    count as one.

    Attributes:
        root: Qualified name of the layer whose filters they are.
        count: Number of filters.
        members: Slices of parameters, the root's own among them.
    """

    root: str
    count: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Size:
    """Of a network: all parameters, weights of convolutions and linear layers, and
    multiply-accumulates of those for the example's batch."""

    parameters: int
    weights: int
    macs: int


@dataclass(frozen=True)
class FilterGroups:
    """All prunable filters of a network.

    A choice is one mask a group, True where a filter stays.

    Attributes:
        groups: In the order of the trace.
        shapes: Of every parameter, by qualified name.
        positions: How often each weight is used, by qualified name: output pixels times batch.
    """

    groups: tuple[FilterGroup, ...]
    shapes: Mapping[str, tuple[int, ...]]
    positions: Mapping[str, int]

    def all(self) -> list[Mask]:
        """The choice that keeps every filter."""
        return [np.ones(group.count, np.bool_) for group in self.groups]

    def kept_axes(self, kept: Sequence[Mask]) -> dict[str, dict[int, Mask]]:
        """By parameter and axis, which indices stay; parameters that lose nothing are absent."""
        result: dict[str, dict[int, Mask]] = {}
        for group, mask in zip(self.groups, kept, strict=True):
            for member in group.members:
                axes = result.setdefault(member.parameter, {})
                size = self.shapes[member.parameter][member.axis]
                stays = axes.setdefault(member.axis, np.ones(size, dtype=np.bool_))
                np.put(stays, member.indices[~mask[member.filters]], False)
        return result

    def masks(self, kept: Sequence[Mask]) -> dict[str, Mask]:
        """By parameter, which values stay, in the parameter's shape."""
        result = {}
        for name, axes in self.kept_axes(kept).items():
            shape = self.shapes[name]
            mask = np.ones(shape, np.bool_)
            for axis, stays in axes.items():
                mask &= stays.reshape([-1 if i == axis else 1 for i in range(len(shape))])
            result[name] = mask
        return result

    def kept_by(self, masks: Mapping[str, Mask]) -> list[Mask]:
        """The choice that gave these masks."""
        kept = self.all()
        for group, keep in zip(self.groups, kept, strict=True):
            root = group.members[0]
            mask = np.moveaxis(masks[root.parameter], root.axis, 0)
            left = np.count_nonzero(mask.reshape(len(mask), -1), axis=1)
            keep[root.filters] = left[root.indices] > 0
        return kept

    def size(self, kept: Sequence[Mask]) -> Size:
        """Of the network after the removal of what is not kept."""
        axes = self.kept_axes(kept)
        left = {}
        for name, shape in self.shapes.items():
            counts = {axis: int(stays.sum()) for axis, stays in axes.get(name, {}).items()}
            left[name] = prod(counts.get(axis, size) for axis, size in enumerate(shape))
        return Size(
            sum(left.values()),
            sum(left[name] for name in self.positions),
            sum(left[name] * uses for name, uses in self.positions.items()),
        )

    def scores(
        self, importance: Mapping[str, NDArray[Any]], *, of: Saved = "weights"
    ) -> list[NDArray[np.float64]]:
        """By group, each filter's sum of squared importance over its slices, per unit removed.

        The sum is arXiv:1906.10771, eq. 10, for Taylor importance. Parameters without an
        importance count as nothing.
        """
        result = []
        for group in self.groups:
            total, cost = np.zeros(group.count), np.zeros(group.count)
            for member in group.members:
                shape = self.shapes[member.parameter]
                uses = self.positions.get(member.parameter, 0) if of == "macs" else 1
                each = np.full(len(member.filters), uses * prod(shape) / shape[member.axis])
                np.add.at(cost, member.filters, each)
                if member.parameter in importance:
                    squared = importance[member.parameter].astype(np.float64) ** 2
                    other = tuple(i for i in range(len(shape)) if i != member.axis)
                    along = squared.sum(axis=other)
                    np.add.at(total, member.filters, along[member.indices])
            result.append(total / cost)
        return result

    def choose(
        self, scores: Sequence[NDArray[np.float64]], sparsity: float, *, of: Saved = "weights"
    ) -> list[Mask]:
        """The fewest filters, least important first, whose removal saves the share asked for.

        Every group keeps its best filter.

        Args:
            scores: By group, one number a filter.
            sparsity: Share that goes, 0 to below 1.
            of: What it is a share of.

        Raises:
            InvalidInput: So much cannot be removed; says how much can.
        """
        flat = np.concatenate([*scores, np.zeros(0)])
        owner = np.repeat(np.arange(len(scores)), [len(score) for score in scores])
        order = np.argsort(flat, kind="stable")
        best = {int(order[owner[order] == group][-1]) for group in range(len(scores))}
        order = order[[index not in best for index in order.tolist()]].astype(np.intp)
        limit = (1 - sparsity) * getattr(self.size(self.all()), of)

        def without(count: int) -> list[Mask]:
            keep = np.ones(len(flat), np.bool_)
            keep[order[:count]] = False
            return np.split(keep, np.cumsum([len(score) for score in scores])[:-1])

        low, high = 0, len(order)
        if not self.groups or getattr(self.size(without(high)), of) > limit:
            most = 1 - getattr(self.size(without(high)), of) / getattr(self.size(self.all()), of)
            raise InvalidInput(
                f"removing {sparsity:.0%} of the {of} is more than the filters allow",
                f"give at most {most:.3f}, or prune single weights",
            )
        while low < high:
            middle = (low + high) // 2
            if getattr(self.size(without(middle)), of) <= limit:
                high = middle
            else:
                low = middle + 1
        return without(low)


def remove_filters(module: nn.Module, groups: FilterGroups, kept: Sequence[Mask]) -> None:
    """Make a network smaller, in place; parameters that shrink become new objects.

    Where the filters were zeroed before, with the slices that read them, outputs do not change.

    Args:
        module: The network that the groups were found in, or a copy.
        groups: All prunable filters.
        kept: By group, which filters stay.
    """
    for name, axes in groups.kept_axes(kept).items():
        owner = module.get_submodule(name.rpartition(".")[0])
        key = name.rpartition(".")[2]
        old: nn.Parameter = getattr(owner, key)
        new = old.detach()
        for axis, stays in axes.items():
            new = new.index_select(axis, torch.from_numpy(np.flatnonzero(stays)).to(new.device))
        setattr(owner, key, nn.Parameter(new, requires_grad=old.requires_grad))
        if key == "weight":
            _resize(owner, axes)


def _resize(module: nn.Module, kept: Mapping[int, Mask]) -> None:
    """Make a layer's attributes and buffers follow its weight, of which these indices stay."""
    counts = {axis: int(stays.sum()) for axis, stays in kept.items()}
    if isinstance(module, CONVOLUTIONS):
        if module.groups > 1:
            module.in_channels = module.out_channels = module.groups = counts[0]
        else:
            filters = int(module.transposed)
            module.out_channels = counts.get(filters, module.out_channels)
            module.in_channels = counts.get(1 - filters, module.in_channels)
    elif isinstance(module, nn.Linear):
        module.out_features = counts.get(0, module.out_features)
        module.in_features = counts.get(1, module.in_features)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = counts[0]
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = counts[0]
        for key in ("running_mean", "running_var"):
            if (buffer := getattr(module, key)) is not None:
                setattr(module, key, buffer[torch.from_numpy(kept[0])])


@torch.no_grad()
def zero_filters(module: nn.Module, groups: FilterGroups, kept: Sequence[Mask]) -> None:
    """Zero what ``remove_filters`` would remove, in place."""
    parameters = dict(module.named_parameters())
    for name, mask in groups.masks(kept).items():
        parameters[name].masked_fill_(~torch.from_numpy(mask), 0.0)
