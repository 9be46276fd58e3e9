"""The entry count on real video, against a count made by hand, and its exact repetition."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from camsdk.cli.demo.journey import read_rules
from camsdk.vision.results import BIRTH, DEATH, LINE_CROSSED, OUT_OF_BOUNDS, Event
from camsdk.vision.rules import parse_rules
from support.frame_results import assert_same_results
from support.watch import Watched, watch

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
def seen(vtest_path, int8_detector, rules) -> Watched:
    return watch(vtest_path, int8_detector, rules)


def crossings(recorder: Watched) -> list[Event]:
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


def test_every_track_has_a_first_and_a_last_code(seen):
    shown = {track_id for result in seen.results for track_id in result.tracks.track_id.tolist()}
    births, deaths = (
        Counter(
            track_id
            for result in seen.results
            for track_id in result.embeddings.track_id[result.embeddings.reasons == reason].tolist()
        )
        for reason in (BIRTH, DEATH)
    )
    assert set(births.values()) == {1}
    assert set(births) <= set(deaths) <= shown
    # A track that lives for less than the wait for a good look may go without a code at birth.
    assert len(shown) - len(births) <= 0.1 * len(shown)


def test_the_stages_are_cheap(seen):
    """Goal: 2.5 CPU ms a frame without the detector, for the whole agent; these are its stages."""
    frames = seen.stats.frame_count
    print({stage: round(1e3 * cpu_s / frames, 3) for stage, cpu_s in seen.stats.cpu_s.items()})
    assert frames == 795
    assert seen.stats.cpu_ms_per_frame <= 2.5


def test_a_replay_gives_identical_results(seen, vtest_path, int8_detector, rules):
    again = watch(vtest_path, int8_detector, rules)
    assert sum(len(result.tracks) for result in seen.results) > 2000
    assert_same_results(seen.results, again.results)
