"""LSQ with the teacher that ours has, so that the table shows what the method alone earns."""

import copy

from torch import Tensor, nn

from peers import lsq
from peers.distilling import distillation
from peers.recipe import Contender, Row


def prepare(module: nn.Module, row: Row, edges: tuple[str, ...], example: Tensor) -> Contender:
    """As ``lsq``, plus the divergence from the float network."""
    teacher = copy.deepcopy(module).eval()
    contender = lsq.prepare(module, row, edges, example)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        logits = contender.module(images)
        return nn.functional.cross_entropy(logits, labels) + distillation(logits, teacher, images)

    contender.loss = loss
    return contender
