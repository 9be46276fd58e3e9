"""What moves the parameters of a training."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from camsdk.compress.options import TrainOptions
from camsdk.compress.training.quantizers import InputQuantizer, WeightQuantizer

Optimizer = Literal["sgd", "adam"]
"""``sgd``: with Nesterov's momentum, of everything.
``adam``: of weights and biases, decoupled from their decay (arXiv:1711.05101). Scales and ranges
stay with SGD: their gradients have a size that was made for it (arXiv:1902.08153, section 2.2), and
a step of Adam's, the same for all, would be a large part of a small range.
"""

QUANTIZERS: tuple[type[nn.Module], ...] = (WeightQuantizer, InputQuantizer)
"""Whose parameters are scales and ranges; a method with quantizers of its own adds them."""

_ADAM_SHARE: Final = 0.2
"""Of the learning rate: what moves weights well by SGD is too much for Adam."""
_ADAM_BETAS: Final = (0.9, 0.99)
"""A second moment over 100 steps: trainings of a few hundred are usual here."""


class Optimizers:
    """One or two of torch's that step together.

    Args:
        module: As it will be trained.
        options: Rates, momentum and decay.
        optimizer: Of weights and biases.
    """

    def __init__(self, module: nn.Module, options: TrainOptions, optimizer: Optimizer) -> None:
        slow = _of_quantizers(module) if optimizer == "adam" else None
        groups = _groups(module.parameters(), options.weight_decay)
        held: list[torch.optim.Optimizer] = []
        if slow is not None:
            adam = [_chosen(group, slow, is_in=False) for group in groups]
            held.append(
                torch.optim.AdamW(
                    [group for group in adam if group["params"]],
                    lr=options.learning_rate * _ADAM_SHARE,
                    betas=_ADAM_BETAS,
                )
            )
            groups = [_chosen(group, slow, is_in=True) for group in groups]
        if groups := [group for group in groups if group["params"]]:
            held.append(
                torch.optim.SGD(
                    groups,
                    lr=options.learning_rate,
                    momentum=options.momentum,
                    nesterov=options.momentum > 0,
                )
            )
        self._held = held

    def parameters(self) -> list[Tensor]:
        """All that are moved."""
        return [p for held in self._held for group in held.param_groups for p in group["params"]]

    def set_rate(self, rate: float) -> None:
        """For the next step, as ``TrainOptions.learning_rate`` means it."""
        for held in self._held:
            share = _ADAM_SHARE if isinstance(held, torch.optim.AdamW) else 1.0
            for group in held.param_groups:
                group["lr"] = rate * share

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for held in self._held:
            held.zero_grad()

    def step(self) -> None:
        """Move along the gradients."""
        for held in self._held:
            held.step()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {str(number): held.state_dict() for number, held in enumerate(self._held)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What ``state_dict`` gave, of the same module and options."""
        for number, held in enumerate(self._held):
            held.load_state_dict(state[str(number)])


def _groups(parameters: Iterable[Tensor], decay: float) -> list[dict[str, Any]]:
    """Weights with decay; norms, biases, scales and ranges, one number a channel, without."""
    heavy: list[Tensor] = []
    plain: list[Tensor] = []
    for parameter in parameters:
        if parameter.requires_grad:
            is_weight = parameter.ndim >= 2 and parameter.numel() > parameter.shape[0]
            (heavy if is_weight else plain).append(parameter)
    return [{"params": heavy, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


def _of_quantizers(module: nn.Module) -> set[int]:
    """Identities of scales and ranges."""
    return {
        id(parameter)
        for part in module.modules()
        if isinstance(part, QUANTIZERS)
        for parameter in part.parameters(recurse=False)
    }


def _chosen(group: Mapping[str, Any], among: set[int], *, is_in: bool) -> dict[str, Any]:
    kept = [parameter for parameter in group["params"] if (id(parameter) in among) == is_in]
    return {**group, "params": kept}
