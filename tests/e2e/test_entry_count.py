"""The entry count on real video, against a count made by hand, and its exact repetition."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from camsdk.cli.demo.journey import read_rules
from camsdk.vision.results import LINE_CROSSED, OUT_OF_BOUNDS, Event, FrameResult
from camsdk.vision.rules import parse_rules
from support.watch import Recorder, watch

GOLDEN = Path(__file__).parents[1] / "golden" / "vtest_crossings.yaml"
MOST_FRAMES_APART = 12
"""A line with hysteresis fires when the foot is past its margin, a moment after the line itself."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def golden() -> dict:
    return yaml.safe_load(GOLDEN.read_text())


@pytest.fixture(scope="module")
def rules():
    return parse_rules(read_rules(None)).for_camera("gate")


@pytest.fixture(scope="module")
def seen(vtest_path, int8_detector, rules) -> Recorder:
    return watch(vtest_path, int8_detector, rules)


def crossings(recorder: Recorder) -> list[Event]:
    return [event for event in recorder.events if event.kind == LINE_CROSSED]


def unmatched(counted: list[dict], events: list[Event]) -> tuple[list[dict], list[Event]]:
    """Crossings that only the hand count has, and those that only the camera has."""
    missed, spurious = [], list(events)
    for crossing in counted:
        near = [
            event
            for event in spurious
            if event.attributes["direction"] == crossing["direction"]
            and abs(event.frame_index - crossing["frame"]) <= MOST_FRAMES_APART
        ]
        if not near:
            missed.append(crossing)
            continue
        spurious.remove(min(near, key=lambda event: abs(event.frame_index - crossing["frame"])))
    return missed, spurious


def test_the_rules_of_the_demo_are_those_of_the_hand_count(golden, rules):
    (line,) = rules.lines
    assert [list(line.start), list(line.end)] == [golden["line"]["from"], golden["line"]["to"]]
    assert line.in_side == golden["line"]["in"]
    counted = Counter(crossing["direction"] for crossing in golden["crossings"])
    assert {**counted, "all": sum(counted.values())} == golden["totals"]


def test_persons_over_the_line(golden, seen):
    events = crossings(seen)
    counted = Counter(event.attributes["direction"] for event in events)
    missed, spurious = unmatched(golden["crossings"], events)
    print(f"hand {golden['totals']}, camera {dict(counted)}, missed {missed}, spurious {spurious}")
    assert abs(len(events) - golden["totals"]["all"]) <= 1
    assert len(missed) + len(spurious) <= 2
    assert {event.class_name for event in events} == {"person"}


def test_persons_out_of_bounds(golden, seen):
    stays = golden["zone"]["stays"]
    events = [event for event in seen.events if event.kind == OUT_OF_BOUNDS]
    for event in events:
        assert any(
            first <= event.frame_index <= last for first, last in (s["frames"] for s in stays)
        )
    assert abs(len(events) - len(stays)) <= 1


def same(a: FrameResult, b: FrameResult) -> bool:
    """Bit for bit."""
    arrays = [
        (getattr(a.tracks, n), getattr(b.tracks, n))
        for n in ("track_id", "xyxy", "scores", "class_ids", "ended")
    ]
    arrays += [(getattr(a.embeddings, n), getattr(b.embeddings, n)) for n in ("track_id", "codes")]
    return (a.frame_index, a.timestamp_s, a.events, a.is_detected) == (
        b.frame_index, b.timestamp_s, b.events, b.is_detected
    ) and all(np.array_equal(x, y) for x, y in arrays)  # fmt: skip


def test_a_replay_gives_identical_results(seen, vtest_path, int8_detector, rules):
    again = watch(vtest_path, int8_detector, rules)
    assert len(seen.results) == len(again.results) >= 795
    assert sum(len(result.tracks) for result in seen.results) > 2000
    different = [
        a.frame_index for a, b in zip(seen.results, again.results, strict=True) if not same(a, b)
    ]
    assert not different
