"""The facts of one compression: what a report shows, as plain values.

A fact that was not measured is absent, never a zero: a run without data has no accuracy, a layer
that was not probed has no sensitivity.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.engines import Timing
from camsdk.compress.graph.optimise import Report

HISTOGRAM_BINS: Final = 33
"""Odd, so that zero has a bin of its own."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins from ``low`` to ``high``; of few codes, each has a bin."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerFacts:
    """One layer before and after.

    Attributes:
        name, operator: Of the ONNX node.
        shape: Of its weight, filters first.
        bit_width: Of the weights, None in float.
        activation_bits: Of what enters, None in float.
        sparsity: Share of zero weights.
        macs, nonzero_macs: Multiply-accumulates for one input; those whose weight is not zero.
        weight_error: Root of the mean squared change of the weights over that of the weights.
        noise_to_signal: Squared error of the layer's output over the output's square, or None.
        sensitivity: The same of the model's outputs when this layer alone is compressed, or None.
        weights, codes: Histograms of the float weights and of what they became.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    bit_width: int | None
    activation_bits: int | None
    sparsity: float
    macs: int
    nonzero_macs: int
    weight_error: float
    noise_to_signal: float | None
    sensitivity: float | None
    weights: Histogram
    codes: Histogram


@dataclass(frozen=True)
class Sample:
    """One frame with what both models say of it, as JPEG files.

    Attributes:
        legend: Names of classes that cannot be drawn, by what is drawn in their place.
    """

    frame: int
    before: bytes
    after: bytes
    legend: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """Everything a report says.

    Attributes:
        source, result: References, ``name:version``.
        options: As text, by name.
        sizes_bytes: By what: the float model, the ONNX file, the packed file, the artifact.
        accuracy: By figure, of the compressed model.
        compared: What the agreement was measured on, counts by their plural such as ``boxes``
            (those of the float model); None without data.
        accuracy_before: The same of the float model, where it is compared with itself too.
        accuracy_of_choice: By figure and way, of what was rounded and of what was trained, on the
            frames to choose by; empty where nothing was trained.
        latency: Measured CPU time of an inference on one thread, by engine and model.
        duration_s: Wall time of each step, of this attempt alone.
        resumed: Steps that took up what an earlier attempt of the same command had kept.
        peak_rss_bytes: Largest resident size of the process.
        predicted_ms: Of an inference, by device, from a profile of it; never mixed with what was
            measured.
        probe_inputs: What layers and engines were measured on, in words.
        unprobed: Why no layer was measured; empty where layers were.
        optimised: The graph before and after it was rewritten, and how exactly that was checked.
        history: Loss and rate over a training, by column; empty without one.
    """

    source: str
    result: str
    options: Mapping[str, str]
    layers: tuple[LayerFacts, ...]
    sizes_bytes: Mapping[str, int]
    accuracy: Mapping[str, float]
    latency: tuple[Timing, ...]
    duration_s: Mapping[str, float]
    peak_rss_bytes: int
    resumed: tuple[str, ...] = ()
    compared: Mapping[str, int] | None = None
    optimised: Report | None = None
    accuracy_before: Mapping[str, float] = field(default_factory=dict)
    accuracy_of_choice: Mapping[str, float] = field(default_factory=dict)
    predicted_ms: Mapping[str, float] = field(default_factory=dict)
    probe_inputs: str = ""
    unprobed: str = ""
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()

    @property
    def macs(self) -> int:
        """Of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def nonzero_macs(self) -> int:
        """Of all layers."""
        return sum(layer.nonzero_macs for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of zeros over all weights."""
        total = sum(int(np.prod(layer.shape)) for layer in self.layers)
        zeros = sum(layer.sparsity * int(np.prod(layer.shape)) for layer in self.layers)
        return zeros / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all but the pictures."""
        values = asdict(self)
        del values["samples"]
        return {
            **values,
            "macs": self.macs,
            "nonzero_macs": self.nonzero_macs,
            "sparsity": self.sparsity,
        }

    def to_json(self) -> str:
        """One object, indented, keys in the order of the fields."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def histogram(values: NDArray[np.generic]) -> Histogram:
    """Of any array, symmetric about zero; an empty one has an empty histogram."""
    flat = np.asarray(values, np.float64).ravel()
    largest = float(np.abs(flat).max(initial=0.0)) or 1.0
    bins, end = HISTOGRAM_BINS, largest
    if np.issubdtype(values.dtype, np.integer) and 2 * largest + 1 <= HISTOGRAM_BINS:
        bins, end = int(2 * largest + 1), largest + 0.5
    counts, _ = np.histogram(flat, bins, (-end, end))
    return Histogram(-largest, largest, tuple(int(count) for count in counts))
