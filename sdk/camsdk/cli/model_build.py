"""``camctl model import|compress|evaluate``: from a published graph to an artifact to sign."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption
from camsdk.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from camsdk.compress.evaluate import Agreement
    from camsdk.compress.packaging import Draft

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="The draft to write (.cam), over a file that is there. "
        "Default: NAME-VERSION.cam, in this folder.",
    ),
]
DraftArgument = Annotated[
    Path,
    typer.Argument(exists=True, dir_okay=False, help="An artifact (.cam), signed or a draft."),
]
ClipOption = Annotated[
    Path | None,
    typer.Option(
        "--clip",
        exists=True,
        dir_okay=False,
        help="A recording such as the cameras see. Default: the asset vtest.avi.",
    ),
]
NameOption = Annotated[str | None, typer.Option("--name", help="Of the artifact.")]
ImportVersionOption = Annotated[
    int,
    typer.Option("--version", min=1, help="Of the artifact; the registry takes each only once."),
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
    """Adds the three commands to ``camctl model``."""
    app.command("import")(import_model)
    app.command("compress")(compress)
    app.command("evaluate")(evaluate)


def import_model(
    model: Annotated[
        Literal["nanodet-g"], typer.Argument(help="A published model that is known here.")
    ] = "nanodet-g",
    graph: Annotated[
        Path | None,
        typer.Option("--graph", exists=True, dir_okay=False, help="Its JSON instead of the asset."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", exists=True, dir_okay=False, help="Its weights instead of the asset."
        ),
    ] = None,
    size: Annotated[
        str, typer.Option("--input-size", metavar="WxH", help="Of its input; multiples of 32.")
    ] = "416x320",
    name: NameOption = None,
    version: ImportVersionOption = 1,
    out: OutOption = None,
    is_json: JsonOption = False,
) -> None:
    """Imports a published TensorFlow.js graph as a float artifact."""
    from camsdk import assets
    from camsdk.compress import nanodet

    draft = nanodet.import_float(
        graph or assets.pull(f"{model.removesuffix('-g')}.json"),
        weights or assets.pull(f"{model.removesuffix('-g')}.bin"),
        size=_parse_size(size),
        name=name or f"{model}-fp32",
        version=version,
    )
    path = _write(draft, out)
    _report(Output(is_json=is_json), draft, path, {})


def compress(
    source: DraftArgument,
    clip: ClipOption = None,
    weight_bits: Annotated[
        int,
        typer.Option(
            "--weight-bits",
            min=7,
            max=8,
            help="7: the same integers on every processor. 8: only for VNNI or ARM.",
        ),
    ] = 7,
    float_layers: Annotated[
        list[str] | None,
        typer.Option("--keep-float", metavar="LAYER", help="Leave in float; may be repeated."),
    ] = None,
    calibration: CalibrationOption = 24,
    evaluation: EvaluationOption = 50,
    name: NameOption = None,
    version: VersionOption = None,
    out: OutOption = None,
    is_json: JsonOption = False,
) -> None:
    """Quantizes a float artifact to int8 and measures how far the two agree.

    Frames to calibrate on and frames to evaluate on never overlap.
    """
    from camsdk.compress.clips import count_frames, split_clip
    from camsdk.compress.compressing import compress_int8
    from camsdk.compress.quantize import QuantizeOptions

    draft, recording = _read_draft(source), _clip(clip)
    split = split_clip(count_frames(recording), calibration=calibration, evaluation=evaluation)
    options = QuantizeOptions(
        weight_bits=8 if weight_bits == 8 else 7, float_layers=tuple(float_layers or ())
    )
    output = Output(is_json=is_json)
    with _bar(output, "compressing") as on_progress:
        made = compress_int8(
            draft,
            recording,
            name=name or draft.manifest.name.removesuffix("-fp32"),
            version=version,
            options=options,
            split=split,
            on_progress=on_progress,
        )
    path = _write(made.draft, out)
    _report(output, made.draft, path, _figures(made.agreement, draft, made.draft))


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
    clip: ClipOption = None,
    evaluation: EvaluationOption = 50,
    is_json: JsonOption = False,
) -> None:
    """Measures how far one artifact agrees with another, and what each costs."""
    from camsdk.compress import compressing
    from camsdk.compress.clips import count_frames, split_clip

    draft, truth, recording = _read_draft(candidate), _read_draft(reference), _clip(clip)
    split = split_clip(count_frames(recording), calibration=0, evaluation=evaluation)
    output = Output(is_json=is_json)
    with _bar(output, "evaluating") as on_progress:
        agreement = compressing.evaluate(
            truth,
            draft,
            recording,
            split.evaluation,
            on_frame=lambda done: on_progress(done, evaluation),
        )
    figures = _figures(agreement, truth, draft)
    if is_json:
        output.json(figures)
    else:
        output.fields({key: _shown(value) for key, value in figures.items()})


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})", text)
    if match is None:
        raise InvalidInput(f"{text!r} is no size", "give WIDTHxHEIGHT, such as 416x320")
    return int(match[1]), int(match[2])


def _clip(path: Path | None) -> Path:
    from camsdk import assets

    return path or assets.pull("vtest.avi")


def _read_draft(path: Path) -> "Draft":
    from camsdk.artifact.bundle import read_unverified
    from camsdk.compress.packaging import Draft

    try:
        contents = read_unverified(path.read_bytes())
    except OSError as error:
        raise NotFound(f"{path} cannot be read", "give the path of a .cam file") from error
    return Draft(contents.manifest, contents.members)


def _write(draft: "Draft", out: Path | None) -> Path:
    from camsdk.artifact.bundle import pack

    path = out or Path(f"{draft.manifest.name}-{draft.manifest.version}.cam")
    try:
        path.write_bytes(pack(draft.manifest, draft.members, None))
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}", "name another place with --out"
        ) from error
    return path


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


def _report(output: Output, draft: "Draft", path: Path, figures: dict[str, Any]) -> None:
    manifest = draft.manifest
    facts = {"path": str(path), "model": manifest.reference, "precision": manifest.precision}
    if output.is_json:
        output.json(facts | figures)
        return
    output.fields(facts | {key: _shown(value) for key, value in figures.items()})
    output.note(
        f"next: camctl model sign {path}"
        if manifest.precision != "fp32"
        else f"next: camctl model compress {path}, or camctl model sign {path}"
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def _bar(output: Output, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; none when a program reads or logs are kept."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=output.is_json or not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
