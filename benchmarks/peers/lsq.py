"""LSQ as published: Esser et al., "Learned Step Size Quantization", arXiv:1902.08153.

Our own writing of the paper, in plain torch: one step size a tensor, equation 1 to 3 for its
gradient, the gradient scale 1 / sqrt(n Qp) of section 2.2, the start 2 mean|v| / sqrt(Qp) of
section 2.1. Nothing beyond the paper.
"""

import math

import torch
from torch import Tensor, nn

from peers.recipe import Contender, Row


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    return (x - x * factor).detach() + x * factor


def _rounded(x: Tensor) -> Tensor:
    return (x.round() - x).detach() + x


class Step(nn.Module):
    """Quantizes to integers from ``low`` to ``high`` times a learned step."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.step = nn.Parameter(torch.tensor(0.0))

    def start(self, v: Tensor) -> None:
        """Before the first use."""
        self.step.data = 2 * v.detach().abs().mean() / math.sqrt(max(self.high, 1))

    def forward(self, v: Tensor) -> Tensor:
        if float(self.step) == 0.0:
            self.start(v)
        count = v.numel() if self.low < 0 else v[0].numel()
        step = _scaled_gradient(self.step, 1 / math.sqrt(count * max(self.high, 1)))
        scaled = (v / step).clamp(self.low, self.high)
        if self.low == -1 and self.high == 1 and getattr(self, "is_binary", False):
            return (torch.where(scaled < 0, -1.0, 1.0) - scaled).detach() * step + scaled * step
        return _rounded(scaled) * step


class Quantized(nn.Module):
    """A layer whose weights and input are quantized."""

    def __init__(self, layer: nn.Module, weight_bits: int, activation_bits: int | None) -> None:
        super().__init__()
        self.layer = layer
        if weight_bits == 1:
            self.weight_step = Step(-1, 1)
            self.weight_step.is_binary = True
        else:
            # Symmetric, as ours: with 2 bits ternary.
            high = 2 ** (weight_bits - 1) - 1
            self.weight_step = Step(-high, high)
        self.weight_step.start(layer.weight)
        self.input_step = None if activation_bits is None else Step(0, 2**activation_bits - 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.input_step is not None:
            if (
                self.input_step.low == 0 and float(x.detach().min()) < 0
            ):  # not after a ReLU: signed, as the paper's Qn asks
                high = (self.input_step.high + 1) // 2
                self.input_step.low, self.input_step.high = -high, high - 1
            x = self.input_step(x)
        weight = self.weight_step(self.layer.weight)
        layer = self.layer
        if isinstance(layer, nn.Conv2d):
            return nn.functional.conv2d(
                x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
            )
        return nn.functional.linear(x, weight, layer.bias)


def prepare(module: nn.Module, row: Row, edges: tuple[str, ...], example: Tensor) -> Contender:
    """Every convolution and linear layer."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parent, _, last = name.rpartition(".")
            bits = 8 if name in edges else row.weight_bits
            inputs = 8 if name in edges else row.activation_bits
            setattr(module.get_submodule(parent), last, Quantized(layer, bits, inputs))
    module.train()
    with torch.no_grad():
        module(example)
    return Contender(module)
