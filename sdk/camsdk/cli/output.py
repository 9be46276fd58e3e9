"""What ``camctl`` prints: tables for people, JSON for programs, errors in one sentence.

Standard output carries results only: with ``--json`` nothing but JSON, one object, or one a line
for streams. Notes, warnings and logs go to standard error. Text that comes from the cloud is made
printable first, so that the name of a device cannot steer the terminal.
"""

import base64
import dataclasses
import enum
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camsdk.errors import WIRE_ERRORS, CamError, InternalError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

WIDE = 200
"""Columns when the output is no terminal: nothing is cut off for ``grep``."""
_GAP = 3
"""Columns between two of a table: a space on both sides of a line that is not drawn."""


def jsonable(value: Any) -> Any:
    """Values of the SDK as JSON has them.

    Dataclasses become objects, enums their values, bytes base64, arrays lists; infinite numbers
    become null, because JSON has none.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return jsonable(value.value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "tolist"):  # a numpy array or scalar; numpy itself need not be loaded
        return jsonable(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [jsonable(item) for item in value]
    return value


def printable(text: object) -> str:
    """The text without what a terminal would obey."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}"
        for char in str(text)
    )


def _pieces(cell: "Text", is_whole: bool) -> "list[Text]":
    """What of a cell stays on one line: all of it, or each of its words."""
    return [cell] if is_whole else list(cell.split(" "))


class Output:
    """Where a command's result goes.

    Args:
        is_json: Whether a program reads it.
    """

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json

    def json(self, value: Any) -> None:
        """One object on several lines: the whole answer of a command."""
        print(json.dumps(jsonable(value), indent=2, ensure_ascii=False))

    def json_line(self, value: Any) -> None:
        """One object on one line: an item of a stream, sent off at once."""
        print(json.dumps(jsonable(value), ensure_ascii=False), flush=True)

    def line(self, text: str) -> None:
        """A line of the result, for people or ``$(...)``."""
        print(printable(text), flush=True)

    def note(self, text: str) -> None:
        """A remark beside the result."""
        print(printable(text), file=sys.stderr, flush=True)

    def console(self) -> "Console":
        """For what needs more than lines."""
        from rich.console import Console

        console = Console(highlight=False)
        return console if console.is_terminal else Console(highlight=False, width=WIDE)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
        """Rows under headings; ``empty`` says what to do when there are none.

        A heading that starts with ``>`` aligns its column to the right, one with ``=`` is of names
        to copy: neither folds. Others fold between words. A table that needs more room than the
        terminal has runs over its edge: a name in two pieces could not be copied.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        cells = [[Text(printable(cell)) for cell in row] for row in rows]
        if not cells:
            self.note(empty)
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        needed = 0
        for heading, column in zip(columns, zip(*cells, strict=True), strict=True):
            is_whole = heading[:1] in (">", "=")
            name = Text(heading[1:] if is_whole else heading)
            pieces = [piece for cell in (name, *column) for piece in _pieces(cell, is_whole)]
            min_width = max(piece.cell_len for piece in pieces)
            needed += min_width + _GAP
            table.add_column(
                name,
                justify="right" if heading.startswith(">") else "left",
                overflow="fold",
                no_wrap=is_whole,
                min_width=min_width,
            )
        for row in cells:
            table.add_row(*row)
        console = self.console()
        console.width = max(console.width, needed)
        console.print(table, crop=False)

    def fields(self, values: Mapping[str, object]) -> None:
        """Names and values below each other; empty values are left out."""
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name, value in values.items():
            if value not in ("", None):
                table.add_row(Text(name, style="dim"), Text(printable(value)))
        self.console().print(table)

    def draw(self, drawing: "RenderableType") -> None:
        """Something that rich can draw."""
        self.console().print(drawing)


def report_error(error: CamError, *, is_json: bool) -> None:
    """One sentence and the way out on standard error; with ``--json`` an object on the output."""
    if is_json:
        kind = type(error)
        row = next((WIRE_ERRORS[base] for base in kind.__mro__ if base in WIRE_ERRORS), None)
        reason = (row or WIRE_ERRORS[InternalError]).reason
        body = {"reason": reason, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": body}, ensure_ascii=False))
    print(f"camctl: {printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"        {printable(error.hint)}", file=sys.stderr)
