"""Pruning while training: sparsity rises, weights go by importance, some come back.

The masks change at a fixed number of moments between ``begin`` and ``end``, never later: from then
on the network settles. At each moment the least important share of the weights that would stay has
to stand up to the pruned weights that the gradient asks for, and loses its place where those would
be worth more (after RigL, arXiv:1911.11134, section 3, which exchanges the whole share); the share
falls to 0 along a cosine, so the last masks are chosen by importance alone. Nothing is random: the
same steps give the same masks.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from camsdk.compress.codes import CodedTensor
from camsdk.compress.options import Filter, PruneOptions
from camsdk.compress.sparsity import Mask, count_zeros, cubic_sparsity, find_masks
from camsdk.compress.training.filter_search import find_filter_groups, weight_uses
from camsdk.compress.training.filters import remove_filters
from camsdk.compress.training.importance import DECAY, ImportanceEstimate, Scores, saved_tensor
from camsdk.errors import InvalidInput

UPDATES: Final = 50
"""Moments between begin and end at which masks change; more cost time and change nothing."""

State = dict[str, Tensor | float | int]


class MaskSchedule:
    """Masks of named weights over the course of a training.

    Call ``after_backward`` and then ``masks`` at every step with progress 0 to 1. It reads weights
    and gradients and changes neither: who applies the masks decides how.

    Args:
        options: What is wanted at the end.
        layer_sparsity: Sparsity by weight name, in place of the one for all.
        decay: Of the averages of gradients over the steps.
        updates: Moments at which the masks change.
    """

    def __init__(
        self,
        options: PruneOptions,
        *,
        layer_sparsity: Mapping[str, float] | None = None,
        decay: float = DECAY,
        updates: int = UPDATES,
    ) -> None:
        self._options = options
        self._layer_sparsity = layer_sparsity
        self._estimate = ImportanceEstimate(options.importance, decay=decay)
        self._updates = updates
        self._costs: Mapping[str, int] | None = None
        self._moment = 0
        self._masks: dict[str, Tensor] = {}

    def attach(
        self,
        named_weights: Mapping[str, nn.Parameter],
        batch_size: int,
        uses: Mapping[str, int] | None = None,
    ) -> None:
        """Prune these weights: filters first, at least 2 dimensions. Nothing is pruned yet.

        Args:
            named_weights: By any name.
            batch_size: Of the training, for second-order importance.
            uses: By the same names, multiply-accumulates of one weight; needed to save those.

        Raises:
            InvalidInput: There are no weights, ``dense`` names one that is not there, or
                multiply-accumulates are to be saved and not known.
        """
        dense = self._options.dense
        if unknown := sorted(set(dense) - set(named_weights)):
            raise InvalidInput(
                f"no such layer to keep dense: {', '.join(unknown)}",
                f"those that can be pruned are {', '.join(named_weights)}",
            )
        named_weights = {name: w for name, w in named_weights.items() if name not in dense}
        small = [name for name, weight in named_weights.items() if weight.ndim < 2]
        if small or not named_weights:
            raise InvalidInput(
                f"no weights with filters and inputs: {', '.join(small) or 'none given'}",
                "attach the weights of convolutions and linear layers",
            )
        if self._options.saves == "macs":
            if uses is None or not named_weights.keys() <= uses.keys():
                raise InvalidInput(
                    "how often each weight is used is not known",
                    'give uses, or let sparsity be a share of the weights: saves="weights"',
                )
            self._costs = {name: uses[name] for name in named_weights}
        self._watch(named_weights, batch_size)

    def _watch(self, parameters: Mapping[str, nn.Parameter], batch_size: int) -> None:
        self._estimate.attach(parameters, batch_size)
        self._moment = 0
        self._masks = {
            name: torch.ones_like(parameter, dtype=torch.bool)
            for name, parameter in parameters.items()
        }

    def after_backward(self, progress: float) -> None:
        """Take in this step's gradients; they must be dense."""
        if progress < self._options.end:
            self._estimate.update()

    def masks(self, progress: float) -> Mapping[str, Tensor]:
        """Masks by name, bool, True where a weight stays; at 1.0 always the final ones."""
        options = self._options
        done = (progress - options.begin) / (options.end - options.begin)
        moment = min(max(math.floor(done * self._updates), 0), self._updates)
        if moment > self._moment:
            self._moment = moment
            self._masks = {
                name: torch.from_numpy(mask).to(self._masks[name].device)
                for name, mask in self._update(moment / self._updates).items()
            }
        return self._masks

    @property
    def current(self) -> Mapping[str, Tensor]:
        """The masks that ``masks`` gave last."""
        return self._masks

    @property
    def is_final(self) -> bool:
        """Whether the masks have reached the sparsity asked for and stay as they are."""
        return self._moment == self._updates

    def _update(self, done: float) -> dict[str, Mask]:
        completeness = cubic_sparsity(done, 1.0)
        scores = self._scores()
        masks = self._find(scores, completeness)
        share = self._options.regrow * (1 + math.cos(math.pi * done)) / 2
        zeros = count_zeros(masks)
        kept = sum(mask.size for mask in masks.values()) - zeros
        exchanged = int(share * min(kept, zeros))
        if not exchanged:
            return masks
        # The least important of those that would stay compete with those that would not.
        safe = self._find(scores, completeness * (1 + exchanged / zeros))
        demand = self._per_cost(self._estimate.demand())
        top = max(float(max(scores[n].max(), demand[n].max())) for n in scores) + 1
        contest = {
            name: np.where(safe[name], top, np.where(masks[name], scores[name], demand[name]))
            for name in scores
        }
        return self._find(contest, completeness)

    def _scores(self) -> Scores:
        """Importance; of weights that count for nothing those go first that are gone already."""
        scores = self._per_cost(self._estimate.scores())
        return {
            name: np.where((score == 0) & ~self._masks[name].cpu().numpy(), np.float32(-1), score)
            for name, score in scores.items()
        }

    def _find(self, scores: Mapping[str, np.ndarray], completeness: float) -> dict[str, Mask]:
        options = self._options
        sparsity = options.sparsity if self._layer_sparsity is None else self._layer_sparsity
        return find_masks(
            scores,
            sparsity,
            options.granularity,
            is_global=options.is_global,
            completeness=completeness,
            costs=self._costs,
        )

    def _per_cost(self, scores: Scores) -> Scores:
        """Damage per unit saved, where damage is the square of a score; taylor-2 is no root."""
        if self._costs is None:
            return scores
        power = 1.0 if self._options.importance == "taylor-2" else 0.5
        return {name: score / self._costs[name] ** power for name, score in scores.items()}

    def state_dict(self) -> State:
        """Everything that the next step depends on."""
        state: State = {"moment": self._moment}
        state |= {f"mask/{name}": mask.clone() for name, mask in self._masks.items()}
        state |= {f"estimate/{key}": value for key, value in self._estimate.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        """Continue from a saved state, after ``attach``. Raises InvalidInput if it does not fit."""
        self._masks = {
            name: saved_tensor(state, f"mask/{name}", mask) for name, mask in self._masks.items()
        }
        self._estimate.load_state_dict(
            {
                key.removeprefix("estimate/"): value
                for key, value in state.items()
                if key.startswith("estimate/")
            }
        )
        self._moment = int(state["moment"])


class FixedMasks:
    """Masks of weights that are gone already and stay away: nothing decides anew.

    Args:
        masks: By weight name, bool, filters first, True where a weight stays.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.current = masks

    def after_backward(self, progress: float) -> None:
        """Gradients say nothing."""

    def masks(self, progress: float) -> Mapping[str, Tensor]:
        """Those that were given."""
        return self.current

    def state_dict(self) -> State:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        """Nothing to take up."""


class FilterSchedule(MaskSchedule):
    """The same for whole filters, of a network instead of named weights; masks by parameter.

    A filter goes with its bias, its normalisation and every weight that reads it, so its gradient
    is zero from then on and nothing asks for it: filters do not come back. Sparsity is the share
    of the weights or multiply-accumulates that are removed with them.
    """

    def attach_network(self, module: nn.Module, example: Tensor) -> None:
        """Prune the filters of a network. Raises InvalidInput if not so many can be removed."""
        self._groups = find_filter_groups(module, example[:1])
        nothing = [np.zeros(group.count) for group in self._groups.groups]
        self._groups.choose(nothing, self._options.sparsity, of=self._options.saves)
        of_groups = self._groups.kept_axes(self._groups.all())
        parameters = {n: p for n, p in module.named_parameters() if n in of_groups}
        self._watch(parameters, len(example))

    def remove(self, module: nn.Module) -> None:
        """Make the network smaller, in place, by what is masked now."""
        masks = {name: mask.cpu().numpy() for name, mask in self._masks.items()}
        remove_filters(module, self._groups, self._groups.kept_by(masks))

    def _update(self, done: float) -> dict[str, Mask]:
        sparsity = cubic_sparsity(done, self._options.sparsity)
        saves = self._options.saves
        scores = self._groups.scores(self._estimate.scores(), of=saves)
        return self._groups.masks(self._groups.choose(scores, sparsity, of=saves))


class PruneMethod:
    """Pruning alone, weights stay in float: a ``Method`` of the trainer.

    A pruned weight is zero in every forward pass. Its gradient is still computed, for the demand
    for it, but reaches neither the optimizer nor its momentum. Filters are removed from the network
    when the training is over, which makes it smaller in place: take its parameters anew.

    Args:
        options: What is pruned.
        layer_sparsity: By module name, in place of the one for all.
    """

    extra_gradient = False

    def __init__(
        self, options: PruneOptions, *, layer_sparsity: Mapping[str, float] | None = None
    ) -> None:
        if isinstance(options.granularity, Filter):
            if layer_sparsity is not None:
                raise InvalidInput(
                    "filters are tied across layers and have no sparsity by layer",
                    "give one sparsity, or prune elements or blocks",
                )
            self._schedule: MaskSchedule = FilterSchedule(options)
        else:
            self._schedule = MaskSchedule(options, layer_sparsity=layer_sparsity)
        self._options = options
        self._module: nn.Module | None = None
        self._weights: dict[str, nn.Parameter] = {}

    def attach(self, module: nn.Module, example: Tensor) -> None:
        """Prune all convolutions and linear layers; filters are found by running ``example``."""
        self._module = module
        if isinstance(self._schedule, FilterSchedule):
            self._weights = dict(module.named_parameters())
            self._schedule.attach_network(module, example)
        else:
            self._weights = prunable_weights(module)
            uses = weight_uses(module, example) if self._options.saves == "macs" else None
            self._schedule.attach(self._weights, len(example), uses)

    def after_backward(self, progress: float) -> None:
        """Judge weights by their gradients, then hide those of pruned weights."""
        self._schedule.after_backward(progress)
        for name, mask in self._schedule.current.items():
            weight = self._weights[name]
            if weight.grad is not None:
                weight.grad.mul_(mask)

    def after_step(self, progress: float) -> None:
        """Zero what is pruned."""
        self._apply(progress)

    def finish(self) -> None:
        """Reach the final sparsity, also when the training was cut short; remove filters."""
        self._apply(1.0)
        if isinstance(self._schedule, FilterSchedule) and self._module is not None:
            self._schedule.remove(self._module)

    def coded_weights(self) -> Mapping[str, CodedTensor]:
        """None: weights stay in float."""
        return {}

    def activation_ranges(self) -> Mapping[str, tuple[float, float, int]]:
        """None: activations stay in float."""
        return {}

    def state_dict(self) -> State:
        """Of the schedule."""
        return self._schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        """Of the schedule, after ``attach``."""
        self._schedule.load_state_dict(state)

    @torch.no_grad()
    def _apply(self, progress: float) -> None:
        # Momentum has moved pruned weights off zero; they are not to be judged by that.
        self._zero(self._schedule.current)
        self._zero(self._schedule.masks(progress))

    def _zero(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            # Multiplying would leave -0.0, which is no zero to a byte-wise coder.
            self._weights[name].masked_fill_(~mask, 0.0)


def prunable_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of convolutions and linear layers by qualified module name, filters first.

    Transposed convolutions store their inputs first and are left out.

    Raises:
        InvalidInput: There are none.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    layers = {name for name, child in module.named_modules() if isinstance(child, kinds)}
    found = {
        name.removesuffix(".weight"): parameter
        for name, parameter in module.named_parameters()
        if name.removesuffix(".weight") in layers
    }
    if not found:
        raise InvalidInput(
            "the network has no convolution or linear layer to prune",
            "prune a network made of nn.Conv2d and nn.Linear",
        )
    return found
