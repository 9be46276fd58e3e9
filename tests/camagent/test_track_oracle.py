"""Our tracker against what another implementation said, and against people counted by hand.

The golden file holds detections (numbers only) of synthetic walkers and of vtest.avi, and the ids
that ``trackers`` 2.6.1 gave them; ``benchmarks/tracker_oracle.py --refresh`` writes it.
"""

from collections import Counter
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import yaml

from camagent.track import ByteTracker, TrackerSettings
from camagent.zones import Zones
from camsdk.vision.results import LINE_CROSSED, OUT_OF_BOUNDS, Event
from camsdk.vision.rules import CameraRules, LineRule, parse_rules
from support import golden_tracks
from support.golden_tracks import GoldenScene, Labels
from support.mot import Agreement, compare, label

CROSSINGS = yaml.safe_load((golden_tracks.GOLDEN / "vtest_crossings.yaml").read_text())
DEMO = parse_rules(
    resources.files("camsdk.cli").joinpath("demo_rules.yaml").read_text()
).for_camera("any")
WIDTH, HEIGHT = 768, 576
SLACK_FRAMES = 10
"""A crossing is reported when the track is clear of the line, up to a second after it."""


@pytest.fixture(scope="module")
def scenes() -> dict[str, GoldenScene]:
    return golden_tracks.load()


def ours(scene: GoldenScene) -> Labels:
    track = ByteTracker()
    shown = [track(found, i / scene.fps) for i, found in enumerate(scene.detections)]
    return [label(found, tracks) for found, tracks in zip(scene.detections, shown, strict=True)]


@pytest.mark.parametrize("name", ["walkers-08", "walkers-20", "walkers-60"])
def test_agrees_with_the_oracle_where_the_scene_is_plain(scenes, name: str) -> None:
    agreement = compare(scenes[name].oracle, ours(scenes[name]))
    assert agreement.idf1 >= 0.99
    assert agreement.links >= 0.999


@pytest.mark.parametrize(("name", "links"), [("hard-60", 0.98), (golden_tracks.REAL, 0.985)])
def test_takes_nearly_every_step_that_the_oracle_takes(scenes, name: str, links: float) -> None:
    assert compare(scenes[name].oracle, ours(scenes[name])).links >= links


@pytest.mark.parametrize("name", ["walkers-08", "walkers-20", "walkers-60", "hard-60"])
def test_is_as_true_as_the_oracle(scenes, name: str) -> None:
    scene = scenes[name]
    assert scene.truth is not None
    mine, theirs = compare(scene.truth, ours(scene)), compare(scene.truth, scene.oracle)
    assert mine.idf1 >= theirs.idf1 - 0.03
    assert mine.links >= theirs.links - 0.01


def events_of(
    scene: GoldenScene, rules: CameraRules, *, every: int = 1, lowest_score: float = 0.0
) -> list[Event]:
    """Events of the clip, looking at every n-th frame only."""
    track, zones = ByteTracker(TrackerSettings()), Zones(rules, ["person"])
    events: list[Event] = []
    for index, found in list(enumerate(scene.detections))[::every]:
        kept = found[found.scores >= lowest_score]
        tracks = track(kept, index / scene.fps)
        events += zones(tracks, index, index / scene.fps, WIDTH, HEIGHT)
    return events


def counted_rules() -> CameraRules:
    line = CROSSINGS["line"]
    return CameraRules(
        lines=(LineRule(line["name"], tuple(line["from"]), tuple(line["to"]), line["in"]),)
    )


@pytest.mark.parametrize(("every", "lowest_score"), [(1, 0.2), (1, 0.4), (2, 0.2), (2, 0.4)])
def test_counts_who_was_counted_by_hand(scenes, every: int, lowest_score: float) -> None:
    """At most one wrong in 35: at 10 and at 5 frames a second, with and without doubtful boxes."""
    scene = scenes[golden_tracks.REAL]
    events = events_of(scene, counted_rules(), every=every, lowest_score=lowest_score)
    counted = Counter(event.attributes["direction"] for event in events)
    totals = CROSSINGS["totals"]
    assert abs(counted.total() - totals["all"]) <= 1
    for direction in ("in", "out"):
        assert abs(counted[direction] - totals[direction]) <= 1


def test_counts_them_when_they_cross(scenes) -> None:
    """Not only the sum: each reported crossing is one that was seen, in direction and time."""
    events = events_of(scenes[golden_tracks.REAL], counted_rules())
    left = [(one["frame"], one["direction"]) for one in CROSSINGS["crossings"]]
    for event in events:
        assert event.kind == LINE_CROSSED
        direction = event.attributes["direction"]
        late = {one: abs(one[0] - event.frame_index) for one in left if one[1] == direction}
        nearest = min(late, key=lambda one: late[one])
        assert late[nearest] <= SLACK_FRAMES, f"nobody went {direction} at {event.frame_index}"
        left.remove(nearest)
    assert len(left) <= 1


def test_reports_who_stayed_on_the_lawn(scenes) -> None:
    events = events_of(scenes[golden_tracks.REAL], CameraRules(zones=DEMO.zones))
    stays = [stay["frames"] for stay in CROSSINGS["zone"]["stays"]]
    assert [event.kind for event in events] == [OUT_OF_BOUNDS] * len(stays)
    for event in events:
        assert any(first <= event.frame_index <= last for first, last in stays)


def test_the_demo_counts_on_the_line_that_was_counted_by_hand() -> None:
    assert replace(DEMO.lines[0], classes=()) == counted_rules().lines[0]


def test_the_hand_count_adds_up() -> None:
    counted = Counter(one["direction"] for one in CROSSINGS["crossings"])
    assert {**counted, "all": counted.total()} == CROSSINGS["totals"]
    frames = [one["frame"] for one in CROSSINGS["crossings"]]
    assert frames == sorted(frames)


def test_the_measures_say_what_they_should() -> None:
    truth = [np.array([1, 2])] * 10
    swapped = [np.array([7, 8])] * 5 + [np.array([8, 7])] * 5
    missed = [np.array([7, -1])] * 10
    assert compare(truth, truth) == Agreement(idf1=1.0, switches=0, links=1.0)
    assert compare(truth, swapped) == Agreement(idf1=0.5, switches=2, links=1 - 2 / 18)
    assert compare(truth, missed).idf1 == pytest.approx(2 / 3)
    assert compare(truth, [np.array([-1, -1])] * 10).idf1 == 0.0
