"""What a report measures by itself: how much each layer matters, how long each engine takes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from camsdk.compress.coded_model import CodedModel
from camsdk.compress.engines import Entry, Timing, is_installed, time_engines
from camsdk.compress.mnn import DEFAULT_BITS, export_mnn, from_quantized, layer_bits, suited
from camsdk.compress.packaging import Draft
from camsdk.compress.sensitivity import measure_coded_layers
from camsdk.compress.sessions import Array
from camsdk.errors import RuntimeFailure, UnsupportedModel

FLOAT: Final = "float"
COMPRESSED: Final = "compressed"
_LEAST_S: Final = 2.0
_SENSITIVITY_SHARE: Final = 0.2
_LATENCY_SHARE: Final = 0.1


@dataclass(frozen=True)
class Probes:
    """What was measured.

    Attributes:
        sensitivity: By layer name, see ``sensitivity.measure_coded_layers``.
        latency: Of both models in every engine, or why it is not known.
        duration_s: What each took.
        unprobed: Why no layer was measured; empty where layers were.
    """

    sensitivity: Mapping[str, float]
    latency: tuple[Timing, ...]
    duration_s: Mapping[str, float]
    unprobed: str = ""


def probe(
    source: Draft, draft: Draft, made: CodedModel, inputs: Sequence[Array], spent_s: float
) -> Probes:
    """Measure layers and engines, in a small part of the time that the run has taken.

    What an engine cannot do is absent, and said: the artifact that a report is about is made.

    Args:
        source, draft: The float artifact and the compressed one.
        made: What the compressed one was emitted from.
        inputs: A few of the model's.
        spent_s: Seconds that the run has taken; what follows takes up to 20% of it for layers and
            10% for rounds of inferences, two seconds each at the least.
    """
    start_s = time.monotonic()
    budget_s = max(_LEAST_S, _SENSITIVITY_SHARE * spent_s)
    errors, unprobed = dict[str, float](), ""
    try:
        errors = measure_coded_layers(made.before, made.weights, inputs, budget_s=budget_s)
    except RuntimeFailure as error:
        unprobed = error.message
    known = {name: error for name, error in errors.items() if np.isfinite(error)}
    between_s = time.monotonic()
    budget_s = max(_LEAST_S, _LATENCY_SHARE * spent_s)
    latency = time_engines(_entries(source, draft, inputs[0]), inputs[0], budget_s=budget_s)
    durations = {
        "sensitivity": between_s - start_s,
        "latency": time.monotonic() - between_s,
    }
    return Probes(known, latency, durations, unprobed)


def _entries(source: Draft, draft: Draft, tensor: Array) -> list[Entry]:
    models = {FLOAT: source.model, COMPRESSED: draft.model}
    plain = [
        Entry(engine, variant, content)
        for engine in ("onnxruntime", "OpenVINO")
        for variant, content in models.items()
    ]
    return plain + [_for_mnn(variant, content, tensor) for variant, content in models.items()]


def _for_mnn(variant: str, content: bytes, tensor: Array) -> Entry:
    if not is_installed("MNN"):
        return Entry("MNN", variant, None)
    try:
        stored = onnx.load_from_string(content)
        model, bits = from_quantized(stored)
        kept = None if variant == FLOAT else DEFAULT_BITS
        made = export_mnn(model, [tensor], suited(bits, kept, layer_bits(stored)))
        return Entry("MNN", variant, made.content)
    except (UnsupportedModel, RuntimeFailure) as error:
        return Entry("MNN", variant, None, str(error))
