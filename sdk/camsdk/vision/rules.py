"""Rules over tracks, as data: directed lines to count and zones to stay out of.

    version: 1
    cameras:
      gate-2:                       # a camera's id; "*" holds for every camera without its own
        lines:
          - name: entry
            from: [0.68, 0.26]      # x, y as shares of the frame's width and height
            to: [0.68, 0.78]
            in: right               # the side that "in" leads to, seen from `from` to `to`
            margin: 0.015           # hysteresis, share of the frame's height (default)
            classes: [person]       # default: every class
        zones:
          - name: lawn
            polygon: [[0.0, 0.45], [0.5, 0.6], [0.5, 1.0], [0.0, 1.0]]
            dwell_s: 2.0            # how long a foot must stay inside (default 0)
            classes: [person]
            crops: true             # each event comes with a picture of it (default false)

Shares, not pixels: the same rules hold for a camera's main stream and its substream. A camera
takes its own entry or the one under ``*``, never a mixture.

``crops: true`` has the camera cut a small JPEG of the object that fired the rule, from the frame
that decided it, and ship it with the event. It is the only way in which a picture leaves a camera:
rules without it send boxes, appearance codes and events, and not one pixel.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np

from camsdk.vision.geometry import is_simple_polygon, polygon_area
from camsdk.vision.yaml_nodes import Field, Fields, read_document

FORMAT_VERSION: Final = 1
EVERY_CAMERA: Final = "*"
DEFAULT_MARGIN: Final = 0.015

Point = tuple[float, float]
Side = Literal["left", "right"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_CAMERA: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CLASS: Final = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
_MAX_CAMERAS: Final = 1024
_MAX_RULES: Final = 64
_MAX_CORNERS: Final = 64
_MAX_CLASSES: Final = 64
_MAX_MARGIN: Final = 0.25
_MAX_DWELL_S: Final = 86_400.0
_MIN_LENGTH: Final = 0.01
_MIN_AREA: Final = 1e-4


@dataclass(frozen=True)
class LineRule:
    """A directed line; crossing it is an event.

    Attributes:
        name: Unique within its camera.
        start, end: x and y, shares of the frame's width and height.
        in_side: Side that the direction "in" leads to, for someone who stands at ``start`` and
            looks to ``end``, as seen on the picture.
        margin: Share of the frame's height that a foot point must be away from the line before
            its side counts: hysteresis against jitter.
        classes: Names of the classes counted; empty for all.
        crops: Whether a picture of who crosses leaves the camera with the event.
    """

    name: str
    start: Point
    end: Point
    in_side: Side
    margin: float = DEFAULT_MARGIN
    classes: tuple[str, ...] = ()
    crops: bool = False


@dataclass(frozen=True)
class ZoneRule:
    """A polygon; a foot that stays in it is an event.

    Attributes:
        name: Unique within its camera.
        polygon: Corners in order, shares of the frame's width and height; simple, at least three.
        dwell_s: Seconds inside before the event.
        classes: Names of the classes watched; empty for all.
        crops: Whether a picture of who stays leaves the camera with the event.
    """

    name: str
    polygon: tuple[Point, ...]
    dwell_s: float = 0.0
    classes: tuple[str, ...] = ()
    crops: bool = False


@dataclass(frozen=True)
class CameraRules:
    """What one camera watches."""

    lines: tuple[LineRule, ...] = ()
    zones: tuple[ZoneRule, ...] = ()


@dataclass(frozen=True)
class Rules:
    """A whole rules file.

    Attributes:
        cameras: By camera id, or ``*``.
    """

    cameras: Mapping[str, CameraRules]

    def for_camera(self, camera_id: str) -> CameraRules:
        """Rules of one camera: its own, else those under ``*``, else none."""
        shared = self.cameras.get(EVERY_CAMERA, CameraRules())
        return self.cameras.get(camera_id, shared)

    @cached_property
    def digest(self) -> str:
        """SHA-256 hex of the rules' meaning: comments, order of keys and spelling do not matter."""
        meaning = {camera_id: asdict(rules) for camera_id, rules in self.cameras.items()}
        document = {"version": FORMAT_VERSION, "cameras": meaning}
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


NO_RULES: Final = Rules({})
"""Nothing is watched."""


