"""Lines and zones: walks whose events are known, and laws that hold for any walk."""

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camagent.zones import LEAVE_S, Zones
from camsdk.vision.results import LINE_CROSSED, OUT_OF_BOUNDS, Event, Tracks
from camsdk.vision.rules import CameraRules, LineRule, ZoneRule

WIDTH, HEIGHT = 1000, 1000
# Down the middle, from y = 200 to y = 800; "in" is the left hand of who looks down: picture right.
LINE = LineRule("entry", (0.5, 0.2), (0.5, 0.8), "left", margin=0.02)
ZONE = ZoneRule("lawn", ((0.0, 0.6), (0.4, 0.6), (0.4, 1.0), (0.0, 1.0)), dwell_s=1.0)
NO_IDS = np.zeros(0, np.int64)


def at(*feet: tuple[float, float], ids: list[int] | None = None, class_id: int = 0) -> Tracks:
    boxes = [(x - 20.0, y - 100.0, x + 20.0, y) for x, y in feet]
    count = len(boxes)
    return Tracks(
        np.array(ids or range(1, count + 1), np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(count, 0.5, np.float32),
        np.full(count, class_id, np.int64),
        NO_IDS,
    )


def ended(*ids: int) -> Tracks:
    nothing = Tracks.empty()
    return Tracks(
        nothing.track_id, nothing.xyxy, nothing.scores, nothing.class_ids, np.array(ids, np.int64)
    )


def walk(zones: Zones, frames: list[Tracks], fps: float = 10.0, first: int = 0) -> list[Event]:
    events: list[Event] = []
    for index, tracks in enumerate(frames, first):
        events += zones(tracks, index, index / fps, WIDTH, HEIGHT)
    return events


def crossings(xs: list[float], *, y: float = 500.0, line: LineRule = LINE) -> list[str]:
    zones = Zones(CameraRules(lines=(line,)), ["person"])
    return [e.attributes["direction"] for e in walk(zones, [at((x, y)) for x in xs])]


def test_a_crossing_says_who_where_and_when() -> None:
    zones = Zones(CameraRules(lines=(LINE,)), ["person"])
    events = walk(zones, [at((x, 500.0), ids=[7]) for x in (440, 470, 500, 530, 560)])
    assert events == [
        Event(
            LINE_CROSSED,
            frame_index=3,
            timestamp_s=0.3,
            rule="entry",
            track_id=7,
            class_id=0,
            class_name="person",
            score=0.5,
            xyxy=(510.0, 400.0, 550.0, 500.0),
            attributes={"direction": "in"},
        )
    ]


@pytest.mark.parametrize(
    ("xs", "expected"),
    [
        ([400, 600], ["in"]),
        ([600, 400], ["out"]),
        ([400, 600, 400], ["in", "out"]),
        ([400, 490, 510, 490, 510, 530], ["in"]),  # jitter on the line
        ([400, 515, 400], []),  # turned back within the margin
        ([400, 530, 495, 530, 495, 530], ["in"]),  # came clear, then jitters
        ([495, 505, 530], []),  # born within the margin: no known side
        ([505, 560, 440], ["out"]),  # born within, then a whole crossing
        ([400, 450, 479], []),  # came near
        ([400, 520], []),  # on the margin is not beyond it
        ([400, 520, 521], ["in"]),
        ([500, 500, 500], []),
    ],
)
def test_walks_across_the_line(xs: list[float], expected: list[str]) -> None:
    assert crossings(xs) == expected


def test_directions_follow_the_rule() -> None:
    mirrored = LineRule("entry", LINE.end, LINE.start, "left", margin=0.02)
    other_side = LineRule("entry", LINE.start, LINE.end, "right", margin=0.02)
    assert crossings([400, 600], line=mirrored) == ["out"]
    assert crossings([400, 600], line=other_side) == ["out"]


def test_passing_beyond_the_ends_is_no_crossing() -> None:
    assert crossings([400, 600], y=900.0) == []
    zones = Zones(CameraRules(lines=(LINE,)), ["person"])
    round_the_end = [(400, 500), (400, 900), (600, 900), (600, 500), (400, 500)]
    events = walk(zones, [at(foot) for foot in round_the_end])
    assert [e.attributes["direction"] for e in events] == ["out"]


def test_a_slanting_step_counts_where_it_meets_the_line() -> None:
    zones = Zones(CameraRules(lines=(LINE,)), ["person"])
    # From (400, 700) to (600, 860) the way meets x = 500 at y = 780, above the end at 800.
    assert len(walk(zones, [at((400, 700)), at((600, 860))])) == 1
    zones = Zones(CameraRules(lines=(LINE,)), ["person"])
    assert walk(zones, [at((400, 780)), at((600, 860))]) == []


@given(st.lists(st.integers(380, 620), min_size=2, max_size=40))
def test_directions_alternate_and_end_on_the_right_side(xs: list[int]) -> None:
    directions = crossings([float(x) for x in xs])
    assert all(one != other for one, other in pairwise(directions))
    sides = [x for x in xs if abs(x - 500) > 20]
    if directions:
        assert directions[-1] == ("in" if sides[-1] > 500 else "out")
    changes = sum((a > 500) != (b > 500) for a, b in pairwise(sides))
    assert len(directions) == changes


@given(st.lists(st.integers(481, 519), min_size=1, max_size=30))
def test_jitter_within_the_margin_never_counts(xs: list[int]) -> None:
    assert crossings([400.0, *map(float, xs), 400.0]) == []


@given(st.lists(st.integers(380, 620), min_size=2, max_size=20), st.integers(2, 8))
def test_rules_are_shares_so_the_frame_size_does_not_matter(xs: list[int], factor: int) -> None:
    zones = Zones(CameraRules(lines=(LINE,)), ["person"])
    large: list[str] = []
    for index, x in enumerate(xs):
        tracks = at((x * factor, 500.0 * factor))
        events = zones(tracks, index, index / 10, WIDTH * factor, HEIGHT * factor)
        large += [event.attributes["direction"] for event in events]
    assert large == crossings([float(x) for x in xs])


def test_an_unseen_track_keeps_its_side() -> None:
    zones = Zones(CameraRules(lines=(LINE,)), ["person"])
    events = walk(zones, [at((450, 500)), at(), at(), at((560, 500))])
    assert [e.attributes["direction"] for e in events] == ["in"]


def test_an_ended_track_is_forgotten() -> None:
    zones = Zones(CameraRules(lines=(LINE,), zones=(ZONE,)), ["person"])
    frames = [at((400, 700)), ended(1), at((600, 500))]
    assert walk(zones, frames) == []


def test_only_the_classes_of_the_rule_count(caplog: pytest.LogCaptureFixture) -> None:
    line = LineRule("entry", (0.5, 0.0), (0.5, 1.0), "left", classes=("car", "person"))
    with caplog.at_level(logging.WARNING):
        zones = Zones(CameraRules(lines=(line,)), ["dog", "person"])
    assert "no class car" in caplog.text
    assert walk(zones, [at((400, 500), class_id=0), at((600, 500), class_id=0)]) == []
    events = walk(zones, [at((400, 500), ids=[2], class_id=1), at((600, 500), ids=[2], class_id=1)])
    assert [event.class_name for event in events] == ["person"]


def test_a_class_without_a_name_still_counts_for_all() -> None:
    zones = Zones(CameraRules(lines=(LINE,)), [])
    events = walk(zones, [at((400, 500), class_id=3), at((600, 500), class_id=3)])
    assert [(event.class_id, event.class_name) for event in events] == [(3, "")]


def test_a_stay_is_reported_once_after_the_dwell() -> None:
    zones = Zones(CameraRules(zones=(ZONE,)), ["person"])
    events = walk(zones, [at((500, 700))] * 3 + [at((300, 700))] * 40)
    assert [(e.kind, e.rule, e.frame_index) for e in events] == [(OUT_OF_BOUNDS, "lawn", 13)]
    assert events[0].attributes == {"dwell_s": "1.00"}


def test_short_visits_do_not_add_up() -> None:
    zones = Zones(CameraRules(zones=(ZONE,)), ["person"])
    visit = [at((300, 700))] * 8 + [at((500, 700))] * (int(LEAVE_S * 10) + 2)
    assert walk(zones, visit * 4) == []


def test_a_step_over_the_edge_is_the_same_stay() -> None:
    zones = Zones(CameraRules(zones=(ZONE,)), ["person"])
    inside, outside = at((395, 700)), at((405, 700))
    frames = [inside] * 8 + [outside] * 3 + [inside] * 8 + [outside] * 5 + [inside] * 30
    assert [event.frame_index for event in walk(zones, frames)] == [11]


def test_who_comes_back_after_leaving_is_reported_again() -> None:
    zones = Zones(CameraRules(zones=(ZONE,)), ["person"])
    frames = [at((300, 700))] * 15 + [at((500, 700))] * 15 + [at((300, 700))] * 15
    assert [event.frame_index for event in walk(zones, frames)] == [10, 40]


def test_frames_without_the_track_neither_end_a_stay_nor_stop_its_clock() -> None:
    zones = Zones(CameraRules(zones=(ZONE,)), ["person"])
    frames = [at((300, 700))] * 2 + [at()] * 20 + [at((300, 700))] * 5
    assert [event.frame_index for event in walk(zones, frames)] == [22]


def test_no_dwell_reports_at_once() -> None:
    zone = ZoneRule("lawn", ZONE.polygon)
    zones = Zones(CameraRules(zones=(zone,)), ["person"])
    events = walk(zones, [at((300, 700), (100, 900), (700, 700))] * 3)
    assert [(event.track_id, event.frame_index) for event in events] == [(1, 0), (2, 0)]


def test_a_reload_forgets_only_what_changed() -> None:
    zones = Zones(CameraRules(lines=(LINE,), zones=(ZONE,)), ["person"])
    before = walk(zones, [at((300, 700), (450, 500))] * 15)
    assert [event.rule for event in before] == ["lawn"]
    other = LineRule("exit", (0.1, 0.0), (0.1, 1.0), "left")
    zones.configure(CameraRules(lines=(LINE, other), zones=(ZONE,)), ["person", "dog"])
    after = walk(zones, [at((300, 700), (550, 500))] * 15, first=15)
    assert [(event.rule, event.track_id) for event in after] == [("entry", 2)]


def test_without_rules_nothing_happens() -> None:
    assert walk(Zones(CameraRules(), ["person"]), [at((300, 700)), at((600, 700))]) == []
