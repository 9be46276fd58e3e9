"""The teacher of those peers that are given one: the float network that all start from."""

import torch
from torch import Tensor, nn

from peers.recipe import Contender

TEMPERATURE = 4.0


def distilled(contender: Contender, teacher: nn.Module) -> Contender:
    """The same contender, whose loss has the divergence from the teacher beside the labels."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        logits = contender.module(images)
        return nn.functional.cross_entropy(logits, labels) + _divergence(logits, teacher, images)

    contender.loss = loss
    return contender


def _divergence(logits: Tensor, teacher: nn.Module, images: Tensor) -> Tensor:
    """Hinton et al., arXiv:1503.02531, section 2: softened targets, times the square of T."""
    with torch.no_grad():
        target = nn.functional.log_softmax(teacher(images) / TEMPERATURE, 1)
    given = nn.functional.log_softmax(logits / TEMPERATURE, 1)
    divergence = nn.functional.kl_div(given, target, log_target=True, reduction="batchmean")
    return divergence * TEMPERATURE**2
