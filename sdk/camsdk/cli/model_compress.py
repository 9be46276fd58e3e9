"""``camctl model compress|evaluate``: from a float artifact to a small one that agrees with it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camsdk.artifact.hardware import check_hardware, processor
from camsdk.cli.compress_cache import cache_folder, clear_abandoned
from camsdk.cli.compress_options import (
    DEFAULT_CALIBRATION,
    DEFAULT_EVALUATION,
    DEFAULT_TRAINED_ON,
    ActivationBitsOption,
    BatchOption,
    BitsOption,
    CodesOption,
    DataOption,
    DistillOption,
    EpochsOption,
    GranularityOption,
    ImportanceOption,
    MaxBytesOption,
    MaxMacsOption,
    MaxMsOption,
    ProfileOption,
    RangeRuleOption,
    RateOption,
    RoundingOption,
    SparsityOption,
    StillsOption,
    WorkOption,
)
from camsdk.cli.compress_result import (
    facts_of,
    figures_of,
    note_doubts,
    note_outcome,
    write_report,
)
from camsdk.cli.compress_wishes import Wishes
from camsdk.cli.drafts import (
    DraftArgument,
    NameOption,
    OutOption,
    bar,
    check_distinct,
    check_suffix,
    check_writable,
    read_draft,
    report,
    tell,
    write_draft,
)
from camsdk.cli.extras import demand
from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption
from camsdk.cli.usage import usage
from camsdk.errors import InvalidInput

if TYPE_CHECKING:
    from camsdk.compress.clips import ClipSplit
    from camsdk.compress.compressing import Compressed
    from camsdk.compress.footage import Footage
    from camsdk.compress.latency import DeviceProfile
    from camsdk.compress.options import CompressOptions
    from camsdk.compress.packaging import Draft

VersionOption = Annotated[
    int | None,
    typer.Option(
        "--version",
        min=1,
        help="Of the artifact. Default: the source's plus one, whatever the other options are; the "
        "registry takes each only once, so give variants numbers of their own.",
    ),
]
CalibrationOption = Annotated[
    int | None,
    typer.Option(
        "--calibration",
        min=1,
        help="Frames to calibrate and train on, from the first third. "
        f"Default: {DEFAULT_CALIBRATION}; where something is trained {DEFAULT_TRAINED_ON}, or what "
        "there is.",
    ),
]
EvaluationOption = Annotated[
    int | None,
    typer.Option(
        "--evaluation",
        min=1,
        help=f"Frames to evaluate on, from the second half. Default: {DEFAULT_EVALUATION}.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the two commands to ``camctl model``."""
    app.command("compress")(compress)
    app.command("evaluate")(evaluate)


