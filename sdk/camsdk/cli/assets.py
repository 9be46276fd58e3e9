"""``camctl assets``: models, data and video by pinned name and sha256."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption
from camsdk.errors import AssetError, CamError

if TYPE_CHECKING:
    from camsdk.assets import Asset

app = typer.Typer(
    help="Pinned models, data and video: list, pull and verify them.", no_args_is_help=True
)


def _complete_names(incomplete: str) -> list[str]:
    from camsdk import assets

    return [asset.name for asset in assets.list_assets() if asset.name.startswith(incomplete)]


NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Names; all when none is given.", autocompletion=_complete_names),
]
MirrorOption = Annotated[
    Path | None,
    typer.Option(
        "--mirror",
        envvar="CAMCTL_ASSETS_MIRROR",
        exists=True,
        file_okay=False,
        help="Folder with the files or their package archives; asked before any registry.",
    ),
]


@app.command("list")
def list_assets(is_json: JsonOption = False) -> None:
    """Lists what can be pulled, what is here, and in which folder."""
    from camsdk import assets
    from camsdk.assets.folders import default_folder

    out, known = Output(is_json=is_json), assets.list_assets()
    if is_json:
        rows = [_row(asset) for asset in known]
        out.json({"assets": rows})
        return
    out.table(
        ("=asset", "here", ">size", "from", "licence", "what"),
        [
            (
                asset.name,
                "yes" if asset.is_present else "no",
                f"{asset.size_bytes / 2**20:.1f} MiB",
                f"{asset.package.client}: {asset.package.package} {asset.package.version}",
                asset.licence + ("" if asset.redistributable else "; do not pass on"),
                asset.description,
            )
            for asset in known
        ],
        "no assets",
    )
    out.note(f"those that are here are in {default_folder()}")


@app.command("pull")
def pull(
    names: NamesArgument = None, mirror: MirrorOption = None, is_json: JsonOption = False
) -> None:
    """Fetches assets with their registry's own client (npm, pip, apt-get), or from a mirror.

    What is here already is checked and kept. A fetch that was cut off goes on where it can.
    """
    from camsdk import assets

    out = Output(is_json=is_json)
    done = {}
    with _bars(out) as follow:
        for name in names or [asset.name for asset in assets.list_assets()]:
            done[name] = assets.pull(name, mirror=mirror, on_progress=follow(name))
    if is_json:
        out.json({"assets": [_row(assets.find(name)) for name in done]})
        return
    for name, path in done.items():
        out.line(f"{name}  {path}")


@app.command("verify")
def verify(names: NamesArgument = None, is_json: JsonOption = False) -> None:
    """Checks what was pulled against its pins. Exit code 1 if something is missing or differs."""
    from camsdk import assets

    out = Output(is_json=is_json)
    faults: dict[str, CamError] = {}
    chosen = names or [asset.name for asset in assets.list_assets()]
    for name in chosen:
        try:
            assets.verify(name)
        except AssetError as error:
            faults[name] = error
    if is_json:
        out.json(
            {
                "assets": [
                    {"name": name, "is_good": name not in faults}
                    | ({"fault": str(faults[name])} if name in faults else {})
                    for name in chosen
                ]
            }
        )
    else:
        for name in chosen:
            out.line(f"{name}  {faults.get(name, 'as pinned')}")
    if faults:
        raise typer.Exit(1)


def _row(asset: "Asset") -> dict[str, object]:
    return dataclasses.asdict(asset) | {"path": asset.path, "is_present": asset.is_present}


Follow = Callable[[str], Callable[[int, int], None]]


@contextmanager
def _bars(out: Output) -> Iterator[Follow]:
    """One progress bar a name, on standard error; none when a program reads or logs are kept."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    is_shown = console.is_terminal and not out.is_json
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not is_shown) as bars:

        def follow(name: str) -> Callable[[int, int], None]:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield follow
