"""Artifacts that a compression has to choose from: rounded after training, or trained."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from camsdk.artifact.manifest import Precision
from camsdk.artifact.preprocess import make_input
from camsdk.compress.agreement import evaluate
from camsdk.compress.clips import ClipSplit
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.evaluate import Agreement
from camsdk.compress.footage import Footage
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.lineages import lineage
from camsdk.compress.options import CompressOptions, Filter, LayerOptions, QuantizeOptions
from camsdk.compress.packaging import PACKED_MEMBER, Draft, describe, make_draft
from camsdk.compress.ptq.edges import with_precise_edges
from camsdk.compress.ptq.quantizing import Ptq, quantize_after_training
from camsdk.compress.ptq.ranges import for_synthetic
from camsdk.compress.ptq.synthetic import Synthesis
from camsdk.compress.steps import OnProgress

_LOW_PRECISION_BITS: Final = 7
"""From here on weights count as int8: see ``compressing.storage_bits``."""


@dataclass(frozen=True, eq=False)
class Material:
    """What a compression works on.

    Attributes:
        source: The float artifact.
        footage, split: Frames and which serve what; None without data.
        seed: Of everything random.
        name, version, hardware: Of the artifact to come.
    """

    source: Draft
    footage: Footage | None
    split: ClipSplit | None
    seed: int
    name: str
    version: int
    hardware: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done to every layer.

    Attributes:
        options: As they are carried out.
        layer_sparsity: By layer name, where each has its own.
    """

    options: CompressOptions
    layer_sparsity: Mapping[str, float] | None = None

    @property
    def quantize(self) -> QuantizeOptions:
        """Of a plan there is always one."""
        assert self.options.quantize is not None
        return self.options.quantize


@dataclass(frozen=True, eq=False)
class Candidate:
    """An artifact and how it compares.

    Attributes:
        draft: To be packed; its lineage tells of the plan.
        made: What it was emitted from.
        plan: As it was carried out.
    """

    draft: Draft
    made: CodedModel
    plan: Plan

    @property
    def packed_bytes(self) -> int:
        """Of the packed model file."""
        return len(self.draft.members[PACKED_MEMBER])


class CalibrationInputs:
    """Calibration frames as tensors, hashed as they are taken."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._digest = hashlib.sha256()
        self.count = 0

    def __iter__(self) -> Iterator[NDArray[np.generic]]:
        footage, split = self._material.footage, self._material.split
        if footage is not None and split is not None:
            for frame in footage.read(split.calibration):
                tensor = make_input(frame, self._material.source.manifest.input)
                self._digest.update(tensor.tobytes())
                self.count += 1
                yield tensor

    @property
    def sha256(self) -> str | None:
        """Over all tensors taken; None when there were none."""
        return self._digest.hexdigest() if self.count else None


def round_after_training(
    material: Material, model: onnx.ModelProto, plan: Plan, on_progress: OnProgress
) -> tuple[CodedModel, Plan, CalibrationInputs]:
    """Codes and ranges without training; the plan as it was carried out; the inputs taken."""
    inputs = CalibrationInputs(material)
    prune = plan.options.prune
    if prune is not None and isinstance(prune.granularity, Filter):
        prune = None  # they are gone already
    made = quantize_after_training(
        model,
        plan.quantize,
        None if material.footage is None else inputs,
        prune=prune,
        layer_sparsity=plan.layer_sparsity,
        synthesis=synthesis_of(material.source),
        seed=material.seed,
        on_progress=on_progress,
    )
    noise = {
        name: layer.noise_to_signal
        for name, layer in made.report.layers.items()
        if np.isfinite(layer.noise_to_signal)
    }
    options = replace(plan.options, quantize=carried_out(plan.quantize, made))
    coded = CodedModel(made.model, made.weights, made.activations, noise)
    return coded, replace(plan, options=options), inputs


def carried_out(asked: QuantizeOptions, made: Ptq) -> QuantizeOptions:
    """The options that a quantization after training has used in place of those it was given."""
    usual = LayerOptions(asked.weights, asked.activations)
    layers = with_precise_edges(made.model, asked).layers
    return replace(
        asked,
        activations=(
            for_synthetic(asked.activations) if made.report.is_synthetic else asked.activations
        ),
        layers={n: of for n, of in layers.items() if n in asked.layers or of != usual},
        equalize=made.report.equalized > 0,
    )


def emit(
    material: Material,
    made: CodedModel,
    plan: Plan,
    facts: Mapping[str, str],
    calibration_sha256: str | None,
) -> Candidate:
    """The artifact, not yet compared."""
    told = {"seed": str(material.seed), **facts}
    description = replace(
        describe(material.source.manifest),
        name=material.name,
        version=material.version,
        precision=precision_of(made, plan.quantize),
        lineage=lineage(
            material.source, plan.options, plan.layer_sparsity, told, calibration_sha256
        ),
        hardware=material.hardware,
    )
    model = emit_qdq(made.model, made.weights, made.activations)
    return Candidate(make_draft(model, description, is_packed=True), made, plan)


def measure(
    material: Material, candidate: Candidate, frames: tuple[int, ...], on_progress: OnProgress
) -> Agreement | None:
    """Agreement with the float artifact on these frames; None without any."""
    if material.footage is None or not frames:
        return None
    return evaluate(
        material.source,
        candidate.draft,
        material.footage,
        frames,
        on_frame=lambda done: on_progress(done, len(frames)),
    )


def with_metrics(draft: Draft, metrics: Mapping[str, float]) -> Draft:
    """The draft with more metrics in its manifest."""
    held = {**draft.manifest.metrics, **metrics}
    return replace(draft, manifest=draft.manifest.model_copy(update={"metrics": held}))


def with_facts(draft: Draft, facts: Mapping[str, str]) -> Draft:
    """The draft with more told in its lineage."""
    before = draft.manifest.lineage
    after = before.model_copy(update={"options": {**before.options, **facts}})
    return replace(draft, manifest=draft.manifest.model_copy(update={"lineage": after}))


def synthesis_of(source: Draft) -> Synthesis:
    """How made-up pictures become inputs of this model."""
    spec = source.manifest.input
    return Synthesis(mean=spec.mean, std=spec.std, is_channels_last=spec.layout == "NHWC")


def precision_of(made: CodedModel, options: QuantizeOptions) -> Precision:
    """``int8``, or ``w4a8`` and the like: of most of the weights."""
    sizes: dict[int, int] = {}
    for coded in made.weights.values():
        bits = coded.code_set.bit_width
        sizes[bits] = sizes.get(bits, 0) + coded.codes.size
    usual = options.weights.code_set.bit_width
    bits = max(sizes, key=lambda width: sizes[width], default=usual)
    if bits >= _LOW_PRECISION_BITS and options.activations.bit_width == 8:
        return "int8"
    return f"w{bits}a{options.activations.bit_width}"
