"""What a packed file holds besides the codes and scales of its layers, measured on files so made.

The emitted model has scales of tensors and biases that the float model has not, and the entropy
coder stores a table for every layer, which grows with the bits about linearly. Together that is a
quarter of a file of 20 kB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from camsdk.compress.allocate import FLOAT_BITS, LayerChoice, Sensitivity, Trial
from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.graph.qdq import ActivationRange, emit_qdq
from camsdk.compress.options import QuantizeOptions
from camsdk.compress.pack_model import pack_model
from camsdk.compress.ptq.probing import float_tensors
from camsdk.compress.ptq.ranges import activation_options, for_synthetic, observe
from camsdk.compress.sensitivity import Floats, code_weights, predict_bytes, predict_float_bytes


@dataclass(frozen=True)
class FileCost:
    """In bytes, besides what ``sensitivity`` predicts for the weights.

    Attributes:
        fixed: Whatever the choices.
        per_bit: More for every bit of the weights of every layer with codes.
    """

    fixed: float
    per_bit: float

    def added_to(self, sensitivity: Sensitivity) -> Sensitivity:
        """The same choices, each costing what it adds to the file."""
        return {
            name: {
                choice: Trial(trial.error, trial.size_bytes + self._of(choice))
                for choice, trial in table.items()
            }
            for name, table in sensitivity.items()
        }

    def _of(self, choice: LayerChoice) -> float:
        return 0.0 if choice.bit_width == FLOAT_BITS else self.per_bit * choice.bit_width


def measure_file_cost(
    model: onnx.ModelProto,
    quantize: QuantizeOptions,
    bit_widths: Sequence[int],
    inputs: Sequence[Floats],
) -> FileCost:
    """Pack the model with the nearest codes of the fewest and of the most bits.

    Args:
        model: In float, BatchNorm folded.
        quantize: Layers that it leaves in float stay there.
        bit_widths: Of the weights, that layers may choose from.
        inputs: Of the model, for the ranges of its tensors.

    Raises:
        UnsupportedModel, InvalidInput, RuntimeFailure: As ``emit_qdq`` and ``probe``.
    """
    layers = list_layers(model)
    wanted = activation_options(float_tensors(model), layers, quantize)
    observers = observe(model, wanted, inputs)
    ranges = {name: observers[name].range(for_synthetic(of)) for name, of in wanted.items()}
    # Where all may only stay in float, what a code would cost is not asked for.
    coded = [bits for bits in bit_widths if bits != FLOAT_BITS] or [8]
    fewest, most = min(coded), max(coded)
    low = _bytes_besides(model, quantize, fewest, ranges)
    count = sum(quantize.of(layer.name).weights is not None for layer in layers)
    if fewest == most or not count:
        return FileCost(low, 0.0)
    high = _bytes_besides(model, quantize, most, ranges)
    per_bit = max(0.0, (high - low) / ((most - fewest) * count))
    return FileCost(low - per_bit * fewest * count, per_bit)


def _bytes_besides(
    model: onnx.ModelProto,
    quantize: QuantizeOptions,
    bit_width: int,
    ranges: dict[str, ActivationRange],
) -> float:
    stored, weighed = constants(model), 0.0
    coded: dict[str, CodedTensor] = {}
    for layer in list_layers(model):
        weights = layer.filters_first(stored[layer.weight]).astype(np.float32)
        if quantize.of(layer.name).weights is None:
            weighed += predict_float_bytes(weights)
            continue
        coded[layer.name] = code_weights(weights, LayerChoice(bit_width), quantize.weights)
        weighed += predict_bytes(coded[layer.name])
    emitted = emit_qdq(model, coded, ranges)
    return len(pack_model(emitted.SerializeToString(deterministic=True))) - weighed
