"""Torch-Pruning (arXiv:2301.12900, MIT): its own pruner and group Taylor importance, whole filters.

Its iterative steps go on until the wanted share of multiply-accumulates is gone, as in its own
``progressive_pruning``, spread over the training like those of the other pruners. Filters are
zeroed while the network trains, so that the shared optimizer and its momentum go on undisturbed,
and count as removed: the outputs are the same.
"""

import torch
import torch_pruning as tp
from torch import Tensor, nn

from peers.recipe import Contender, Row, multiply_accumulates

STEPS = 400
"""Of the pruner, to everything it may remove; a training uses as many as its target takes."""
MOMENTS = 40
END = 0.6


def prepare(module: nn.Module, row: Row, edges: tuple[str, ...], example: Tensor) -> Contender:
    """One global threshold, rising along the cubic schedule at 40 moments."""
    keep = Filters(module, edges, example[:1])
    dense = multiply_accumulates(module, example[:1])
    done = -1

    def after_backward(progress: float) -> None:
        nonlocal done
        moment = min(int(progress / END * MOMENTS), MOMENTS)
        wanted = row.removed_macs * (1 - (1 - moment / MOMENTS) ** 3)
        while moment > done and multiply_accumulates(module, example[:1]) > (1 - wanted) * dense:
            keep.step()
        done = moment
        keep.hide_gradients()

    def after_step(progress: float) -> None:
        keep.zero()

    return Contender(module, after_backward=after_backward, after_step=after_step)


class Filters:
    """What of which parameter the pruner has chosen so far."""

    def __init__(self, module: nn.Module, edges: tuple[str, ...], example: Tensor) -> None:
        self._pruner = tp.pruner.BasePruner(
            module, example, tp.importance.GroupTaylorImportance(), global_pruning=True,
            pruning_ratio=1.0, max_pruning_ratio=0.95, iterative_steps=STEPS,
            ignored_layers=[module.get_submodule(edges[-1])],
        )  # fmt: skip
        self._gone: dict[nn.Parameter, Tensor] = {}

    def step(self) -> None:
        """One of the pruner's steps; needs the gradients of a batch."""
        for group in self._pruner.step(interactive=True):
            for dependency, indices in group:
                layer = dependency.layer
                is_out = self._pruner.DG.is_out_channel_pruning_fn(dependency.handler)
                for parameter in layer.parameters():
                    is_wide = parameter.ndim > 1 and not is_out and parameter.shape[1] > 1
                    if parameter.ndim == 1 and not is_out:
                        continue
                    gone = self._gone.setdefault(
                        parameter, torch.zeros_like(parameter, dtype=torch.bool)
                    )
                    gone.index_fill_(int(is_wide), torch.tensor(indices, dtype=torch.int64), True)
        self.zero()

    def hide_gradients(self) -> None:
        """So that momentum does not move what is gone."""
        for parameter, gone in self._gone.items():
            parameter.grad.masked_fill_(gone, 0.0)

    @torch.no_grad()
    def zero(self) -> None:
        """Take the chosen filters out of the computation."""
        for parameter, gone in self._gone.items():
            parameter.masked_fill_(gone, 0.0)
