"""Artifacts that a compression has to choose from: rounded after training, or trained."""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from camsdk.artifact.manifest import Precision
from camsdk.artifact.preprocess import make_input
from camsdk.compress.agreement import evaluate
from camsdk.compress.clips import ClipSplit
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.figures import Agreement
from camsdk.compress.footage import Footage
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.lineages import lineage
from camsdk.compress.options import (
    CompressOptions,
    Filter,
    LayerOptions,
    PruneOptions,
    QuantizeOptions,
)
from camsdk.compress.packaging import PACKED_MEMBER, Draft, describe, make_draft
from camsdk.compress.ptq.edges import with_precise_edges
from camsdk.compress.ptq.quantizing import corrects_biases, quantize_after_training
from camsdk.compress.ptq.ranges import for_synthetic
from camsdk.compress.ptq.synthetic import Synthesis
from camsdk.compress.rounding_file import (
    SUFFIX,
    Rounding,
    read_rounding,
    rounding_digest,
    write_rounding,
)
from camsdk.compress.steps import OnProgress
from camsdk.compress.whole_file import unusable
from camsdk.errors import DataCorrupted

log = logging.getLogger(__name__)

_PROBE_BYTES: Final = 1 << 16

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


@dataclass(frozen=True, eq=False)
class Keep:
    """Where roundings are kept for a later run of the same command.

    Attributes:
        folder: That is there.
        code: Digest of the program and of the libraries that it computes with.
        on_kept: Called with the file, before it is written.
        on_taken: Called when what an earlier run had kept was taken up.
    """

    folder: Path
    code: str
    on_kept: Callable[[Path], None]
    on_taken: Callable[[], None]


def keep_in(
    folder: Path, program: str, on_kept: Callable[[Path], None], on_taken: Callable[[], None]
) -> Keep:
    """Keep roundings in a folder, which is made where it is missing.

    Args:
        program: Its digest.

    Raises:
        InvalidInput: There can be no such folder, or it cannot be written to.
        ResourceExhausted: The disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise unusable(folder, error) from error
    return Keep(folder, f"{program} {np.__version__} {onnxruntime.__version__}", on_kept, on_taken)


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
    material: Material,
    model: onnx.ModelProto,
    plan: Plan,
    on_progress: OnProgress,
    keep: Keep | None = None,
) -> tuple[Rounding, Plan]:
    """Codes and ranges without training, or those that were kept; the plan as carried out."""
    prune = plan.options.prune
    if prune is not None and isinstance(prune.granularity, Filter):
        prune = None  # they are gone already
    place = None
    if keep is not None:
        taken = CalibrationInputs(material)
        for _ in taken:
            pass  # to be hashed
        asked = (plan.quantize, prune, plan.layer_sparsity)
        digest = rounding_digest(model, *asked, taken.sha256, material.seed, keep.code)
        place = keep.folder / f"{digest}{SUFFIX}"
        keep.on_kept(place)
    rounding = None if place is None else _taken_up(place)
    if rounding is not None and keep is not None:
        keep.on_taken()
    if rounding is None:
        rounding = _rounded(material, model, plan, prune, on_progress)
        if place is not None:
            _put_away(place, rounding)
    options = replace(plan.options, quantize=carried_out(plan.quantize, rounding))
    return rounding, replace(plan, options=options)


def _taken_up(place: Path) -> Rounding | None:
    """What was kept there; None where there is nothing of use."""
    try:
        try:
            return read_rounding(place)
        except DataCorrupted as error:
            log.warning("%s; rounding anew", error.message)
            place.unlink()
    except OSError as error:
        log.warning("cannot take up %s: %s; rounding anew", place, error.strerror)
    return None


def _put_away(place: Path, rounding: Rounding) -> None:
    """Keep it; where that fails, a run that is killed later rounds again."""
    try:
        write_rounding(place, rounding)
    except OSError as error:
        log.warning("cannot keep the rounding in %s: %s", place, error.strerror)


def _rounded(
    material: Material,
    model: onnx.ModelProto,
    plan: Plan,
    prune: PruneOptions | None,
    on_progress: OnProgress,
) -> Rounding:
    inputs = CalibrationInputs(material)
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
    report = made.report
    noise = {
        name: layer.noise_to_signal
        for name, layer in report.layers.items()
        if np.isfinite(layer.noise_to_signal)
    }
    weights = {  # in one order in memory, so that sums over kept ones are the same
        layer: replace(of, codes=np.ascontiguousarray(of.codes))
        for layer, of in made.weights.items()
    }
    coded = CodedModel(made.model, weights, made.activations, noise)
    return Rounding(
        coded,
        report.is_synthetic,
        report.equalized > 0,
        inputs.count,
        inputs.sha256,
        report.best_range_rule,
    )


def carried_out(asked: QuantizeOptions, rounding: Rounding) -> QuantizeOptions:
    """The options that a rounding has used in place of those it was given."""
    usual = LayerOptions(asked.weights, asked.activations)
    layers = with_precise_edges(rounding.made.model, asked).layers
    return replace(
        asked,
        activations=(
            for_synthetic(asked.activations) if rounding.is_synthetic else asked.activations
        ),
        layers={n: of for n, of in layers.items() if n in asked.layers or of != usual},
        equalize=rounding.is_equalized,
        correct_bias=corrects_biases(
            asked,
            (of.code_set.bit_width for of in rounding.made.weights.values()),
            is_synthetic=rounding.is_synthetic,
        ),
    )


def facts_of(rounding: Rounding, options: QuantizeOptions) -> dict[str, str]:
    """What a lineage tells of a rounding beside its options.

    Args:
        options: As they were carried out.
    """
    told = {"calibration_inputs": str(rounding.input_count)}
    if options.activations.range_rule == "best" and rounding.best_range_rule is not None:
        told["activation_range"] = f"best: {rounding.best_range_rule}"
    return told


def emit(
    material: Material,
    made: CodedModel,
    plan: Plan,
    facts: Mapping[str, str],
    calibration_sha256: str | None,
) -> Candidate:
    """The artifact, not yet compared."""
    told = {"seed": str(material.seed), **facts}
    if material.footage is not None and material.footage.skipped:
        told["skipped_files"] = str(len(material.footage.skipped))
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
