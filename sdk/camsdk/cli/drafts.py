"""What the commands around model files share: reading and writing drafts, progress, results."""

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from camsdk.cli.output import Output
from camsdk.cli.pace import Pace
from camsdk.cli.usage import WrongUsage
from camsdk.errors import InvalidInput, NotFound
from camsdk.files import write_atomic

if TYPE_CHECKING:
    from rich.progress import Progress

    from camsdk.compress.packaging import Draft

_EVERY_S: Final = 30.0
"""Between two lines of progress in a log."""

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="The draft to write (.cam), over a file that is there. "
        "Default: NAME-VERSION.cam, in this folder; compress adds what it was asked for, as in "
        "nanodet-g-2-w4a8-sparse50.cam.",
    ),
]
DraftArgument = Annotated[
    Path,
    typer.Argument(exists=True, dir_okay=False, help="An artifact (.cam), signed or a draft."),
]
NameOption = Annotated[str | None, typer.Option("--name", help="Of the artifact.")]


def read_draft(path: Path) -> "Draft":
    """An artifact, signed or not; its signature is not looked at.

    Raises:
        NotFound: It cannot be read.
        DataCorrupted, UnsupportedModel, ResourceExhausted: As ``packaging.check_stored``: the model
            will be run in this process.
    """
    from camsdk.artifact.bundle import read_unverified
    from camsdk.compress.packaging import Draft, check_stored

    try:
        contents = read_unverified(path.read_bytes())
    except OSError as error:
        raise NotFound(f"{path} cannot be read", "give the path of a .cam file") from error
    draft = Draft(contents.manifest, contents.members)
    check_stored(draft.model)
    return draft


def check_suffix(path: Path, *allowed: str) -> None:
    """That ``--out`` names a file of a kind that is written.

    Raises:
        WrongUsage: Its name ends otherwise.
    """
    if path.suffix not in allowed:
        ending = f"ends in {path.suffix}" if path.suffix else "has no suffix"
        raise WrongUsage(
            f"{path} {ending}, and what is written is a {' or '.join(allowed)} file",
            f"give --out a name that ends in {' or '.join(allowed)}",
        )


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
        WrongUsage: Two are the same file.
    """
    taken = {path.resolve(): what for what, path in read.items()}
    for what, path in written.items():
        if (other := taken.setdefault(path.resolve(), what)) != what:
            raise WrongUsage(
                f"{other} and {what} are the same file, {path}",
                "give --out a name that ends in .cam and --report one that ends in .html",
            )


def write_draft(draft: "Draft", out: Path | None) -> Path:
    """As a draft, to ``out`` or to its own name in this folder."""
    from camsdk.artifact.bundle import pack

    path = out or Path(f"{draft.manifest.name}-{draft.manifest.version}.cam")
    write_out(path, pack(draft.manifest, draft.members, None))
    return path


def write_out(path: Path, content: bytes) -> None:
    """To where ``--out`` says: whole, or what was there stays.

    Raises:
        InvalidInput: It cannot be written there.
    """
    try:
        write_atomic(path, content, mode=None)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}", "name another place with --out"
        ) from error


def report(output: Output, draft: "Draft", path: Path, figures: Mapping[str, Any]) -> None:
    """Says what was made."""
    manifest = draft.manifest
    facts = {"path": str(path), "model": manifest.reference, "precision": manifest.precision}
    if output.is_json:
        output.json(facts | dict(figures))
        return
    output.fields(facts | {key: shown(value) for key, value in figures.items()})
    file = shlex.quote(str(path))
    sign = f"camctl model sign {file} (with the key that camctl serve makes where there is none)"
    is_small = manifest.precision != "fp32"
    output.note(f"next: {sign}" if is_small else f"next: camctl model compress {file}, or {sign}")


def tell(output: Output, facts: Mapping[str, Any]) -> None:
    """Facts by name, figures among them with as many digits as a person reads."""
    if output.is_json:
        output.json(facts)
    else:
        output.fields({key: shown(value) for key, value in facts.items()})


def shown(value: object) -> str:
    """A figure for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Meter(Protocol):
    """Told how far long work is."""

    def __call__(self, done: int, total: int) -> None:
        """Steps done and in all."""

    def phase(self, name: str) -> None:
        """What is being done from now on."""


class Lines:
    """A line at most every 30 seconds, for logs: what is done, how much of all, how long it takes.

    Args:
        note: Prints a line.
        what: The work, in a word.
        clock: Seconds.
    """

    def __init__(
        self,
        note: Callable[[str], None],
        what: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._note, self._what, self._clock = note, what, clock
        self._told, self._pace = clock(), Pace(clock)

    def phase(self, name: str) -> None:
        self._pace.phase()
        self._what = f"{self._what.partition(':')[0]}: {name}"

    def __call__(self, done: int, total: int) -> None:
        share, now = done / max(1, total), self._clock()
        self._pace(share)
        if now - self._told < _EVERY_S:
            return
        self._told = now
        left_s = self._pace.left_s()
        left = "" if left_s is None else f", about {_span(left_s)} left"
        self._note(f"{self._what}, {share:.0%}{left}")


class _Bar:
    def __init__(self, bars: "Progress", what: str, pace: Pace) -> None:
        self._bars, self._what, self._pace = bars, what, pace
        self._task = bars.add_task(what, total=None)

    def phase(self, name: str) -> None:
        self._pace.phase()
        self._bars.update(self._task, description=f"{self._what}: {name}")

    def __call__(self, done: int, total: int) -> None:
        self._pace(done / max(1, total))
        self._bars.update(self._task, completed=done, total=total)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def bar(output: Output, what: str) -> Iterator[Meter]:
    """Progress on standard error: a bar on a terminal, lines in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(output.note, what)
        return
    pace = Pace()

    class Left(ProgressColumn):
        def render(self, task: object) -> Text:
            left_s = pace.left_s()
            return Text("" if left_s is None else f"about {_span(left_s)} left")

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Left())
    with Progress(*columns, console=console, disable=output.is_json) as bars:
        yield _Bar(bars, what, pace)
