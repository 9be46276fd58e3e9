"""``camctl demo``: plays the main job and shows what came of it."""

from pathlib import Path
from typing import Annotated

import typer

from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption

VideoOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Recording; default: a pinned street clip."),
]
SecondsOption = Annotated[float | None, typer.Option(min=1.0, help="Play only the first seconds.")]
RulesOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Rules file; default: the clip's own."),
]
OutOption = Annotated[Path, typer.Option(help="Folder for everything it leaves.")]
FastOption = Annotated[
    bool,
    typer.Option(
        "--fast", help="As fast as it goes, then a second camera at real pace for the latency."
    ),
]
LiveSecondsOption = Annotated[
    float, typer.Option(min=5.0, help="With --fast: length of the part at real pace.")
]
StillsOption = Annotated[
    bool,
    typer.Option(
        "--stills/--no-stills",
        help="Contact sheet with pictures of the clip, or as a plan that shows nobody.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds ``demo`` to the root."""
    app.command("demo")(demo)


def demo(
    video: VideoOption = None,
    seconds: SecondsOption = None,
    rules: RulesOption = None,
    out: OutOption = Path("out/demo"),
    is_fast: FastOption = False,
    live_seconds: LiveSecondsOption = 30.0,
    has_stills: StillsOption = True,
    is_json: JsonOption = False,
) -> None:
    """The main job, all in one: cloud, camera, enrolment, model, rollout, events, figures.

    Starts an embedded cloud and a camera agent as processes of their own, on loopback, with their
    own data folder; imports, quantizes, signs and deploys a detector; watches a clip; and ends
    what it started.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from camsdk.cli.demo.journey import DemoOptions, run_demo
    from camsdk.cli.demo.summary import save_sheet, show

    options = DemoOptions(
        out=out, video=video, rules=rules, seconds=seconds, is_fast=is_fast,
        live_seconds=live_seconds,
    )  # fmt: skip
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def say(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        result = run_demo(options, say)
        say("drawing the contact sheet", 0, 0)
        sheet = save_sheet(result, options, has_stills=has_stills)
    output = Output(is_json=is_json)
    if is_json:
        output.json(result.figures.to_json() | {"contact_sheet": str(sheet)})
    else:
        show(output, result, options, sheet)
