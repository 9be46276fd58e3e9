"""The seam between a trainer and what compresses a network while it trains."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from camsdk.compress.codes import CodedTensor

State = dict[str, Tensor | float | int]
Range = tuple[float, float, int]
"""Lowest and highest value, and bits, of the tensor that enters a layer."""


class Method(Protocol):
    """What compresses a network while it trains.

    The trainer calls, per step: ``after_backward`` when the gradients are there, ``after_step``
    when the optimizer has moved. Progress runs from 0 to 1 over the
    training. Invariant: everything that ``after_step`` decides follows from the module, the
    progress and the state, so that a resumed training goes on as if it had never stopped.
    """

    @property
    def extra_gradient(self) -> bool:
        """Whether each step takes the gradient twice, the second time at the look-ahead point."""

    def attach(self, module: nn.Module, example: Tensor) -> None:
        """Install quantizers or masks, once, in a float module.

        Args:
            module: To be compressed; keeps its parameters' names apart from a prefix.
            example: A batch as large as those of the training, to find ranges with.
        """

    def after_backward(self, progress: float) -> None:
        """Look at the gradients, or change them."""

    def after_step(self, progress: float) -> None:
        """Dual updates, masks, annealing."""

    def finish(self) -> None:
        """Project for good: from now on the module computes exactly what is exported."""

    def coded_weights(self) -> Mapping[str, CodedTensor]:
        """After ``finish``, by module name."""

    def activation_ranges(self) -> Mapping[str, Range]:
        """After ``finish``, by the name of the module that the tensor enters."""

    def state_dict(self) -> State:
        """Everything that a resumed training needs besides the module's own state."""

    def load_state_dict(self, state: State) -> None:
        """What ``state_dict`` gave, into an attached method."""
