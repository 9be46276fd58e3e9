"""A small method of compression: weights rounded to codes, activations to steps, straight through.

Real enough to train, export and resume with; not meant to be good.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from camsdk.compress.codes import CodedTensor, project
from camsdk.compress.options import CodeSet

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def _filters_first(weight: Tensor, layer: nn.Module) -> Tensor:
    return weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight


class Rounding:
    """Each step moves weights by what adds up of the gradients; ``finish`` rounds them."""

    extra_gradient = False

    def __init__(self, bits: int = 4, activation_bits: int = 8, *, extra: bool = False) -> None:
        self.code_set = CodeSet(bits)
        self.activation_bits = activation_bits
        self.extra_gradient = extra
        self.layers: dict[str, nn.Module] = {}
        self.coded: dict[str, CodedTensor] = {}
        self.bounds: dict[str, Tensor] = {}
        self.duals: dict[str, Tensor] = {}

    def attach(self, module: nn.Module, example: Tensor) -> None:
        self.layers = {n: m for n, m in module.named_modules() if isinstance(m, LAYERS)}
        for name, layer in self.layers.items():
            self.bounds[name] = torch.zeros(2)
            self.duals[name] = torch.zeros_like(layer.weight)
            layer.register_forward_pre_hook(self._rounded(name))

    def _rounded(self, name: str):
        def hook(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            x, bounds = inputs[0], self.bounds[name]
            if layer.training:
                with torch.no_grad():
                    bounds[0] = torch.minimum(bounds[0], x.min())
                    bounds[1] = torch.maximum(bounds[1], x.max())
            largest = 2**self.activation_bits - 1
            scale = ((bounds[1] - bounds[0]) / largest).clamp(min=1e-8)
            zero = (-bounds[0] / scale).round()
            codes = ((x / scale).round() + zero).clamp(0, largest)
            return (x + ((codes - zero) * scale - x).detach(),)

        return hook

    def _project(self, name: str) -> CodedTensor:
        layer = self.layers[name]
        weight = _filters_first(layer.weight.detach(), layer)
        return project(weight.contiguous().numpy(), self.code_set)

    def after_backward(self, progress: float) -> None:
        for name, layer in self.layers.items():
            self.duals[name] = 0.9 * self.duals[name] + 0.1 * layer.weight.grad

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        for name, layer in self.layers.items():
            layer.weight.sub_(1e-4 * self.duals[name])

    @torch.no_grad()
    def finish(self) -> None:
        for name, layer in self.layers.items():
            self.coded[name] = self._project(name)
            values = torch.from_numpy(self.coded[name].values)
            layer.weight.copy_(_filters_first(values, layer))

    def coded_weights(self) -> Mapping[str, CodedTensor]:
        return self.coded

    def activation_ranges(self) -> Mapping[str, tuple[float, float, int]]:
        return {
            name: (float(b[0]), float(b[1]), self.activation_bits)
            for name, b in self.bounds.items()
        }

    def state_dict(self) -> dict[str, Tensor | float | int]:
        return {f"{kind}/{name}": tensor.clone()
                for kind, held in (("bounds", self.bounds), ("duals", self.duals))
                for name, tensor in held.items()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        for key, value in state.items():
            kind, _, name = key.partition("/")
            getattr(self, kind)[name] = value
