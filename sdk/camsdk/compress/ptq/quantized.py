"""What quantization after training gives: codes, ranges and how they came about."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.qdq import ActivationRange
from camsdk.compress.options import RangeRule


@dataclass(frozen=True)
class LayerReport:
    """What rounding did to a layer.

    Attributes:
        noise_to_signal: Squared error of its output over the output's square, both without bias,
            on inputs that passed the layers before; NaN where it was not measured.
        bit_width: Of its weights.
    """

    noise_to_signal: float
    bit_width: int


@dataclass(frozen=True)
class PtqReport:
    """How a model was quantized.

    Attributes:
        layers: By layer name.
        inputs: How many were used.
        is_synthetic: Whether they were made up.
        equalized: Number of pairs of layers that were equalized.
        has_statistics: Whether BatchNorm's statistics were used.
        best_range_rule: The rule that "best" came to; None where no tensor asked for it.
    """

    layers: Mapping[str, LayerReport]
    inputs: int
    is_synthetic: bool
    equalized: int
    has_statistics: bool
    best_range_rule: RangeRule | None = None


@dataclass(frozen=True)
class Ptq:
    """A quantized model as codes and ranges; ``graph.qdq.emit_qdq`` makes a file of them.

    Attributes:
        weights: By layer name.
        activations: By tensor name.
        model: The float model that the codes belong to: BatchNorm folded, equalized, biases
            corrected. Not the one given.
        report: See ``PtqReport``.
    """

    weights: Mapping[str, CodedTensor]
    activations: Mapping[str, ActivationRange]
    model: onnx.ModelProto
    report: PtqReport
