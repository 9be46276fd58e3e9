"""Whole filters go, with every weight that read their output.

A filter is rarely alone: a residual sum ties it to the same filter of another layer, a depthwise
convolution has one filter a channel, a concatenation shifts it. Torch-Pruning (arXiv:2301.12900)
solves which slices of which parameters go together; this module decides which, and proves it: a
group of filters counts as prunable only if removing half of it gives the same outputs as zeroing
it. That rules out filters of the network's outputs, sums with the network's input, and anything
that the solver does not understand.

Filters are first zeroed while the network trains, which changes no shape, and removed at the end,
which changes no output.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn

from camsdk.compress.sparsity import Mask
from camsdk.errors import InvalidInput

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
_BY_CHANNEL: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.PReLU)
_TOLERANCE: Final = 1e-4
"""Of the largest output; removing sums in another order than zeroing, in float32."""


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

    def scores(self, importance: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float64]]:
        """By group, each filter's sum of squared importance over its slices, per weight removed.

        The sum is arXiv:1906.10771, eq. 10, for Taylor importance. Parameters without an
        importance count as nothing.
        """
        result = []
        for group in self.groups:
            total, weights = np.zeros(group.count), np.zeros(group.count)
            for member in group.members:
                shape = self.shapes[member.parameter]
                each = np.full(len(member.filters), prod(shape) / shape[member.axis])
                np.add.at(weights, member.filters, each)
                if member.parameter in importance:
                    squared = importance[member.parameter].astype(np.float64) ** 2
                    other = tuple(i for i in range(len(shape)) if i != member.axis)
                    along = squared.sum(axis=other)
                    np.add.at(total, member.filters, along[member.indices])
            result.append(total / weights)
        return result

    def choose(
        self, scores: Sequence[NDArray[np.float64]], sparsity: float, *, of: str = "weights"
    ) -> list[Mask]:
        """The fewest filters, least important first, whose removal saves the share asked for.

        Every group keeps its best filter.

        Args:
            scores: By group, one number a filter.
            sparsity: Share that goes, 0 to below 1.
            of: "weights", "macs" or "parameters".

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


def find_filter_groups(module: nn.Module, example: Tensor) -> FilterGroups:
    """All filters of a network that can be removed, found and tried out on copies.

    Args:
        module: Any network of convolutions and linear layers; left as it is.
        example: One input, (n, channels, h, w).
    """
    module = _float_copy(module)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    positions, outputs = _run(module, example)
    solver = _Solver(module, example, outputs)

    def is_removable(groups: Sequence[FilterGroup]) -> bool:
        return _is_removable(module, example, FilterGroups(tuple(groups), shapes, positions))

    proven = _proven(_disjoint(solver.groups()), is_removable)
    roots = {group.root for group in proven}
    slow = [solver.by_filter(g) for g in solver.groups() if g.root not in roots]
    for group in _disjoint([*proven, *filter(None, slow)])[len(proven) :]:
        if is_removable([group]):
            proven.append(group)
    return FilterGroups(tuple(proven), shapes, positions)


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
    if isinstance(module, _CONVOLUTIONS):
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


def _float_copy(module: nn.Module) -> nn.Module:
    """A copy that can be traced whatever the original's mode: the trace follows gradients."""
    result = copy.deepcopy(module).eval()
    for parameter in result.parameters():
        parameter.requires_grad_(True)
    return result


def _graph(module: nn.Module, example: Tensor) -> Any:
    training = {name: child.training for name, child in module.named_modules()}
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(
            module, example_inputs=example, verbose=False
        )
    for name, child in module.named_modules():
        child.training = training[name]
    return graph


class _Solver:
    """Torch-Pruning's answers as groups of parameter slices."""

    def __init__(self, module: nn.Module, example: Tensor, outputs: Set[str]) -> None:
        self._graph = _graph(module, example)
        self._modules = dict(module.named_modules())
        self._names = {child: name for name, child in module.named_modules()}
        self._parameters = {id(value): name for name, value in module.named_parameters()}
        self._shapes = {name: value.shape for name, value in module.named_parameters()}
        self._outputs = outputs

    def groups(self) -> Iterator[FilterGroup]:
        """All groups of more than one filter that are made of known layers."""
        for found in self._graph.get_all_groups():
            members = self._members(found)
            root, count = self._names[found[0].dep.target.module], len(found[0].idxs)
            if members and count > 1:
                yield _tied(root, count, members)

    def by_filter(self, group: FilterGroup) -> FilterGroup | None:
        """The same group, every filter solved for itself: slow, but the solver merges the slices
        of a whole group and thereby forgets which of its filters are tied to each other."""
        root = self._modules[group.root]
        prune = self._graph.get_pruner_of_module(root).prune_out_channels
        filters = np.unique(np.concatenate([m.indices for m in group.members[:1]]))
        members: list[Member] = []
        for index in filters.tolist():
            found = self._members(self._graph.get_pruning_group(root, prune, [index]))
            members += [
                Member(m.parameter, m.axis, np.full_like(m.filters, index), m.indices)
                for m in found or ()
            ]
        tied = _tied(group.root, len(filters), members) if members else None
        return tied if tied is not None and tied.count > 1 else None

    def _members(self, found: Any) -> list[Member] | None:
        """Slices of one solution; None if a layer is unknown or is an output of the network."""
        members: list[Member] = []
        for item in found:
            target, filters = item.dep.target, np.array(item.root_idxs, np.intp)
            is_out = self._graph.is_out_channel_pruning_fn(item.dep.handler)
            name = self._names.get(target.module, "")
            if isinstance(target.module, nn.Parameter):
                axis = int(target.pruning_dim)
                slices: list[tuple[str, int]] | None = [(self._parameters[id(target.module)], axis)]
            else:
                slices = _slices(target.module, name, is_out)
            if slices is None or (is_out and name in self._outputs):
                return None
            indices = np.array(item.idxs, np.intp)
            if any(indices.max() >= self._shapes[key][axis] for key, axis in slices):
                # Where a tensor is concatenated with itself, the solver's offsets run over.
                return None
            members += [Member(key, axis, filters, indices) for key, axis in slices]
        return members


