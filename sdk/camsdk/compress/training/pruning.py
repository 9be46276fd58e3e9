"""Pruning while training: sparsity rises, weights go by importance, some come back.

The masks change at a fixed number of moments between ``begin`` and ``end``, never later: from then
on the network settles. At each moment a share of the places that the schedule leaves is not given
to the most important survivors but to pruned weights whose gradient is largest (RigL,
arXiv:1911.11134, section 3); the share falls to 0 along a cosine, so the last masks are chosen by
importance alone. Nothing is random: the same steps give the same masks.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from camsdk.compress.codes import CodedTensor
from camsdk.compress.options import PruneOptions
from camsdk.compress.sparsity import Mask, count_zeros, cubic_sparsity, find_masks
from camsdk.compress.training.importance import DECAY, ImportanceEstimate, saved_tensor
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
        self._moment = 0
        self._masks: dict[str, Tensor] = {}

    def attach(self, named_weights: Mapping[str, nn.Parameter]) -> None:
        """Prune these weights: filters first, at least 2 dimensions. Nothing is pruned yet."""
        small = [name for name, weight in named_weights.items() if weight.ndim < 2]
        if small or not named_weights:
            raise InvalidInput(
                f"no weights with filters and inputs: {', '.join(small) or 'none given'}",
                "attach the weights of convolutions and linear layers",
            )
        self._estimate.attach(named_weights)
        self._moment = 0
        self._masks = {
            name: torch.ones_like(weight, dtype=torch.bool)
            for name, weight in named_weights.items()
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
    def is_final(self) -> bool:
        """Whether the masks have reached the sparsity asked for and stay as they are."""
        return self._moment == self._updates

    def _update(self, done: float) -> dict[str, Mask]:
        scores = self._estimate.scores()
        completeness = cubic_sparsity(done, 1.0)
        masks = self._find(scores, completeness)
        share = self._options.regrow * (1 + math.cos(math.pi * done)) / 2
        zeros = count_zeros(masks)
        kept = sum(mask.size for mask in masks.values()) - zeros
        exchanged = int(share * min(kept, zeros))
        if not exchanged:
            return masks
        survivors = self._find(scores, completeness * (1 + exchanged / zeros))
        return self._find(_with_demand(survivors, self._estimate.demand()), completeness)

    def _find(self, scores: Mapping[str, np.ndarray], completeness: float) -> dict[str, Mask]:
        options = self._options
        sparsity = options.sparsity if self._layer_sparsity is None else self._layer_sparsity
        return find_masks(
            scores,
            sparsity,
            options.granularity,
            is_global=options.is_global,
            completeness=min(completeness, 1.0),
        )

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


class PruneMethod:
    """Pruning alone, weights stay in float: a ``Method`` of the trainer.

    A pruned weight is zero in every forward pass. Its gradient is still computed, for the demand
    for it, but reaches neither the optimizer nor its momentum.

    Args:
        options: What is pruned.
        layer_sparsity: By module name, in place of the one for all.
    """

    extra_gradient = False

    def __init__(
        self, options: PruneOptions, *, layer_sparsity: Mapping[str, float] | None = None
    ) -> None:
        self._schedule = MaskSchedule(options, layer_sparsity=layer_sparsity)
        self._weights: dict[str, nn.Parameter] = {}

    def attach(self, module: nn.Module, example: Tensor) -> None:
        """Prune the weights of all convolutions and linear layers. ``example`` is not used."""
        self._weights = prunable_weights(module)
        self._schedule.attach(self._weights)

    def penalty(self) -> Tensor | None:
        """Nothing is added to the loss."""
        return None

    def after_backward(self, progress: float) -> None:
        """Judge weights by their gradients, then hide those of pruned weights."""
        self._schedule.after_backward(progress)
        for name, mask in self._schedule.masks(progress).items():
            weight = self._weights[name]
            if weight.grad is not None:
                weight.grad.mul_(mask)

    def after_step(self, progress: float) -> None:
        """Zero what is pruned."""
        self._apply(progress)

    def finish(self) -> None:
        """Reach the final sparsity, also when the training was cut short."""
        self._apply(1.0)

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
        for name, mask in self._schedule.masks(progress).items():
            # Multiplying would leave -0.0, which is no zero to a byte-wise coder.
            self._weights[name].masked_fill_(~mask, 0.0)


def prunable_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of convolutions and linear layers by qualified module name, filters first.

    Transposed convolutions store their inputs first and are left out.

    Raises:
        InvalidInput: There are none.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    found = {
        name: child.weight for name, child in module.named_modules() if isinstance(child, kinds)
    }
    if not found:
        raise InvalidInput(
            "the network has no convolution or linear layer to prune",
            "prune a network made of nn.Conv2d and nn.Linear",
        )
    return found


def _with_demand(
    survivors: Mapping[str, Mask], demand: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """An importance that ranks all survivors before the others, and those by demand."""
    largest = max(float(array.max()) for array in demand.values()) or 1.0
    return {
        name: np.where(survivors[name], np.float32(2), array / largest)
        for name, array in demand.items()
    }
