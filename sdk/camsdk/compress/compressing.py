"""A float artifact becomes a compressed one: quantize, evaluate, describe, report.

Knows no model: how frames become tensors and outputs become boxes is in the float manifest, and
goes over into the new manifest unchanged.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import onnx

from camsdk.artifact.manifest import Lineage, Precision
from camsdk.artifact.preprocess import make_input
from camsdk.compress.clips import ClipSplit, split_clip
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.evaluate import Agreement, Contender, compare
from camsdk.compress.footage import Footage
from camsdk.compress.graph.optimise import optimise
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.options import LayerOptions, QuantizeOptions
from camsdk.compress.packaging import (
    CPU_HARDWARE,
    TOOL_VERSION,
    Draft,
    describe,
    make_draft,
)
from camsdk.compress.ptq.quantizing import Ptq, quantize_after_training
from camsdk.compress.ptq.synthetic import Synthesis
from camsdk.compress.report.collect import collect_facts, draw_samples, few_inputs
from camsdk.compress.report.facts import RunFacts
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput

OnProgress = Callable[[int, int], None]
"""Called with steps done and steps in all."""

TOOL: Final = "camsdk.compress"
_LOW_PRECISION_BITS: Final = 7
"""From here on weights count as int8: see ``storage_bits``."""


@dataclass(frozen=True)
class Compressed:
    """A compressed artifact and how it compares with the float one.

    Attributes:
        draft: Its manifest carries the agreement as metrics.
        agreement: None without data: there is nothing to compare on.
        split: Which frames served what; None without data.
        facts: For ``report.page.to_html``.
    """

    draft: Draft
    agreement: Agreement | None
    split: ClipSplit | None
    facts: RunFacts


def storage_bits(weight_bits: int, hardware: tuple[str, ...]) -> int:
    """Bits of weight codes that give the same integers on all of this hardware.

    x86 processors before VNNI add pairs of uint8 x int8 products in 16 bits and saturate, silently;
    255 x 64 x 2 fits. So 8 bits are 7 wherever an x86 processor may be among the devices.
    """
    if weight_bits == 8 and any("x86" in name for name in hardware):
        return 7
    return weight_bits


def precision_of(options: QuantizeOptions) -> Precision:
    """``int8``, or ``w4a8`` and the like."""
    bits = options.weights.code_set.bit_width
    if bits >= _LOW_PRECISION_BITS and options.activations.bit_width == 8:
        return "int8"
    return f"w{bits}a{options.activations.bit_width}"


def compress(
    source: Draft,
    footage: Footage | None,
    options: QuantizeOptions,
    *,
    name: str | None = None,
    version: int | None = None,
    hardware: tuple[str, ...] = CPU_HARDWARE,
    split: ClipSplit | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Compressed:
    """Quantize a float artifact without training, and measure it where there is data.

    Args:
        source: The float artifact.
        footage: Frames such as the model will see, or None: then inputs are made up and nothing is
            compared.
        options: Bits, codes, rounding; ``storage_bits`` tells what to ask for on which hardware.
        name, version: Of the new artifact; by default the source's name and the next version.
        hardware: What it is made for.
        split: Which frames; by default ``split_clip``.
        seed: Of everything random; the same seed and frames give the same artifact.
        on_progress: Steps done and in all, over all phases.

    Raises:
        InvalidInput: The source is not float, the footage is too short, or an option is wrong.
        SourceError: The footage cannot be read.
        UnsupportedModel: A layer cannot be quantized.
    """
    check_float(source)
    if footage is not None:
        split = split or split_clip(len(footage))
    run = _Run(on_progress, 0 if split is None else len(split.evaluation))
    inputs = _Inputs(source, footage, split)
    few = few_inputs(source, footage, () if split is None else split.calibration, seed)
    with run.timed("optimise"):
        # BatchNorm stays until its statistics have been used.
        optimised = optimise(
            onnx.load_from_string(source.model),
            keep_batchnorm=True,
            inputs=[{source.manifest.input.name: tensor} for tensor in few],
        )
    with run.timed("quantize"):
        made = quantize_after_training(
            optimised.model,
            options,
            None if footage is None else inputs,
            synthesis=synthesis_of(source),
            seed=seed,
            on_progress=run.quantized,
        )
    with run.timed("emit"):
        model = emit_qdq(made.model, made.weights, made.activations)
        lineage = _lineage(source, options, inputs, seed)
        description = replace(
            describe(source.manifest),
            name=name or source.manifest.name,
            version=version or source.manifest.version + 1,
            precision=precision_of(options),
            lineage=lineage,
            hardware=hardware,
        )
        draft = make_draft(model, description, is_packed=True)
    agreement = None
    if footage is not None and split is not None:
        with run.timed("evaluate"):
            agreement = evaluate(source, draft, footage, split.evaluation, on_frame=run.evaluated)
        manifest = draft.manifest.model_copy(update={"metrics": agreement.as_metrics()})
        draft = replace(draft, manifest=manifest)
    facts = collect_facts(source, draft, optimised.report, _coded(made), agreement, run.durations)
    if footage is not None and split is not None:
        facts = replace(facts, samples=draw_samples(source, draft, footage, split.evaluation))
    run.finish()
    return Compressed(draft, agreement, split, facts)


def _coded(made: Ptq) -> CodedModel:
    noise = {
        name: layer.noise_to_signal
        for name, layer in made.report.layers.items()
        if np.isfinite(layer.noise_to_signal)
    }
    return CodedModel(made.model, made.weights, made.activations, noise)


def synthesis_of(source: Draft) -> Synthesis:
    """How made-up pictures become inputs of this model."""
    spec = source.manifest.input
    return Synthesis(mean=spec.mean, std=spec.std)


def evaluate(
    reference: Draft,
    candidate: Draft,
    footage: Footage,
    frames: tuple[int, ...],
    *,
    on_frame: Callable[[int], None] | None = None,
) -> Agreement:
    """How far ``candidate`` agrees with ``reference`` on these frames."""
    if reference.manifest.classes != candidate.manifest.classes:
        raise InvalidInput("the two models do not know the same classes")
    named = tuple(name for name in ("person",) if name in reference.manifest.classes)
    return compare(
        _contender(reference),
        _contender(candidate),
        footage.read(frames),
        class_names=named,
        on_frame=on_frame,
    )


def _contender(draft: Draft) -> Contender:
    return Contender(draft.manifest, Session(draft.model))


def check_float(source: Draft) -> None:
    """Raises InvalidInput unless it is a float model."""
    if source.manifest.precision != "fp32":
        raise InvalidInput(
            f"{source.manifest.reference} is {source.manifest.precision}, only fp32 can be "
            "quantized",
            "give the artifact that camctl model import made",
        )


def _lineage(source: Draft, options: QuantizeOptions, inputs: "_Inputs", seed: int) -> Lineage:
    weights, activations = options.weights, options.activations
    told = {
        "weight_bits": str(weights.code_set.bit_width),
        "weight_codes": weights.code_set.spacing,
        "weight_scale_per": weights.granularity,
        "activation_bits": str(activations.bit_width),
        "activation_range": activations.range_rule,
        "rounding": options.rounding,
        "equalize": str(options.equalize).lower(),
        "correct_bias": str(options.correct_bias).lower(),
        "layers": ",".join(f"{layer}={_told(of)}" for layer, of in sorted(options.layers.items())),
        "calibration_inputs": str(inputs.count),
        "seed": str(seed),
    }
    return Lineage(
        source=source.manifest.reference,
        source_sha256=hashlib.sha256(source.model).hexdigest(),
        tool=TOOL,
        tool_version=TOOL_VERSION,
        options=told,
        calibration_sha256=inputs.sha256,
    )


def _told(of: LayerOptions) -> str:
    weights = "float" if of.weights is None else f"w{of.weights.code_set.bit_width}"
    return weights + ("" if of.activations is None else f"a{of.activations.bit_width}")


class _Inputs:
    """Calibration frames as tensors, hashed as they are taken."""

    def __init__(self, source: Draft, footage: Footage | None, split: ClipSplit | None) -> None:
        self._source, self._footage, self._split = source, footage, split
        self._digest = hashlib.sha256()
        self.count = 0

    def __iter__(self) -> "Iterator[np.ndarray]":
        if self._footage is not None and self._split is not None:
            for frame in self._footage.read(self._split.calibration):
                tensor = make_input(frame, self._source.manifest.input)
                self._digest.update(tensor.tobytes())
                self.count += 1
                yield tensor

    @property
    def sha256(self) -> str | None:
        """Over all tensors taken; None when there were none."""
        return self._digest.hexdigest() if self.count else None


@dataclass
class _Run:
    """Progress over the phases, and how long each took."""

    on_progress: OnProgress | None
    evaluation: int
    durations: dict[str, float] = field(default_factory=dict)
    _steps: int = 1

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Measures a phase."""
        start = time.monotonic()
        yield
        self.durations[phase] = time.monotonic() - start

    def quantized(self, done: int, total: int) -> None:
        self._steps = total
        self._tell(done)

    def evaluated(self, count: int) -> None:
        self._tell(self._steps + count)

    def finish(self) -> None:
        self._tell(self._steps + self.evaluation)

    def _tell(self, done: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done, self._steps + self.evaluation)
