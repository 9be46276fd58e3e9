"""Which filters of a network can be removed, and what goes with each.

Torch-Pruning (arXiv:2301.12900) solves which slices of which parameters depend on each other; this
module proves its answers: a group of filters counts as prunable only if removing half of it gives
the same outputs as zeroing it. That rules out filters of the network's outputs, sums with the
network's input, and anything that the solver does not understand.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from math import prod
from typing import Any, Final

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn

from camsdk.compress.training.filters import (
    CONVOLUTIONS,
    FilterGroup,
    FilterGroups,
    Member,
    remove_filters,
    zero_filters,
)

_BY_CHANNEL: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.PReLU)
_TOLERANCE: Final = 1e-4
"""Of the largest output; removing sums in another order than zeroing, in float32."""


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


def weight_uses(module: nn.Module, example: Tensor) -> dict[str, int]:
    """Multiply-accumulates of one weight of every convolution and linear layer, by module name.

    Args:
        module: Left as it is.
        example: One input, (n, channels, h, w).
    """
    positions, _ = _run(_float_copy(module), example[:1])
    return {name.removesuffix(".weight"): uses for name, uses in positions.items()}


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
    if isinstance(module, CONVOLUTIONS):
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

    kinds = (*CONVOLUTIONS, nn.Linear)
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
