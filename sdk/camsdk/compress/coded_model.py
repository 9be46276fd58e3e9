"""What every way of compressing gives: a float model, and the codes and ranges that go with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.qdq import ActivationRange


@dataclass(frozen=True, eq=False)
class CodedModel:
    """``graph.qdq.emit_qdq`` makes a file of it.

    Attributes:
        model: In float, BatchNorm folded; its layers are those that the codes belong to.
        weights: By layer name; what is missing stays in float.
        activations: By tensor name.
        noise: By layer name, squared error of the layer's output over the output's square, where it
            was measured.
        history: Mean loss of each epoch; empty without training.
        untrained: The float model that a training began from, with the same layers; None without
            one.
    """

    model: onnx.ModelProto
    weights: Mapping[str, CodedTensor]
    activations: Mapping[str, ActivationRange]
    noise: Mapping[str, float] = field(default_factory=dict)
    history: tuple[float, ...] = ()
    untrained: onnx.ModelProto | None = None

    @property
    def before(self) -> onnx.ModelProto:
        """What the codes are to be compared with: after a training ``model`` holds their values."""
        return self.model if self.untrained is None else self.untrained
