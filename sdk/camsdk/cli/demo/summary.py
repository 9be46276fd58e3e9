"""What the demo leaves for people: contact sheet, table, and what to try next."""

import shutil
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from camsdk.cli.demo.clip import read_stills
from camsdk.cli.demo.journey import CAMERA, FLEET, DemoOptions, DemoResult
from camsdk.cli.demo.sheet import Cell, Overlay, draw_sheet
from camsdk.cli.output import Output
from camsdk.client import EventRecord
from camsdk.vision.results import LINE_CROSSED, OUT_OF_BOUNDS
from camsdk.vision.rules import parse_rules

_CELLS: Final = 6


def save_sheet(result: DemoResult, options: DemoOptions, *, has_stills: bool) -> Path:
    """Draws the contact sheet into the demo's folder and returns its path."""
    import av

    with av.open(str(result.clip)) as container:
        video = container.streams.video[0]
        size = (video.width, video.height)
    cells = [_cell(event) for event in _pick(result.events)]
    stills = read_stills(result.clip, [cell.frame_index for cell in cells]) if has_stills else {}
    path = options.out / "contact-sheet.png"
    draw_sheet(
        cells,
        title=f"{FLEET} · {CAMERA} · {result.clip.name}",
        figures=result.figures.headline(),
        overlay=_overlay(result.rules_yaml, size),
        frame_size=size,
        stills=stills,
    ).save(path)
    return path


def show(output: Output, result: DemoResult, options: DemoOptions, sheet: Path) -> None:
    """Prints the table and the commands to try next."""
    figures, data, camctl = result.figures, options.out / "cloud", _camctl()
    output.draw(figures.table())
    output.line(f"Contact sheet: {sheet}")
    output.line("")
    output.line("Everything is still there. Start the cloud again on the demo's data:")
    output.line(f"  {camctl} serve --data {data}")
    output.line("and in another terminal:")
    where = f"--data {data}"
    output.line(f"  {camctl} events list --fleet {FLEET} {where}")
    if figures.search["event"]:
        output.line(f"  {camctl} search --image {figures.search['image']} {where}")
        output.line(f"  {camctl} search --event {figures.search['event']} {where}")
    output.line(f"  {camctl} rollout show {figures.rollout['rollout_id']} {where}")
    output.line(f"  {camctl} device list {where}")


def _camctl() -> str:
    """How this shell can call it: by name where that finds it, else by its path."""
    here = Path(sys.executable).with_name("camctl")
    if shutil.which("camctl") == str(here) or not here.exists():
        return "camctl"
    folder = Path.cwd()
    return str(here.relative_to(folder) if here.is_relative_to(folder) else here)


def _pick(events: Sequence[EventRecord]) -> list[EventRecord]:
    """Crossings spread over the clip, and at most two who are out of bounds, in order of time."""
    own = [event for event in events if event.camera_id == CAMERA and event.xyxy]
    strays = list(islice((e for e in own if e.kind == OUT_OF_BOUNDS), 2))
    crossings = [event for event in own if event.kind == LINE_CROSSED]
    room = _CELLS - len(strays)
    step = max(len(crossings) / room, 1.0)
    spread = [crossings[int(k * step)] for k in range(min(room, len(crossings)))]
    return sorted(strays + spread, key=lambda event: event.frame_index)


def _cell(event: EventRecord) -> Cell:
    clock = time.strftime("%H:%M:%S", time.localtime(event.timestamp_s))
    what = (
        f"went {event.attributes.get('direction', 'over')} at {event.rule}"
        if event.kind == LINE_CROSSED
        else f"is out of bounds: {event.rule}"
    )
    name = event.class_name or "object"
    return Cell(
        caption=f"{clock}  {name} {event.track_id} {what}",
        frame_index=event.frame_index,
        box=event.xyxy,
        label=f"{name} {event.track_id}  {event.score:.2f}",
        rule=event.rule,
    )


def _overlay(rules_yaml: str, size: tuple[int, int]) -> Overlay:
    rules = parse_rules(rules_yaml).for_camera(CAMERA)
    width, height = size

    def pixels(point: tuple[float, float]) -> tuple[float, float]:
        return point[0] * width, point[1] * height

    return Overlay(
        {line.name: (pixels(line.start), pixels(line.end)) for line in rules.lines},
        {zone.name: [pixels(corner) for corner in zone.polygon] for zone in rules.zones},
    )