def compress(
    source: DraftArgument,
    data: DataOption = "none",
    bits: BitsOption = None,
    activation_bits: ActivationBitsOption = 8,
    codes: CodesOption = "uniform",
    rounding: RoundingOption = "gptq",
    range_rule: RangeRuleOption = None,
    float_layers: Annotated[
        list[str] | None,
        typer.Option("--keep-float", metavar="LAYER", help="Leave in float; may be repeated."),
    ] = None,
    sparsity: SparsityOption = None,
    granularity: GranularityOption = "element",
    importance: ImportanceOption = None,
    epochs: EpochsOption = None,
    learning_rate: RateOption = None,
    batch_size: BatchOption = None,
    distill_features: DistillOption = None,
    max_bytes: MaxBytesOption = None,
    max_macs: MaxMacsOption = None,
    max_ms: MaxMsOption = None,
    profile: ProfileOption = None,
    devices: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="HARDWARE",
            help="Made for; may be repeated. Default: cpu-aarch64 and cpu-x86_64. With 8 bits, an "
            "x86 among them makes the codes 7 bits wide: the same integers on every processor.",
        ),
    ] = None,
    calibration: CalibrationOption = None,
    evaluation: EvaluationOption = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
    work: WorkOption = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="PATH",
            help="Where the report goes: PATH as a page, and beside it as JSON. "
            "Default: beside the artifact.",
        ),
    ] = None,
    has_stills: StillsOption = True,
    name: NameOption = None,
    version: VersionOption = None,
    out: OutOption = None,
    is_json: JsonOption = False,
) -> None:
    """Makes a float artifact small, and measures how far the two agree.

    Frames to calibrate and train on and frames to evaluate on never overlap. Where something is
    trained, rounding alone is measured beside it on a few other frames, and the better is kept.
    """
    from camsdk.compress.option_checks import can_train
    from camsdk.compress.packaging import CPU_HARDWARE

    draft = read_draft(source)
    with usage():
        hardware = {check_hardware(device) for device in devices or CPU_HARDWARE}
    wishes = Wishes(
        has_data=data != "none", is_trainable=can_train(draft), hardware=tuple(sorted(hardware)),
        bits=bits, activation_bits=activation_bits, codes=codes, rounding=rounding,
        range_rule=range_rule, float_layers=tuple(float_layers or ()), sparsity=sparsity,
        granularity=granularity, importance=importance, epochs=epochs,
        learning_rate=learning_rate, batch_size=batch_size, distill_features=distill_features,
        max_bytes=max_bytes, max_macs=max_macs, max_ms=max_ms, profile=profile, work=work,
        calibration=calibration, evaluation=evaluation,
    )  # fmt: skip
    target = _target(draft, wishes, name, version, out, html)
    _check_places(target, source, profile)
    output = Output(is_json=is_json)
    made = _made(draft, wishes, target, data, seed, has_stills, output)
    write_draft(made.draft, target.path)
    write_report(made, target.page)
    for file in made.kept:
        file.unlink(missing_ok=True)
    if made.kept and wishes.work is None:
        clear_abandoned()
    report(output, made.draft, target.path, {"report": str(target.page), **facts_of(made)})
    note_outcome(output, made, wishes)


@dataclass(frozen=True)
class _Target:
    """What is to be made.

    Attributes:
        name, version: Of the artifact.
        path, page: Of its file and of the report.
    """

    name: str
    version: int
    path: Path
    page: Path


def _target(
    draft: "Draft",
    wishes: Wishes,
    name: str | None,
    version: int | None,
    out: Path | None,
    page: Path | None,
) -> _Target:
    """As given or by default: results of other options do not go over each other."""
    name = name or draft.manifest.name.removesuffix("-fp32")
    version = version or draft.manifest.version + 1
    path = out or Path(f"{name}-{version}-{wishes.variant}.cam")
    return _Target(name, version, path, page or path.with_suffix(".html"))


def _made(
    draft: "Draft",
    wishes: Wishes,
    target: _Target,
    data: str,
    seed: int,
    has_stills: bool,
    output: Output,
) -> "Compressed":
    from camsdk.compress import compressing

    options, footage, split = _checked(draft, wishes, data, output)
    folder, kept = None, list[Path]()
    if options.train is not None:
        demand("torch", "torch_pruning")
        folder = wishes.work or cache_folder("trainings")
    times = None if wishes.max_ms is None else _profile(draft, wishes)
    with bar(output, "compressing") as meter:
        try:
            return compressing.compress(
                draft,
                footage,
                options,
                name=target.name,
                version=target.version,
                hardware=wishes.hardware,
                split=split,
                profile=times,
                work=folder,
                seed=seed,
                on_progress=meter,
                on_phase=meter.phase,
                on_kept=kept.append,
                has_stills=has_stills,
            )
        except KeyboardInterrupt:
            if any(file.exists() for file in kept):
                output.note(f"the same command goes on from what is kept in {folder}")
            elif isinstance(times, Path) and times.exists():
                output.note(f"the same command begins anew, with the times kept in {times}")
            else:
                output.note("stopped, and nothing was kept: the same command begins anew")
            raise


def _checked(
    draft: "Draft", wishes: Wishes, data: str, output: Output
) -> "tuple[CompressOptions, Footage | None, ClipSplit | None]":
    """Options and frames that go together and with the model."""
    from camsdk.compress.option_checks import batch_of, check_batch, check_options

    with usage():
        options = wishes.as_options()
    footage = split = None
    if data != "none":
        is_trained = options.train is not None
        footage, split = _chosen(Path(data), draft, wishes, is_trained, output)
    with usage():
        check_options(draft, footage, options)
        if options.train is None or split is None:
            return options, footage, split
        check_batch(draft, options, len(split.calibration))
    asked, taken = options.train.batch_size, batch_of(options.train, len(split.calibration))
    if taken < asked:
        output.note(f"a step of the training takes {taken} frames, not {asked}: there are no more")
    return options, footage, split


