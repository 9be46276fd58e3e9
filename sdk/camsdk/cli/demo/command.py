"""``camctl demo``: plays the main job and shows what came of it."""

from pathlib import Path
from typing import Annotated

import typer

from camsdk.cli.output import Output


def register(app: typer.Typer) -> None:
    """Adds ``demo`` to the root."""
    app.command("demo")(demo)


def demo(
    video: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Recording; default: a pinned street clip."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1.0, help="Play only the first seconds.")
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Rules file; default: the clip's own."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything it leaves.")] = Path("out/demo"),
    is_fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="As fast as it goes, then a second camera at real pace for the latency.",
        ),
    ] = False,
    live_seconds: Annotated[
        float, typer.Option(min=5.0, help="With --fast: length of the part at real pace.")
    ] = 30.0,
    has_stills: Annotated[
        bool,
        typer.Option(
            "--stills/--no-stills",
            help="Contact sheet with pictures of the clip, or as a plan that shows nobody.",
        ),
    ] = True,
    is_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
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
