"""One layer of a network that is quantized while it trains: where its codes and ranges are kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from camsdk.compress.codes import CodedTensor
from camsdk.compress.options import LayerOptions
from camsdk.compress.training.quantizers import InputQuantizer, WeightQuantizer, sample_of
from camsdk.errors import InvalidInput

_KINDS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass
class CodedLayer:
    """Its float weights, and what ADMM keeps beside them.

    Attributes:
        module: The convolution or linear layer, parametrized by ``quantizer``.
        parameter: Float weights as the module stores them.
        quantizer: None if the weights stay in float.
        target, dual: G and u of ADMM, filters first.
    """

    module: nn.Module
    parameter: nn.Parameter
    quantizer: WeightQuantizer | None
    target: Tensor
    dual: Tensor

    @property
    def weight(self) -> Tensor:
        """The float weights, filters first; a view, so what is written into it arrives."""
        return self.parameter.transpose(0, 1) if self.is_transposed else self.parameter

    @property
    def is_transposed(self) -> bool:
        """Whether the module stores its weights inputs first."""
        return isinstance(self.module, _TRANSPOSED)

    def hide_gradient(self, mask: Tensor) -> None:
        """Set the gradient of pruned weights to 0; the mask is filters first."""
        if self.parameter.grad is not None:
            self.parameter.grad.mul_(mask.transpose(0, 1) if self.is_transposed else mask)

    def input_quantizers(self) -> Iterator[InputQuantizer]:
        """One, or none if what enters the layer stays in float."""
        quantizer = getattr(self.module, "input_quantizer", None)
        if isinstance(quantizer, InputQuantizer):
            yield quantizer

    def settle(self) -> CodedTensor | None:
        """Leave the module with the coded weights in place of the float ones, and export them."""
        for of_input in self.input_quantizers():
            of_input.settle()
        if self.quantizer is None:
            return None
        coded = CodedTensor(
            self.quantizer.codes(self.weight).cpu().numpy(),
            self.quantizer.scale.detach().cpu().numpy().copy(),
            self.quantizer.options.code_set,
        )
        parametrize.remove_parametrizations(self.module, "weight")
        return coded


def install(layer: nn.Module, options: LayerOptions, sample: Tensor) -> CodedLayer:
    """Put quantizers in a layer.

    Args:
        sample: Values that enter the layer.

    Raises:
        InvalidInput: Weights are no finite numbers.
    """
    parameter = cast(nn.Parameter, layer.weight)
    quantizer = None
    is_transposed = isinstance(layer, _TRANSPOSED)
    weight = parameter.transpose(0, 1) if is_transposed else parameter
    if options.weights is not None:
        if not torch.isfinite(weight).all():
            raise InvalidInput("there are weights that are no finite numbers", "retrain the model")
        quantizer = WeightQuantizer(weight, options.weights, is_transposed=is_transposed)
        parametrize.register_parametrization(layer, "weight", quantizer)
        parameter = cast(Any, layer).parametrizations.weight.original
    if options.activations is not None:
        layer.input_quantizer = InputQuantizer(sample, options.activations.bit_width)
        layer.register_forward_pre_hook(_quantize_input)
    zeros = torch.zeros_like(weight.detach())
    return CodedLayer(layer, parameter, quantizer, zeros, zeros.clone())


def _quantize_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    quantizer = cast(InputQuantizer, layer.input_quantizer)
    return (quantizer(inputs[0]), *inputs[1:])


@torch.no_grad()
def record_inputs(module: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """A sample of what enters each layer that can be quantized, in the order of execution.

    Transposed convolutions in groups are none of them: ONNX cannot say the scales of their filters.

    Args:
        example: A batch; the module runs in evaluation mode.
    """
    found: dict[str, Tensor] = {}
    handles = []
    for name, child in module.named_modules():
        is_single = isinstance(child, _TRANSPOSED) and child.groups == 1
        if isinstance(child, _KINDS) or is_single:

            def record(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                found.setdefault(name, sample_of(inputs[0]))

            handles.append(child.register_forward_pre_hook(record))
    was_training = module.training
    module.eval()
    try:
        module(example)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return found
