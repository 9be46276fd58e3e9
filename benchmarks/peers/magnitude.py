"""Gradual magnitude pruning: Zhu and Gupta, arXiv:1710.01878, on torch.nn.utils.prune."""

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from peers.recipe import Contender, Row

STEPS = 40
END = 0.6


def prepare(module: nn.Module, row: Row, edges: tuple[str, ...], example: Tensor) -> Contender:
    """One global threshold, rising along the cubic schedule in 40 steps."""
    module.to(memory_format=torch.contiguous_format)  # torch.nn.utils.prune views its weights
    layers = [
        (layer, "weight")
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and name not in edges
    ]
    total = sum(layer.weight.numel() for layer, _ in layers)
    done = -1

    def after_step(progress: float) -> None:
        nonlocal done
        step = min(int(progress / END * STEPS), STEPS)
        if step == done:
            return
        done = step
        wanted = round(total * row.sparsity * (1 - (1 - step / STEPS) ** 3))
        zeros = sum(int((layer.weight == 0).sum()) for layer, _ in layers)
        if wanted > zeros:
            prune.global_unstructured(
                layers, pruning_method=prune.L1Unstructured, amount=wanted - zeros
            )

    def finish() -> None:
        for layer, name in layers:
            prune.remove(layer, name)

    return Contender(module, after_step=after_step, finish=finish)
