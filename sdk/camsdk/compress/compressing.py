"""A float artifact becomes a compressed one: optimise, quantize, train, evaluate, describe, report.

Knows no model: how frames become tensors and outputs become boxes is in the float manifest, and
goes over into the new manifest unchanged. What is rounded after training is always made; where
something is trained as well, the one that agrees better on frames of their own is kept
(``choosing``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx

from camsdk.compress.agreement import check_float
from camsdk.compress.budgets import Allotment, Allotter, inputs_to_measure, meet
from camsdk.compress.candidates import (
    Candidate,
    Keep,
    Material,
    Plan,
    emit,
    facts_of,
    keep_in,
    measure,
    round_after_training,
    with_facts,
    with_metrics,
)
from camsdk.compress.choosing import Choice, Way, choose
from camsdk.compress.clips import ClipSplit
from camsdk.compress.figures import Agreement
from camsdk.compress.footage import Footage, choose_frames
from camsdk.compress.graph.optimise import Report, optimise
from camsdk.compress.latency import DeviceProfile, predict_model_ms
from camsdk.compress.option_checks import batch_of, check_batch, check_options
from camsdk.compress.options import Budget, CompressOptions, Filter, PruneOptions
from camsdk.compress.packaging import CPU_HARDWARE, Draft
from camsdk.compress.report.collect import collect_facts, draw_samples, few_inputs
from camsdk.compress.report.facts import RunFacts
from camsdk.compress.sensitivity import Floats
from camsdk.compress.steps import OnProgress, Steps, work_of

if TYPE_CHECKING:
    from camsdk.compress.training.compressing import School

_X86: Final = ("x86", "amd64", "x64", "i386", "i686")


@dataclass(frozen=True)
class Compressed:
    """A compressed artifact and how it compares with the float one.

    Attributes:
        draft: Its manifest carries the agreement as metrics.
        agreement: On the frames to evaluate on; None without data.
        split: Which frames served what; None without data.
        facts: For ``report.page.to_html``.
        choice: Between rounding and training, and why.
        kept: Files in the folder of work; to be deleted when the draft is safe.
    """

    draft: Draft
    agreement: Agreement | None
    split: ClipSplit | None
    facts: RunFacts
    choice: Choice
    kept: tuple[Path, ...] = ()


def storage_bits(weight_bits: int, hardware: tuple[str, ...]) -> int:
    """Bits of weight codes that give the same integers on all of this hardware.

    x86 processors before VNNI add pairs of uint8 x int8 products in 16 bits and saturate, silently;
    255 x 64 x 2 fits. So 8 bits are 7 wherever an x86 processor may be among the devices.
    """
    if weight_bits == 8 and any(x86 in name for name in hardware for x86 in _X86):
        return 7
    return weight_bits


def compress(
    source: Draft,
    footage: Footage | None,
    options: CompressOptions,
    *,
    name: str | None = None,
    version: int | None = None,
    hardware: tuple[str, ...] = CPU_HARDWARE,
    split: ClipSplit | None = None,
    profile: DeviceProfile | Path | None = None,
    work: Path | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    on_phase: Callable[[str], None] | None = None,
    on_kept: Callable[[Path], None] | None = None,
    has_stills: bool = True,
) -> Compressed:
    """Compress a float artifact, and measure it where there is data.

    Args:
        source: The float artifact.
        footage: Frames such as the model will see, or None: then inputs are made up, nothing is
            compared and nothing can be trained.
        options: With ``quantize``; ``storage_bits`` tells what to ask for on which hardware. With
            ``train`` the seed is the one given here.
        name, version: Of the new artifact; by default the source's name and the next version.
        hardware: What it is made for.
        split: Which frames; by default ``footage.choose_frames``.
        profile: Of the device of a budget of latency, or where this machine's is kept; None
            measures this machine.
        work: Folder where a run with a training keeps its rounding and its checkpoints: the same
            call goes on where a killed one was.
        seed: Of everything random; the same seed and frames give the same model.
        on_progress: Steps done and in all, over all phases.
        on_phase: Called with the name of each phase that begins.
        on_kept: Called with each file of ``work``, before it is written.
        has_stills: Whether samples in ``facts`` are on frames of the footage, or on a plain ground.

    Raises:
        InvalidInput: The source is not float, the footage is too short, an option is wrong, a
            budget cannot be met, or ``work`` cannot be written to.
        ResourceExhausted: The disk of ``work`` is full.
        SourceError: The footage cannot be read.
        UnsupportedModel: A layer cannot be quantized, or the model cannot be trained.
        ModuleNotFoundError: There is something to train, and no torch.
    """
    check_float(source)
    check_options(source, footage, options)
    if footage is not None and split is None:
        footage, split = choose_frames(footage)
    if options.train is not None:
        assert split is not None
        check_batch(source, options, len(split.calibration))
        batch_size = batch_of(options.train, len(split.calibration))
        options = replace(options, train=replace(options.train, seed=seed, batch_size=batch_size))
    material = Material(
        source,
        footage,
        split,
        seed,
        name or source.manifest.name,
        version or source.manifest.version + 1,
        hardware,
    )
    steps = Steps(work_of(options, split), on_progress, on_phase)
    run = _Run(material, options, steps, work, on_kept)
    made = run.through(profile)
    if footage is not None and split is not None:
        with steps.phase("draw"):
            frames = split.evaluation
            samples = draw_samples(source, made.draft, footage, frames, has_stills=has_stills)
        durations = {**made.facts.duration_s, "draw": steps.durations["draw"]}
        made = replace(made, facts=replace(made.facts, samples=samples, duration_s=durations))
    steps.finish()
    return made


class _Run:
    """One compression in progress."""

    def __init__(
        self,
        material: Material,
        options: CompressOptions,
        steps: Steps,
        work: Path | None,
        on_kept: Callable[[Path], None] | None,
    ) -> None:
        self._material, self._options = material, options
        self._steps, self._folder, self._on_kept = steps, work, on_kept
        self._kept: list[Path] = []
        self._resumed: list[str] = []  # phases
        self._keep = self._place()  # refused before minutes of work whose end could not be kept
        self._allotter: Allotter | None = None

    def through(self, profile: DeviceProfile | Path | None) -> Compressed:
        material = self._material
        calibration = () if material.split is None else material.split.calibration
        few = few_inputs(material.source, material.footage, calibration, material.seed)
        with self._steps.phase("optimise"):
            # BatchNorm stays until its statistics have been used.
            optimised = optimise(
                onnx.load_from_string(material.source.model),
                keep_batchnorm=True,
                inputs=[{material.source.manifest.input.name: tensor} for tensor in few],
            )
        model = self._without_filters(optimised.model)
        plan, rounded = self._rounded(model, calibration, profile)
        candidates: dict[Way, Candidate] = {"rounding": rounded}
        if self._options.train is not None:
            candidates["training"] = self._trained(optimised.model, rounded, plan)
        return self._finished(candidates, optimised.report, few)

    def _without_filters(self, model: onnx.ModelProto) -> onnx.ModelProto:
        prune = self._options.prune
        if prune is None or not prune.sparsity or not isinstance(prune.granularity, Filter):
            return model
        from camsdk.compress.training.compressing import remove_filters

        with self._steps.phase("remove filters") as tell:
            return remove_filters(self._school(model, tell), model, self._options).model

    def _rounded(
        self,
        model: onnx.ModelProto,
        calibration: tuple[int, ...],
        profile: DeviceProfile | Path | None,
    ) -> tuple[Plan, Candidate]:
        budget = self._options.budget
        if budget is None:
            plan = Plan(self._options)
            return plan, self._emitted(model, plan)
        assert self._options.quantize is not None
        of, count = self._material, inputs_to_measure(self._material.source.manifest.input.shape)
        with self._steps.phase("share out") as tell:
            allotter = Allotter(
                model,
                budget,
                self._options.quantize,
                self._options.prune or PruneOptions(0.0),
                few_inputs(of.source, of.footage, calibration, of.seed, count),
                is_synthetic=of.footage is None,
                profile=profile,
                on_progress=tell,
            )
        self._allotter = allotter
        return self._within(budget, allotter, model)

    def _within(
        self, budget: Budget, allotter: Allotter, model: onnx.ModelProto
    ) -> tuple[Plan, Candidate]:
        if budget.kind == "latency":
            allotter.allot(budget.limit)  # times are those of the choices: nothing need be made
        tried: list[tuple[Allotment, tuple[float, tuple[Plan, Candidate]]]] = []

        def make(allowed: float) -> tuple[float, tuple[Plan, Candidate]]:
            found = allotter.allot(allowed)
            if before := [made for of, made in tried if of == found]:
                return before[0]
            options = replace(self._options, quantize=found.quantize, prune=found.prune)
            plan = Plan(options, found.layer_sparsity)
            candidate = self._emitted(model, plan)
            cost = allotter.cost_of(candidate.made, candidate.packed_bytes)
            tried.append((found, (cost, (plan, candidate))))
            return tried[-1][1]

        return meet(budget, allotter.least(), make)

    def _emitted(self, model: onnx.ModelProto, plan: Plan) -> Candidate:
        with self._steps.phase("quantize") as tell:
            rounding, plan = round_after_training(self._material, model, plan, tell, self._keep)
        with self._steps.phase("emit"):
            facts = facts_of(rounding, plan.quantize)
            return emit(self._material, rounding.made, plan, facts, rounding.inputs_sha256)

    def _place(self) -> Keep | None:
        """Where a training may be killed after it, a rounding is kept."""
        if self._folder is None or self._options.train is None:
            return None
        from camsdk.compress.training.checkpoint import code_digest

        return keep_in(self._folder, code_digest(), self._note_kept, self._note_resumed)

    def _trained(self, teacher: onnx.ModelProto, rounded: Candidate, plan: Plan) -> Candidate:
        from camsdk.compress.training.compressing import learn_codes

        options = plan.options
        if options.prune is not None and isinstance(options.prune.granularity, Filter):
            options = replace(options, prune=None)  # they are gone already
        with self._steps.phase("train") as tell:
            school = self._school(teacher, tell)
            made = learn_codes(school, rounded.made, options, plan.layer_sparsity)
        told = rounded.draft.manifest.lineage  # of the same inputs
        facts = {
            "calibration_inputs": told.options["calibration_inputs"],
            "activation_range": "learned",
        }
        with self._steps.phase("emit trained"):
            return emit(self._material, made, rounded.plan, facts, told.calibration_sha256)

    def _chosen(self, candidates: Mapping[Way, Candidate]) -> Choice:
        split, agreements = self._material.split, {}
        if "training" not in candidates or split is None:
            return Choice("rounding")
        for way, candidate in candidates.items():
            with self._steps.phase(f"compare {way}") as tell:
                agreement = measure(self._material, candidate, split.choice, tell)
            if agreement is not None:
                agreements[way] = agreement
        trained, cost = candidates["training"], 0.0
        if self._allotter is not None:
            cost = self._allotter.cost_of(trained.made, trained.packed_bytes)
        return choose(agreements, cost, self._options.budget)

    def _school(self, teacher: onnx.ModelProto, tell: OnProgress) -> "School":
        from camsdk.compress.training.compressing import School

        footage, split = self._material.footage, self._material.split
        assert footage is not None
        assert split is not None
        return School(
            teacher,
            self._material.source.manifest,
            footage.read(split.calibration),
            self._folder,
            lambda progress: tell(progress.step, progress.steps),
            self._note_checkpoint,
        )

    def _note_checkpoint(self, kept: Path) -> None:
        if kept.exists():  # one that cannot be gone on from ends the run
            self._note_resumed()
        self._note_kept(kept)

    def _note_kept(self, kept: Path) -> None:
        self._kept.append(kept)
        if self._on_kept is not None:
            self._on_kept(kept)

    def _note_resumed(self) -> None:
        self._resumed.append(self._steps.name)

    def _finished(
        self, candidates: Mapping[Way, Candidate], optimised: Report, few: tuple[Floats, ...]
    ) -> Compressed:
        material, choice = self._material, self._chosen(candidates)
        best = candidates[choice.kept]
        frames = () if material.split is None else material.split.evaluation
        agreement = None
        if frames:
            with self._steps.phase("evaluate") as tell:
                agreement = measure(material, best, frames, tell)
        draft = best.draft
        if agreement is not None:
            draft = with_metrics(draft, agreement.as_metrics())
        if choice.reason:
            draft = with_facts(draft, {"kept": choice.kept, "kept_because": choice.reason})
            draft = with_metrics(draft, choice.as_metrics())
        profile = None if self._allotter is None else self._allotter.profile
        if profile is not None:
            draft = with_facts(draft, {"times": profile.told})
        durations = dict(self._steps.durations)
        with self._steps.phase("measure"):
            facts = collect_facts(
                material.source,
                draft,
                optimised,
                best.made,
                agreement,
                durations,
                few,
                is_synthetic=material.footage is None,
            )
        facts = replace(facts, resumed=tuple(dict.fromkeys(self._resumed)))
        facts = _of_training(facts, candidates, choice)
        if profile is not None:
            predicted = predict_model_ms(profile, best.made.model, best.made.weights)
            facts = replace(facts, predicted_ms=predicted)
        return Compressed(draft, agreement, material.split, facts, choice, tuple(self._kept))


def _of_training(facts: RunFacts, candidates: Mapping[Way, Candidate], choice: Choice) -> RunFacts:
    """Facts with what a training did, kept or not, beside rounding alone."""
    if "training" not in candidates:
        return facts
    told = {
        f"{figure.title}, {way}": figure.value
        for way, of in choice.agreements.items()
        for figure in of.measured
    }
    history = {"loss": candidates["training"].made.history}
    return replace(facts, accuracy_of_choice=told, history=history)