def parse_rules(yaml_text: str) -> Rules:
    """Read a rules file.

    Args:
        yaml_text: As in this module's docstring.

    Raises:
        InvalidInput: It breaks the format; the message names line and field.
    """
    root = read_document(yaml_text).mapping(required=("version", "cameras"))
    if root["version"].number(0, 1e9) != FORMAT_VERSION:
        raise root["version"].error(
            f"is not {FORMAT_VERSION}", f"this release reads version {FORMAT_VERSION}"
        )
    entries = root["cameras"].entries()
    if len(entries) > _MAX_CAMERAS:
        raise root["cameras"].error(f"has more than {_MAX_CAMERAS} cameras")
    cameras: dict[str, CameraRules] = {}
    for camera_id, field in entries.items():
        if camera_id != EVERY_CAMERA and not _CAMERA.fullmatch(camera_id):
            raise field.error("is not a camera id", 'use letters, digits, ".", "_", "-", or "*"')
        cameras[camera_id] = _read_camera(field)
    return Rules(cameras)


def _read_camera(field: Field) -> CameraRules:
    parts = field.mapping(optional=("lines", "zones"))
    names: set[str] = set()
    lines = [_read_line(item, names) for item in _list(parts, "lines")]
    zones = [_read_zone(item, names) for item in _list(parts, "zones")]
    return CameraRules(tuple(lines), tuple(zones))


def _read_line(field: Field, names: set[str]) -> LineRule:
    parts = field.mapping(
        required=("name", "from", "to", "in"), optional=("margin", "classes", "crops")
    )
    start, end = _read_point(parts["from"]), _read_point(parts["to"])
    if max(abs(start[0] - end[0]), abs(start[1] - end[1])) < _MIN_LENGTH:
        raise parts["to"].error("is at the line's start", "give two points that differ")
    side = parts["in"].text()
    if side not in ("left", "right"):
        raise parts["in"].error(f"is {side!r}", "give left or right, seen from 'from' to 'to'")
    margin = parts["margin"].number(0.0, _MAX_MARGIN) if "margin" in parts else DEFAULT_MARGIN
    return LineRule(
        _read_name(parts["name"], names),
        start,
        end,
        "left" if side == "left" else "right",
        margin,
        _read_classes(parts),
        "crops" in parts and parts["crops"].flag(),
    )


def _read_zone(field: Field, names: set[str]) -> ZoneRule:
    parts = field.mapping(required=("name", "polygon"), optional=("dwell_s", "classes", "crops"))
    corners = parts["polygon"].items(at_least=3, at_most=_MAX_CORNERS)
    polygon = tuple(_read_point(corner) for corner in corners)
    corners_xy = np.array(polygon)
    if polygon_area(corners_xy) < _MIN_AREA:
        raise parts["polygon"].error("encloses nothing")
    if not is_simple_polygon(corners_xy):
        raise parts["polygon"].error("crosses itself", "list its corners in order around it")
    return ZoneRule(
        _read_name(parts["name"], names),
        polygon,
        parts["dwell_s"].number(0.0, _MAX_DWELL_S) if "dwell_s" in parts else 0.0,
        _read_classes(parts),
        "crops" in parts and parts["crops"].flag(),
    )


def _read_name(field: Field, names: set[str]) -> str:
    name = field.text()
    if not _NAME.fullmatch(name):
        raise field.error(f"is {name!r}", 'use a-z, 0-9, ".", "_", "-", at most 63 characters')
    if name in names:
        raise field.error(f"{name!r} is taken", "name each rule of a camera differently")
    names.add(name)
    return name


def _read_point(field: Field) -> Point:
    x, y = field.items(at_least=2, at_most=2)
    return x.number(0.0, 1.0), y.number(0.0, 1.0)


def _read_classes(parts: Fields) -> tuple[str, ...]:
    if "classes" not in parts:
        return ()
    items = parts["classes"].items(at_least=1, at_most=_MAX_CLASSES)
    classes = [item.text() for item in items]
    for item, name in zip(items, classes, strict=True):
        if not _CLASS.fullmatch(name):
            raise item.error("is not a class name")
    return tuple(sorted(set(classes)))


def _list(parts: Fields, name: str) -> list[Field]:
    return parts[name].items(at_most=_MAX_RULES) if name in parts else []
