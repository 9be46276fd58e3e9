"""What a weight is worth to the loss, estimated while the network trains.

Averages over the steps are kept of the gradient, not of its product with the weight: the weight is
known exactly at any moment, so a weight that has just come back, or has just been moved by the
optimizer, is judged by what it is now.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camsdk.compress.options import Importance
from camsdk.errors import InvalidInput

Scores = dict[str, NDArray[np.float32]]

DECAY: Final = 0.98
"""Of the averages over the steps: the last 50 count."""

_SIGNIFICANT: Final = 3.0
"""Standard deviations of an average gradient that chance does not explain."""


class ImportanceEstimate:
    """Importance of every weight by name, and the demand for those that are zero.

    Per weight w with gradient g, over mini-batches:

    - "magnitude": |w|.
    - "taylor-1": sqrt(E[(w g)^2]), the root of arXiv:1906.10771, eq. 8, averaged over batches.
    - "taylor-2": |w E[g] - h w^2 / 2|, the same paper's eq. 7 with the diagonal of the empirical
      Fisher matrix for the Hessian: h = E[g^2] times the batch size, since a mini-batch's gradient
      varies by so much less than an example's.
    """

    def __init__(self, kind: Importance, *, decay: float = DECAY) -> None:
        if not 0 <= decay < 1:
            raise InvalidInput(f"decay {decay} is out of range", "give 0 to below 1")
        self._kind = kind
        self._decay = decay
        self._batch_size = 1
        self._weights: Mapping[str, nn.Parameter] = {}
        self._gradient: dict[str, Tensor] = {}
        self._square: dict[str, Tensor] = {}
        self._steps = 0

    def attach(self, named_weights: Mapping[str, nn.Parameter], batch_size: int) -> None:
        """Watch these weights; every average starts anew.

        Args:
            named_weights: By any name.
            batch_size: Examples whose mean loss each gradient is of.
        """
        self._batch_size = batch_size
        self._weights = dict(named_weights)
        self._gradient = {name: torch.zeros_like(w.detach()) for name, w in named_weights.items()}
        self._square = {name: torch.zeros_like(w.detach()) for name, w in named_weights.items()}
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients of one step, dense: also those of weights that are pruned."""
        share = 1 - self._decay
        self._steps += 1
        for name, weight in self._weights.items():
            if weight.grad is None:
                continue
            self._gradient[name].lerp_(weight.grad, share)
            self._square[name].mul_(self._decay).addcmul_(weight.grad, weight.grad, value=share)

    @torch.no_grad()
    def scores(self) -> Scores:
        """Importance at this moment, float32, each of its weight's shape.

        Before the first step there is no gradient, and magnitude stands in.
        """
        return {name: _to_numpy(self._score(name, w)) for name, w in self._weights.items()}

    @torch.no_grad()
    def demand(self) -> Scores:
        """What a weight that is zero would be worth if it had its layer's typical magnitude.

        In the unit of ``scores``, so that the two compare. Only what exceeds the noise of batches
        counts: among a million gradients that agree on nothing some averages are large by chance.
        RigL (arXiv:1911.11134) ranks by |g| of one batch.
        """
        result = {}
        for name, weight in self._weights.items():
            typical = weight.abs().sum() / weight.count_nonzero().clamp(min=1)
            gradient = self._gradient[name].abs() * self._correction
            rms = (self._square[name] * self._correction).sqrt()
            demand = typical * (gradient - _SIGNIFICANT * self._noise * rms).clamp(min=0)
            if self._kind == "magnitude":
                demand /= rms.square().mean().sqrt().clamp(min=torch.finfo().tiny)
            result[name] = _to_numpy(demand)
        return result

    def _score(self, name: str, weight: Tensor) -> Tensor:
        if self._kind == "magnitude" or not self._steps:
            return weight.abs()
        square = self._square[name] * self._correction
        if self._kind == "taylor-1":
            return weight.abs() * square.sqrt()
        gradient = self._gradient[name] * self._correction
        fisher = square * self._batch_size
        return (fisher * weight.square() / 2 - weight * gradient).abs()

    @property
    def _correction(self) -> float:
        """Averages start from 0: both have to grow by this until the decay has forgotten it."""
        return 1 / (1 - self._decay**self._steps) if self._steps else 1.0

    @property
    def _noise(self) -> float:
        """Standard deviation of an average of independent values, each of deviation 1."""
        total, squares = 1 - self._decay**self._steps, 1 - self._decay ** (2 * self._steps)
        share = (1 - self._decay) / (1 + self._decay)
        return float(np.sqrt(share * squares) / total) if self._steps else 1.0

    def state_dict(self) -> dict[str, Tensor | float | int]:
        """Averages by weight, and the steps they cover."""
        state: dict[str, Tensor | float | int] = {"steps": self._steps}
        for name in self._weights:
            state[f"gradient/{name}"] = self._gradient[name].clone()
            state[f"square/{name}"] = self._square[name].clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        """Continue from a saved state. Raises InvalidInput if it is of other weights."""
        for name in self._weights:
            self._gradient[name] = saved_tensor(state, f"gradient/{name}", self._gradient[name])
            self._square[name] = saved_tensor(state, f"square/{name}", self._square[name])
        self._steps = int(state["steps"])


def saved_tensor(state: Mapping[str, Tensor | float | int], key: str, like: Tensor) -> Tensor:
    """A copy of a saved tensor that must have the shape and type of ``like``."""
    value = state.get(key)
    if not isinstance(value, Tensor) or value.shape != like.shape:
        raise InvalidInput(
            f"the saved state has no {key} of shape {tuple(like.shape)}",
            "resume with the model and options that the state was saved with",
        )
    return value.to(like.dtype).clone()


def _to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
