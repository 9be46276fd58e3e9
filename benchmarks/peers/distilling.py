"""The teacher of those contenders that have one: the float network that all start from."""

import torch
from torch import Tensor, nn

TEMPERATURE = 4.0


def distillation(logits: Tensor, teacher: nn.Module, images: Tensor) -> Tensor:
    """Hinton et al., arXiv:1503.02531, section 2: softened targets, times the square of T."""
    with torch.no_grad():
        target = nn.functional.log_softmax(teacher(images) / TEMPERATURE, 1)
    given = nn.functional.log_softmax(logits / TEMPERATURE, 1)
    divergence = nn.functional.kl_div(given, target, log_target=True, reduction="batchmean")
    return divergence * TEMPERATURE**2
