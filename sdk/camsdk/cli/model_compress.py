"""``camctl model compress|evaluate``: from a float artifact to a small one that agrees with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from camsdk.cli.drafts import (
    DraftArgument,
    NameOption,
    OutOption,
    bar,
    read_draft,
    report,
    shown,
    write_draft,
)
from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption
from camsdk.errors import InvalidInput

if TYPE_CHECKING:
    from camsdk.compress.compressing import Compressed
    from camsdk.compress.evaluate import Agreement
    from camsdk.compress.footage import Footage
    from camsdk.compress.options import QuantizeOptions
    from camsdk.compress.packaging import Draft

DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="PATH|none",
        help="A recording or a folder of pictures and recordings such as the cameras see. "
        "none: no data at all; inputs are made up and nothing can be compared.",
    ),
]
VersionOption = Annotated[
    int | None,
    typer.Option(
        "--version",
        min=1,
        help="Of the artifact; the registry takes each only once. Default: the source's plus one.",
    ),
]
CalibrationOption = Annotated[
    int, typer.Option("--calibration", min=1, help="Frames to calibrate on, from the first third.")
]
EvaluationOption = Annotated[
    int, typer.Option("--evaluation", min=1, help="Frames to evaluate on, from the second half.")
]


def register(app: typer.Typer) -> None:
    """Adds the two commands to ``camctl model``."""
    app.command("compress")(compress)
    app.command("evaluate")(evaluate)


def compress(
    source: DraftArgument,
    data: DataOption = "none",
    bits: Annotated[
        int, typer.Option("--bits", min=1, max=8, help="Of the weights, one scale per filter.")
    ] = 8,
    activation_bits: Annotated[
        int, typer.Option("--activation-bits", min=2, max=8, help="Of what flows between layers.")
    ] = 8,
    codes: Annotated[
        Literal["uniform", "power-of-two"],
        typer.Option("--codes", help="Spacing of the weights' codes; power-of-two up to 4 bits."),
    ] = "uniform",
    rounding: Annotated[
        Literal["nearest", "gptq"],
        typer.Option("--rounding", help="gptq lets later weights mend the errors of earlier ones."),
    ] = "gptq",
    float_layers: Annotated[
        list[str] | None,
        typer.Option("--keep-float", metavar="LAYER", help="Leave in float; may be repeated."),
    ] = None,
    devices: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="HARDWARE",
            help="Made for; may be repeated. Default: cpu-aarch64 and cpu-x86_64. With 8 bits, an "
            "x86 among them makes the codes 7 bits wide: the same integers on every processor.",
        ),
    ] = None,
    calibration: CalibrationOption = 32,
    evaluation: EvaluationOption = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
    html: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="PATH",
            help="Where the report goes: PATH as a page, and beside it as JSON. "
            "Default: beside the artifact.",
        ),
    ] = None,
    name: NameOption = None,
    version: VersionOption = None,
    out: OutOption = None,
    is_json: JsonOption = False,
) -> None:
    """Makes a float artifact small, and measures how far the two agree.

    Frames to calibrate on and frames to evaluate on never overlap.
    """
    from camsdk.compress import compressing
    from camsdk.compress.clips import split_clip
    from camsdk.compress.packaging import CPU_HARDWARE

    draft, footage = read_draft(source), _footage(data)
    split = None
    if footage is not None:
        split = split_clip(len(footage), calibration=calibration, evaluation=evaluation)
    hardware = tuple(sorted(set(devices or CPU_HARDWARE)))
    width = compressing.storage_bits(bits, hardware)
    options = _options(width, activation_bits, codes, rounding, tuple(float_layers or ()))
    output = Output(is_json=is_json)
    with bar(output, "compressing") as on_progress:
        made = compressing.compress(
            draft,
            footage,
            options,
            name=name or draft.manifest.name.removesuffix("-fp32"),
            version=version,
            hardware=hardware,
            split=split,
            seed=seed,
            on_progress=on_progress,
        )
    path = write_draft(made.draft, out)
    page = _write_report(made, html or path.with_suffix(".html"))
    report(output, made.draft, path, {"report": str(page), **_facts(made)})


def evaluate(
    candidate: DraftArgument,
    reference: Annotated[
        Path,
        typer.Option(
            "--against",
            exists=True,
            dir_okay=False,
            help="The artifact whose boxes count as truth.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", exists=True, help="A recording, or a folder of pictures and recordings."
        ),
    ],
    evaluation: EvaluationOption = 50,
    is_json: JsonOption = False,
) -> None:
    """Measures how far one artifact agrees with another, and what each costs."""
    from camsdk.compress import compressing
    from camsdk.compress.clips import split_clip
    from camsdk.compress.footage import open_footage

    draft, truth, footage = read_draft(candidate), read_draft(reference), open_footage(data)
    split = split_clip(len(footage), calibration=0, evaluation=evaluation)
    output = Output(is_json=is_json)
    with bar(output, "evaluating") as on_progress:
        agreement = compressing.evaluate(
            truth,
            draft,
            footage,
            split.evaluation,
            on_frame=lambda done: on_progress(done, evaluation),
        )
    figures = _figures(agreement, truth, draft)
    if is_json:
        output.json(figures)
    else:
        output.fields({key: shown(value) for key, value in figures.items()})


def _footage(data: str) -> "Footage | None":
    from camsdk.compress.footage import open_footage

    return None if data == "none" else open_footage(Path(data))


def _options(
    bits: int,
    activation_bits: int,
    codes: Literal["uniform", "power-of-two"],
    rounding: Literal["nearest", "gptq"],
    float_layers: tuple[str, ...],
) -> "QuantizeOptions":
    from camsdk.compress.options import (
        ActivationOptions,
        CodeSet,
        LayerOptions,
        QuantizeOptions,
        WeightOptions,
    )

    return QuantizeOptions(
        WeightOptions(CodeSet(bits, codes)),
        ActivationOptions(activation_bits),
        layers={layer: LayerOptions(None, None) for layer in float_layers},
        rounding=rounding,
    )


def _write_report(made: "Compressed", page: Path) -> Path:
    from camsdk.compress.report.page import to_html

    try:
        page.write_text(to_html(made.facts), encoding="utf-8")
        page.with_suffix(".json").write_text(made.facts.to_json(), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{page} cannot be written: {error.strerror}", "name another place with --report"
        ) from error
    return page


def _facts(made: "Compressed") -> dict[str, Any]:
    facts, agreement = made.facts, made.agreement
    told: dict[str, Any] = {
        "float_bytes": facts.sizes_bytes["float model"],
        "packed_bytes": facts.sizes_bytes["model packed"],
        "artifact_bytes": facts.sizes_bytes["artifact, unsigned"],
        "seconds": sum(facts.duration_s.values()),
        "peak_rss_mib": facts.peak_rss_bytes / 2**20,
    }
    if agreement is not None:
        told |= {f"ap50_{name}": ap for name, ap in agreement.ap50.items()}
        told |= {
            "float_cpu_ms": agreement.reference_ms,
            "cpu_ms": agreement.candidate_ms,
            "speedup": agreement.speedup,
        }
    return told


def _figures(agreement: "Agreement", reference: "Draft", candidate: "Draft") -> dict[str, Any]:
    return {
        **{f"ap50_{name}": value for name, value in agreement.ap50.items()},
        "reference": reference.manifest.reference,
        "candidate": candidate.manifest.reference,
        "reference_cpu_ms": agreement.reference_ms,
        "candidate_cpu_ms": agreement.candidate_ms,
        "speedup": agreement.speedup,
        "reference_bytes": len(reference.model),
        "candidate_bytes": len(candidate.model),
        "frames": agreement.frame_count,
        "boxes": agreement.box_count,
    }
