"""Tracks become events: directed lines crossed, polygons stayed in.

An object stands at the middle of its box's lower edge. Towards a line it is on a *side* only when
it is farther away than the line's margin; between, it keeps the side it had. So

- who jitters on the line is counted once, when he is clear of it on the other side;
- who turns back within the margin is not counted; who comes back across is counted again;
- a track born within the margin has no side until it leaves it, and is not counted for leaving;
- what passes beyond the line's ends changes its side without an event: the path must meet the line
  between them.

In a zone a track fires once per stay, when it has stood inside for the dwell time. A stay ends when
the track is seen outside for ``LEAVE_S``: a step over the edge and back is the same stay. Frames in
which a track is not seen neither end a stay nor stop its clock.

Invariant: the same tracks at the same times give the same events; nothing reads a clock.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.vision.geometry import foot_points, offsets_from_line, points_in_polygon
from camsdk.vision.results import LINE_CROSSED, OUT_OF_BOUNDS, Event, Tracks
from camsdk.vision.rules import CameraRules, LineRule, ZoneRule

LEAVE_S: Final = 1.0
"""Seconds that a track must be seen outside a zone before its stay is over."""

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_TIME_SLACK_S: Final = 1e-6

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Now:
    """One frame, as all rules see it."""

    tracks: Tracks
    feet: F64
    frame_index: int
    timestamp_s: float
    class_names: Sequence[str]

    def event(self, kind: str, rule: str, row: int, attributes: dict[str, str]) -> Event:
        left, top, right, bottom = (float(side) for side in self.tracks.xyxy[row])
        class_id = int(self.tracks.class_ids[row])
        is_named = 0 <= class_id < len(self.class_names)
        return Event(
            kind,
            self.frame_index,
            self.timestamp_s,
            rule,
            int(self.tracks.track_id[row]),
            class_id,
            self.class_names[class_id] if is_named else "",
            float(self.tracks.scores[row]),
            (left, top, right, bottom),
            attributes,
        )


@dataclass
class _Passage:
    """One track before one line.

    Attributes:
        side: +1 left, -1 right, 0 not yet known.
        distance, position: Of the last foot point, as ``offsets_from_line`` gives them.
        is_within: Whether the last change of the distance's sign met the line between its ends.
    """

    side: int
    distance: float
    position: float
    is_within: bool = False

    def step(self, distance: float, position: float, margin: float) -> int:
        """Move on to the next foot point.

        Returns:
            The side that the track has crossed to, or 0.
        """
        if (self.distance > 0.0) != (distance > 0.0):
            # Where the straight way between the two feet meets the infinite line.
            share = self.distance / (self.distance - distance)
            meeting = self.position + share * (position - self.position)
            self.is_within = 0.0 <= meeting <= 1.0
        self.distance, self.position = distance, position
        side = _side(distance, margin)
        if side in (0, self.side):
            return 0
        has_crossed = self.side != 0 and self.is_within
        self.side = side
        return side if has_crossed else 0


def _side(distance: float, margin: float) -> int:
    return 0 if abs(distance) <= margin else (1 if distance > 0.0 else -1)


@dataclass
class _Line:
    """A line rule with what it remembers of each track."""

    rule: LineRule
    passages: dict[int, _Passage] = field(default_factory=dict)

    def __call__(self, now: _Now, rows: I64, width: int, height: int) -> list[Event]:
        size = np.array([width, height], np.float64)
        start, end = np.array(self.rule.start) * size, np.array(self.rule.end) * size
        distances, positions = offsets_from_line(now.feet[rows], start, end)
        margin = self.rule.margin * height
        in_side = 1 if self.rule.in_side == "left" else -1
        events = []
        for row, distance, position in zip(
            rows.tolist(), distances.tolist(), positions.tolist(), strict=True
        ):
            track_id = int(now.tracks.track_id[row])
            passage = self.passages.get(track_id)
            if passage is None:
                self.passages[track_id] = _Passage(_side(distance, margin), distance, position)
                continue
            crossed_to = passage.step(distance, position, margin)
            if crossed_to:
                direction = "in" if crossed_to == in_side else "out"
                attributes = {"direction": direction}
                events.append(now.event(LINE_CROSSED, self.rule.name, row, attributes))
        return events

    def forget(self, track_id: int) -> None:
        self.passages.pop(track_id, None)


@dataclass
class _Stay:
    """One track in one zone.

    Attributes:
        since_s: When it came in.
        inside_s: When it was last seen inside.
        is_reported: Whether its event has been sent.
    """

    since_s: float
    inside_s: float
    is_reported: bool = False


@dataclass
class _Zone:
    """A zone rule with who stays in it."""

    rule: ZoneRule
    stays: dict[int, _Stay] = field(default_factory=dict)

    def __call__(self, now: _Now, rows: I64, width: int, height: int) -> list[Event]:
        polygon = np.array(self.rule.polygon) * np.array([width, height], np.float64)
        inside = points_in_polygon(now.feet[rows], polygon)
        events = []
        for row, is_inside in zip(rows.tolist(), inside.tolist(), strict=True):
            track_id = int(now.tracks.track_id[row])
            if not is_inside:
                self._leave(track_id, now.timestamp_s)
                continue
            stay = self.stays.setdefault(track_id, _Stay(now.timestamp_s, now.timestamp_s))
            stay.inside_s = now.timestamp_s
            dwell_s = now.timestamp_s - stay.since_s
            if not stay.is_reported and dwell_s >= self.rule.dwell_s - _TIME_SLACK_S:
                stay.is_reported = True
                attributes = {"dwell_s": f"{dwell_s:.2f}"}
                events.append(now.event(OUT_OF_BOUNDS, self.rule.name, row, attributes))
        return events

    def _leave(self, track_id: int, timestamp_s: float) -> None:
        stay = self.stays.get(track_id)
        if stay is not None and timestamp_s - stay.inside_s >= LEAVE_S - _TIME_SLACK_S:
            del self.stays[track_id]

    def forget(self, track_id: int) -> None:
        self.stays.pop(track_id, None)


class Zones:
    """The ``zones`` stage of one camera: ``events = zones(tracks, ...)`` once per frame.

    Args:
        rules: What to watch.
        class_names: Names by class id, from the running model's manifest.
    """

    def __init__(self, rules: CameraRules, class_names: Sequence[str]) -> None:
        self._class_names: tuple[str, ...] = ()
        self._watchers: list[_Line | _Zone] = []
        self._is_wanted: dict[tuple[str, ...], NDArray[np.bool_]] = {}
        self.configure(rules, class_names)

    def configure(self, rules: CameraRules, class_names: Sequence[str]) -> None:
        """Take new rules or the names of a new model's classes.

        A rule that stays as it was keeps what it remembers, so a reload counts nobody twice.
        """
        known: dict[LineRule | ZoneRule, _Line | _Zone] = {w.rule: w for w in self._watchers}
        self._class_names = tuple(class_names)
        self._watchers = []
        for line in rules.lines:
            self._watchers.append(known.get(line) or _Line(line))
        for zone in rules.zones:
            self._watchers.append(known.get(zone) or _Zone(zone))
        self._is_wanted = {}
        for watcher in self._watchers:
            classes = watcher.rule.classes
            named = [name in classes for name in self._class_names]
            self._is_wanted[classes] = np.array([*named, False])
            missing = set(classes) - set(self._class_names)
            if missing:
                names = ", ".join(sorted(missing))
                _log.warning("rule %s: the model knows no class %s", watcher.rule.name, names)

    def __call__(
        self, tracks: Tracks, frame_index: int, timestamp_s: float, width: int, height: int
    ) -> tuple[Event, ...]:
        """What the rules say about one frame.

        Args:
            tracks: Confirmed tracks of the frame; those that ended are forgotten.
            frame_index: Of the frame in its session.
            timestamp_s: Capture time of the frame.
            width, height: Of the frame, pixels.

        Returns:
            Events in the order of the rules, then of the tracks.
        """
        events: list[Event] = []
        if len(tracks):
            feet = foot_points(tracks.xyxy)
            now = _Now(tracks, feet, frame_index, timestamp_s, self._class_names)
            for watcher in self._watchers:
                rows = self._rows_of(tracks, watcher)
                events += watcher(now, rows, width, height)
        for track_id in tracks.ended.tolist():
            for watcher in self._watchers:
                watcher.forget(track_id)
        return tuple(events)

    def _rows_of(self, tracks: Tracks, watcher: "_Line | _Zone") -> I64:
        if not watcher.rule.classes:
            return np.arange(len(tracks))
        # One entry more, False, for ids that have no name.
        known = np.minimum(tracks.class_ids, len(self._class_names))
        return np.flatnonzero(self._is_wanted[watcher.rule.classes][known])
