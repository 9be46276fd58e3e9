"""The contact sheet: what the rules saw, one picture per event, drawn for people.

A sheet comes in two forms. With stills, each cell shows the frame of the recording. Without, it is
a plan: the rules and the boxes on an empty canvas, so it holds no picture of anyone and can be
passed on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Box = tuple[float, float, float, float]

COLUMNS: Final = 3
CELL_WIDTH: Final = 520
GAP: Final = 16
CAPTION: Final = 40
HEADER: Final = 150

INK: Final = (233, 238, 244)
MUTED: Final = (139, 152, 168)
PAPER: Final = (16, 21, 29)
CANVAS: Final = (28, 36, 48)
GRID: Final = (38, 48, 62)
LINE: Final = (255, 196, 61)
ZONE: Final = (239, 71, 111)
BOX: Final = (6, 214, 160)


@dataclass(frozen=True)
class Overlay:
    """The rules of the camera, in pixels of its frame.

    Attributes:
        lines: Name to two end points.
        zones: Name to the corners of a polygon.
    """

    lines: Mapping[str, Sequence[Point]]
    zones: Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class Cell:
    """One event of the sheet.

    Attributes:
        caption: What happened, one line.
        frame_index: Frame of the recording that shows it.
        box: Of the object, pixels of the frame.
        label: At the box.
        rule: Name of the line or zone that fired.
    """

    caption: str
    frame_index: int
    box: Box | None
    label: str
    rule: str


def draw_sheet(
    cells: Sequence[Cell],
    *,
    title: str,
    figures: Sequence[tuple[str, str]],
    overlay: Overlay,
    frame_size: tuple[int, int],
    stills: Mapping[int, NDArray[np.uint8]],
) -> Image.Image:
    """Draws the sheet.

    Args:
        cells: At most a dozen reads well.
        title: First line.
        figures: Value and what it means, for the row below the title.
        overlay: Lines and zones.
        frame_size: Width and height of the camera's frame, pixels.
        stills: Frame index to RGB picture; a cell without one is drawn as a plan.
    """
    scale = CELL_WIDTH / frame_size[0]
    cell_height = round(frame_size[1] * scale)
    rows = -(-max(len(cells), 1) // COLUMNS)
    size = (
        COLUMNS * CELL_WIDTH + (COLUMNS + 1) * GAP,
        HEADER + rows * (cell_height + CAPTION + GAP) + GAP,
    )
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, INK, ImageFont.load_default(30))
    for position, (value, meaning) in enumerate(figures):
        x = GAP + position * (size[0] - 2 * GAP) / max(len(figures), 1)
        pen.text((x, 66), value, LINE, ImageFont.load_default(34))
        pen.text((x, 110), meaning, MUTED, ImageFont.load_default(17))
    for position, cell in enumerate(cells):
        x = GAP + position % COLUMNS * (CELL_WIDTH + GAP)
        y = HEADER + position // COLUMNS * (cell_height + CAPTION + GAP)
        past = cells[:position] if cell.frame_index not in stills else ()
        picture = _draw_cell(cell, past, overlay, scale, (CELL_WIDTH, cell_height), stills)
        sheet.paste(picture, (x, y))
        pen.text((x, y + cell_height + 8), cell.caption, INK, ImageFont.load_default(18))
    return sheet


def _draw_cell(
    cell: Cell,
    past: Sequence[Cell],
    overlay: Overlay,
    scale: float,
    size: tuple[int, int],
    stills: Mapping[int, NDArray[np.uint8]],
) -> Image.Image:
    still = stills.get(cell.frame_index)
    base = _empty_plan(size) if still is None else Image.fromarray(still).resize(size)
    glass = Image.new("RGBA", size)
    pen = ImageDraw.Draw(glass)
    for name, corners in overlay.zones.items():
        alpha = 90 if name == cell.rule else 40
        pen.polygon([_at(p, scale) for p in corners], (*ZONE, alpha), (*ZONE, 255))
    for name, ends in overlay.lines.items():
        width = 5 if name == cell.rule else 3
        pen.line([_at(p, scale) for p in ends], (*LINE, 255), width)
    for earlier in past:
        if earlier.box:
            _silhouette(pen, earlier.box, scale, (*BOX, 45))
    if cell.box:
        if still is None:
            _silhouette(pen, cell.box, scale, (*BOX, 150))
        x1, y1, x2, y2 = (value * scale for value in cell.box)
        pen.rectangle((x1, y1, x2, y2), outline=(*BOX, 255), width=3)
        font = ImageFont.load_default(16)
        left, top, right, bottom = pen.textbbox((x1, max(y1 - 21, 0)), cell.label, font)
        pen.rectangle((left - 3, top - 3, right + 3, bottom + 3), (*PAPER, 220))
        pen.text((x1, max(y1 - 21, 0)), cell.label, (*BOX, 255), font)
    return Image.alpha_composite(base.convert("RGBA"), glass).convert("RGB")


def _empty_plan(size: tuple[int, int]) -> Image.Image:
    plan = Image.new("RGB", size, CANVAS)
    pen = ImageDraw.Draw(plan)
    for x in range(0, size[0], 40):
        pen.line((x, 0, x, size[1]), GRID)
    for y in range(0, size[1], 40):
        pen.line((0, y, size[0], y), GRID)
    return plan


def _silhouette(
    pen: ImageDraw.ImageDraw, box: Box, scale: float, fill: tuple[int, int, int, int]
) -> None:
    """A head and a body within the box: a person without a picture of one."""
    x1, y1, x2, y2 = (value * scale for value in box)
    width, height = max(x2 - x1, 2.0), max(y2 - y1, 2.0)
    centre, head = (x1 + x2) / 2, min(width * 0.42, height * 0.16)
    pen.ellipse((centre - head / 2, y1, centre + head / 2, y1 + head), fill)
    body = (x1 + width * 0.15, y1 + head * 1.1, x2 - width * 0.15, y2)
    pen.rounded_rectangle(body, radius=width * 0.3, fill=fill)


def _at(point: Point, scale: float) -> Point:
    return point[0] * scale, point[1] * scale