def _disjoint(groups: Iterable[FilterGroup]) -> list[FilterGroup]:
    """Without groups that would take a slice which an earlier one takes."""
    taken: set[tuple[str, int, int]] = set()
    result = []
    for group in groups:
        slices = {(m.parameter, m.axis, int(i)) for m in group.members for i in m.indices}
        if not slices & taken:
            taken |= slices
            result.append(group)
    return result


def _tied(root: str, count: int, members: Sequence[Member]) -> FilterGroup:
    """A group with one member an axis, whose filters share no slice: those that do become one."""
    by_axis: dict[tuple[str, int], list[Member]] = {}
    for member in members:
        by_axis.setdefault((member.parameter, member.axis), []).append(member)
    merged = []
    for (name, axis), found in by_axis.items():
        filters, indices = (
            np.concatenate([getattr(m, key) for m in found]) for key in ("filters", "indices")
        )
        merged.append(Member(name, axis, filters, indices))
    label = np.arange(count)
    is_stable = False
    while not is_stable:
        before = label.copy()
        for member in merged:
            lowest = np.full(int(member.indices.max()) + 1, count)
            np.minimum.at(lowest, member.indices, label[member.filters])
            np.minimum.at(label, member.filters, lowest[member.indices])
        is_stable = np.array_equal(before, label)
    unique, label = np.unique(label, return_inverse=True)
    tied = tuple(Member(m.parameter, m.axis, label[m.filters], m.indices) for m in merged)
    return FilterGroup(root, len(unique), tied)


def _slices(module: nn.Module, name: str, is_out: bool) -> list[tuple[str, int]] | None:
    """Parameters of one module that lose a slice, and along which axis; None if it is unknown."""
    is_grouped = False
    if isinstance(module, _CONVOLUTIONS):
        is_depthwise = module.groups == module.out_channels == module.in_channels
        is_grouped = module.groups > 1 and not is_depthwise
        weight_axis = int(is_out == module.transposed)
        if is_depthwise and module.groups > 1:
            weight_axis, is_out = 0, True
    elif isinstance(module, nn.Linear):
        weight_axis = int(not is_out)
    elif isinstance(module, _BY_CHANNEL):
        weight_axis, is_out = 0, True
    elif not list(module.parameters()):
        return []
    else:
        return None
    if is_grouped:
        # Filters of a group convolution would have to go in equal numbers from each group.
        return None
    own = dict(module.named_parameters())
    found = [("weight", weight_axis)] + ([("bias", 0)] if is_out else [])
    return [(f"{name}.{key}", axis) for key, axis in found if key in own]


def _run(module: nn.Module, example: Tensor) -> tuple[dict[str, int], set[str]]:
    """Uses of every weight in one forward pass, and the layers whose results are outputs."""
    uses: dict[str, int] = {}
    results: dict[str, Tensor] = {}
    names = {child: name for name, child in module.named_modules()}

    def count(child: nn.Module, _: Any, output: Tensor) -> None:
        places = output.numel() // output.shape[-1 if isinstance(child, nn.Linear) else 1]
        if isinstance(child, nn.ConvTranspose2d):
            places //= prod(child.stride)
        key = f"{names[child]}.weight"
        uses[key] = uses.get(key, 0) + places
        results[names[child]] = output

    kinds = (*_CONVOLUTIONS, nn.Linear)
    hooks = [
        child.register_forward_hook(count) for child in module.modules() if isinstance(child, kinds)
    ]
    with torch.no_grad():
        outputs = _flat(module(example))
    for hook in hooks:
        hook.remove()
    ends = {name for name, result in results.items() if any(result is o for o in outputs)}
    return uses, ends


def _proven(
    groups: list[FilterGroup], is_removable: Callable[[Sequence[FilterGroup]], bool]
) -> list[FilterGroup]:
    """Those groups that stand the test; halves are tried apart where the whole does not."""
    if not groups or is_removable(groups):
        return groups
    middle = len(groups) // 2
    if not middle:
        return []
    return _proven(groups[:middle], is_removable) + _proven(groups[middle:], is_removable)


def _is_removable(module: nn.Module, example: Tensor, groups: FilterGroups) -> bool:
    """Whether removing half of the filters gives the outputs of zeroing it, on noise, and so with
    the other half."""
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    half = [rng.permutation(group.count) % 2 == 0 for group in groups.groups]
    for kept in (half, [~mask for mask in half]):
        zeroed, removed = copy.deepcopy(module), copy.deepcopy(module)
        zero_filters(zeroed, groups, kept)
        try:
            remove_filters(removed, groups, kept)
            with torch.no_grad():
                expected, found = _flat(zeroed(noise)), _flat(removed(noise))
        except RuntimeError:
            # What torch raises where shapes no longer fit: the answer is no.
            return False
        if [a.shape for a in expected] != [b.shape for b in found] or any(
            float((a - b).abs().max()) > _TOLERANCE * float(a.abs().max() + 1)
            for a, b in zip(expected, found, strict=True)
        ):
            return False
    return True


def _flat(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output
    return [tensor for part in parts for tensor in _flat(part)]