def evaluate(
    candidate: DraftArgument,
    reference: Annotated[
        Path,
        typer.Option(
            "--against",
            exists=True,
            dir_okay=False,
            help="The artifact whose answers count as truth.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", exists=True, help="A recording, or a folder of pictures and recordings."
        ),
    ],
    evaluation: EvaluationOption = None,
    is_json: JsonOption = False,
) -> None:
    """Measures how far one artifact agrees with another, and what each costs."""
    from camsdk.compress import agreement as agreements
    from camsdk.compress.footage import choose_frames, open_footage

    draft, truth = read_draft(candidate), read_draft(reference)
    footage = open_footage(data, truth.manifest.folders)
    count = evaluation or DEFAULT_EVALUATION
    footage, split = choose_frames(footage, calibration=0, evaluation=count)
    output = Output(is_json=is_json)
    _note_left_out(output, footage, truth.manifest.classes)
    with bar(output, "evaluating") as on_progress:
        agreement = agreements.evaluate(
            truth,
            draft,
            footage,
            split.evaluation,
            on_frame=lambda done: on_progress(done, count),
        )
    paths = {"reference": reference, "candidate": candidate}
    tell(output, figures_of(agreement, {"reference": truth, "candidate": draft}, paths))
    note_doubts(output, agreement)


def _chosen(
    data: Path, source: "Draft", wishes: Wishes, is_trained: bool, output: Output
) -> "tuple[Footage, ClipSplit]":
    from camsdk.compress.footage import choose_frames, open_footage

    footage = open_footage(data, source.manifest.folders)
    count = wishes.calibration or DEFAULT_CALIBRATION
    if wishes.calibration is None and is_trained:
        there = sum(len(group) // 3 for group in footage.groups())
        count = max(count, min(there, DEFAULT_TRAINED_ON))
    footage, split = choose_frames(
        footage, calibration=count, evaluation=wishes.evaluation or DEFAULT_EVALUATION
    )
    _note_left_out(output, footage, source.manifest.classes)
    return footage, split


def _note_left_out(output: Output, footage: "Footage", classes: Sequence[str]) -> None:
    from camsdk.compress.footage import shortened

    if footage.skipped:
        output.note(f"warning: {footage.told_skipped}")
    if names := footage.ambiguous(classes):
        output.note(
            f"warning: pictures in {shortened(names)} have no label: several classes have that name"
        )
    if names := footage.strangers():
        output.note(
            f"warning: pictures in {shortened(names)} have no label: no class has that name"
        )


def _profile(draft: "Draft", wishes: Wishes) -> "DeviceProfile | Path":
    """The profile that was named, or where times of this model on this machine are kept."""
    import onnxruntime

    from camsdk.compress.latency import KEPT_AS, load_profile

    if wishes.profile is not None:
        return load_profile(wishes.profile)
    measured = f"{KEPT_AS} {processor()} {onnxruntime.__version__}\n"
    digest = hashlib.sha256(measured.encode() + draft.model)
    name = f"{'-'.join(wishes.hardware)}-{digest.hexdigest()[:16]}.yaml"
    folder = wishes.work or cache_folder("profiles")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"times cannot be kept in {folder}: {error.strerror}",
            "name a folder that can be written to with --work",
        ) from error
    return folder / name


def _check_places(target: _Target, source: Path, profile: Path | None) -> None:
    """Before any work: what is written can be, and goes over nothing else of the same command."""
    path, page = target.path, target.page
    check_suffix(path, ".cam")
    check_writable(path, "--out")
    check_writable(page, "--report")
    written = {"the artifact": path, "the report": page}
    read = {"the source": source} | ({} if profile is None else {"the profile": profile})
    facts = {"the report's facts": page.with_suffix(".json")}
    check_distinct(written | facts, read)
    check_writable(facts["the report's facts"], "--report")
