"""Brevitas (Xilinx, BSD-3): quantization-aware training with learned scales per filter."""

import torch
from brevitas import nn as qnn
from brevitas.inject.enum import ScalingImplType, StatsOp
from brevitas.quant.binary import SignedBinaryWeightPerTensorConst
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.ternary import SignedTernaryWeightPerTensorConst
from torch import Tensor, nn

from peers.recipe import Contender, Row


class _Learned(Int8WeightPerChannelFloat):
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS


class _Binary(SignedBinaryWeightPerTensorConst):
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_op = StatsOp.AVE
    scaling_per_output_channel = True


class _Ternary(SignedTernaryWeightPerTensorConst):
    scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
    scaling_stats_op = StatsOp.AVE
    scaling_per_output_channel = True


def _weight(bits: int) -> tuple[type, int]:
    return {1: (_Binary, 1), 2: (_Ternary, 2)}.get(bits, (_Learned, bits))


def prepare(module: nn.Module, row: Row, edges: tuple[str, ...], example: Tensor) -> Contender:
    """Every convolution and linear layer becomes Brevitas' own."""
    signed = _signed_inputs(module, example)
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        quantizer, bits = _weight(8 if name in edges else row.weight_bits)
        arguments = {
            "bias": layer.bias is not None,
            "weight_quant": quantizer,
            "weight_bit_width": bits,
        }
        inputs = 8 if name in edges else row.activation_bits
        if inputs is not None:
            kind = Int8ActPerTensorFloat if name in signed else Uint8ActPerTensorFloat
            arguments |= {"input_quant": kind, "input_bit_width": inputs}
        if isinstance(layer, nn.Conv2d):
            made = qnn.QuantConv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, stride=layer.stride,
                padding=layer.padding, groups=layer.groups, **arguments,
            )  # fmt: skip
        else:
            made = qnn.QuantLinear(layer.in_features, layer.out_features, **arguments)
        made.load_state_dict(layer.state_dict(), strict=False)
        for part in made.modules():  # scales start from the weights that were just loaded
            if hasattr(part, "init_tensor_quant"):
                part.init_tensor_quant()
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, made)
    return Contender(module.to(memory_format=torch.channels_last))


@torch.no_grad()
def _signed_inputs(module: nn.Module, example: Tensor) -> set[str]:
    """Layers whose input has negative values."""
    found: set[str] = set()
    handles = [
        layer.register_forward_pre_hook(
            lambda _, x, name=name: found.add(name) if float(x[0].min()) < 0 else None
        )
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    module(example)
    for handle in handles:
        handle.remove()
    return found
