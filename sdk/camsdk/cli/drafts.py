"""What the commands around model files share: reading and writing drafts, progress, results."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camsdk.cli.output import Output
from camsdk.errors import InvalidInput, NotFound

if TYPE_CHECKING:
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
NameOption = Annotated[str | None, typer.Option("--name", help="Of the artifact.")]


def read_draft(path: Path) -> "Draft":
    """An artifact, signed or not; its signature is not looked at."""
    from camsdk.artifact.bundle import read_unverified
    from camsdk.compress.packaging import Draft

    try:
        contents = read_unverified(path.read_bytes())
    except OSError as error:
        raise NotFound(f"{path} cannot be read", "give the path of a .cam file") from error
    return Draft(contents.manifest, contents.members)


def check_writable(path: Path, option: str) -> None:
    """Whether a file could be written there, before minutes of work are spent.

    Raises:
        InvalidInput: There is no such folder, or it or the file may not be written to.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InvalidInput(
            f"there is no folder {folder}", f"make it first, or name another with {option}"
        )
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        why = "it is a folder" if path.is_dir() else "permission denied"
        raise InvalidInput(f"{path} cannot be written: {why}", f"name another place with {option}")


def check_distinct(written: Mapping[str, Path], read: Mapping[str, Path]) -> None:
    """That no file is written over another of the same command.

    Args:
        written, read: Paths by what they hold.

    Raises:
        InvalidInput: Two are the same file.
    """
    taken = {path.resolve(): what for what, path in read.items()}
    for what, path in written.items():
        if (other := taken.setdefault(path.resolve(), what)) != what:
            raise InvalidInput(
                f"{other} and {what} are the same file, {path}",
                "give --out a name that ends in .cam and --report one that ends in .html",
            )


def draft_path(out: Path | None, name: str, version: int) -> Path:
    """``out``, or an artifact's own name in this folder."""
    return out or Path(f"{name}-{version}.cam")


def write_draft(draft: "Draft", out: Path | None) -> Path:
    """As a draft, to ``out`` or to its own name in this folder."""
    from camsdk.artifact.bundle import pack

    path = draft_path(out, draft.manifest.name, draft.manifest.version)
    try:
        path.write_bytes(pack(draft.manifest, draft.members, None))
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}", "name another place with --out"
        ) from error
    return path


def report(output: Output, draft: "Draft", path: Path, figures: Mapping[str, Any]) -> None:
    """Says what was made."""
    manifest = draft.manifest
    facts = {"path": str(path), "model": manifest.reference, "precision": manifest.precision}
    if output.is_json:
        output.json(facts | dict(figures))
        return
    output.fields(facts | {key: shown(value) for key, value in figures.items()})
    output.note(
        f"next: camctl model sign {path}"
        if manifest.precision != "fp32"
        else f"next: camctl model compress {path}, or camctl model sign {path}"
    )


def shown(value: object) -> str:
    """A figure for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def bar(output: Output, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; none when a program reads or logs are kept."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=output.is_json or not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
