"""Networks of PyTorch that a test makes up on the spot."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Of(nn.Module):
    """A function of one tensor, with parts."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)
