"""``camctl model import``: from a published graph to a float artifact."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from camsdk.cli.drafts import NameOption, OutOption, report, write_draft
from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption
from camsdk.errors import InvalidInput

ImportVersionOption = Annotated[
    int,
    typer.Option("--version", min=1, help="Of the artifact; the registry takes each only once."),
]


def register(app: typer.Typer) -> None:
    """Adds the command to ``camctl model``."""
    app.command("import")(import_model)


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
    path = write_draft(draft, out)
    report(Output(is_json=is_json), draft, path, {})


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})", text)
    if match is None:
        raise InvalidInput(f"{text!r} is no size", "give WIDTHxHEIGHT, such as 416x320")
    return int(match[1]), int(match[2])
