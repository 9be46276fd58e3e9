"""ByteTrack: its lifecycle step by step, and scenes whose truth is known."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camagent.track import ByteTracker, TrackerSettings, assign
from camsdk.errors import InvalidInput
from camsdk.vision.results import Detections, Tracks
from support.mot import compare, label
from support.scenes import SceneSettings, walking

BOX = (100.0, 100.0, 140.0, 200.0)
FAR = (500.0, 100.0, 540.0, 200.0)


def seen(*boxes: tuple[float, ...], score: float = 0.8, class_id: int = 0) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(count, score, np.float32),
        np.full(count, class_id, np.int64),
    )


def moved(box: tuple[float, ...], x: float, y: float = 0.0) -> tuple[float, ...]:
    return (box[0] + x, box[1] + y, box[2] + x, box[3] + y)


def joined(*parts: Detections) -> Detections:
    return Detections(
        np.concatenate([part.xyxy for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
    )


def test_a_track_is_shown_when_seen_twice_in_a_row() -> None:
    track = ByteTracker()
    assert len(track(seen(BOX), 0.0)) == 0
    tracks = track(seen(moved(BOX, 2)), 0.1)
    assert tracks.track_id.tolist() == [1]
    assert tracks.class_ids.tolist() == [0]
    np.testing.assert_allclose(tracks.xyxy, [moved(BOX, 2)], atol=2.0)
    assert tracks.scores.tolist() == pytest.approx([0.8])


def test_a_box_seen_once_leaves_no_trace() -> None:
    track = ByteTracker()
    track(seen(BOX), 0.0)
    track(seen(), 0.1)
    assert len(track(seen(BOX), 0.2)) == 0
    assert track(seen(BOX), 0.3).track_id.tolist() == [1]
    assert track.finish().ended.tolist() == [1]


def test_low_scores_continue_tracks_but_start_none() -> None:
    track = ByteTracker()
    for step in range(4):
        assert len(track(seen(FAR, score=0.3), step / 10)) == 0
    track(seen(BOX), 0.4)
    track(seen(BOX), 0.5)
    tracks = track(seen(BOX, score=0.3), 0.6)
    assert tracks.track_id.tolist() == [1]
    assert tracks.scores.tolist() == pytest.approx([0.3])
    assert len(track(seen(BOX, score=0.05), 0.7)) == 0


def test_scores_between_high_and_new_continue_but_start_none() -> None:
    track = ByteTracker(TrackerSettings(high_score=0.5, new_score=0.7))
    track(seen(BOX), 0.0)
    for step in range(1, 4):
        tracks = track(joined(seen(BOX, score=0.6), seen(FAR, score=0.6)), step / 10)
        assert tracks.track_id.tolist() == [1]


def test_a_lost_track_comes_back_under_its_id_or_ends() -> None:
    track = ByteTracker(TrackerSettings(max_lost_s=1.0))
    for step in range(5):
        track(seen(moved(BOX, 4 * step), FAR), step / 10)
    for step in range(5, 12):
        tracks = track(seen(FAR), step / 10)
        assert tracks.track_id.tolist() == [2]
        assert tracks.ended.tolist() == []
    # Eight frames later it is where its speed has carried it.
    tracks = track(seen(moved(BOX, 48), FAR), 1.2)
    assert tracks.track_id.tolist() == [1, 2]
    ended = [track(seen(), 1.3 + step / 10).ended.tolist() for step in range(12)]
    assert [ids for ids in ended if ids] == [[1, 2]]
    assert ended[9] == []
    assert ended[10] == [1, 2]  # more than 1 s after 1.2
    track(seen(BOX), 3.0)
    assert track(seen(BOX), 3.1).track_id.tolist() == [3]


def test_classes_are_never_mixed() -> None:
    track = ByteTracker()
    both = joined(seen(BOX, class_id=0), seen(BOX, class_id=2))
    track(both, 0.0)
    tracks = track(both, 0.1)
    assert tracks.class_ids.tolist() == [0, 2]
    # The car goes; a dog in the same place does not take its id.
    tracks = track(joined(seen(BOX, class_id=0), seen(BOX, class_id=16)), 0.2)
    assert tracks.track_id.tolist() == [1]
    tracks = track(joined(seen(BOX, class_id=0), seen(BOX, class_id=16)), 0.3)
    assert tracks.track_id.tolist() == [1, 3]
    assert tracks.class_ids.tolist() == [0, 16]


def test_a_doubtful_box_must_overlap_more_than_a_certain_one() -> None:
    for score, expected in ((0.3, []), (0.8, [1])):
        track = ByteTracker(TrackerSettings(min_iou=0.2, min_iou_low=0.5))
        track(seen(BOX), 0.0)
        track(seen(BOX), 0.1)
        aside = moved(BOX, 18)  # IoU 0.38
        assert track(seen(aside, score=score), 0.2).track_id.tolist() == expected


def test_hold_keeps_what_stands_and_ages_what_is_lost() -> None:
    track = ByteTracker(TrackerSettings(max_lost_s=1.0))
    for step in range(3):
        track(seen(moved(BOX, 9 * step), FAR), step / 10)
    before = track(seen(moved(BOX, 27)), 0.3)
    held = [track.hold(0.4 + step / 10) for step in range(15)]
    assert {tuple(tracks.track_id.tolist()) for tracks in held} == {(1,)}
    np.testing.assert_array_equal(held[-1].xyxy, before.xyxy)
    assert [tracks.ended.tolist() for tracks in held if tracks.ended.size] == [[2]]
    # To be held is to be seen: one that is then missed is lost from now on, not from before.
    missed = track(seen(), 1.9)
    assert (len(missed), missed.ended.tolist()) == (0, [])
    assert track(seen(moved(BOX, 30)), 2.0).track_id.tolist() == [1]


def test_finish_ends_all_and_goes_on_counting() -> None:
    track = ByteTracker()
    track(seen(BOX, FAR), 0.0)
    track(seen(BOX, FAR), 0.1)
    last = track.finish()
    assert len(last) == 0
    assert last.ended.tolist() == [1, 2]
    assert track.finish().ended.tolist() == []
    track(seen(BOX), 0.0)
    assert track(seen(BOX), 0.1).track_id.tolist() == [3]


def test_time_that_stands_or_runs_back_is_no_time() -> None:
    track = ByteTracker()
    for time_s in (5.0, 5.0, 5.0, 4.0, 4.1):
        tracks = track(seen(BOX), time_s)
    assert tracks.track_id.tolist() == [1]
    np.testing.assert_allclose(tracks.xyxy, [BOX], atol=1e-3)


def test_nothing_ever_seen() -> None:
    track = ByteTracker()
    for step in range(3):
        tracks = track(Detections.empty(), step / 10)
        assert len(tracks) == 0
        assert tracks.ended.size == 0
    assert len(track.hold(1.0)) == 0


def test_confirm_at_once() -> None:
    track = ByteTracker(TrackerSettings(confirm_hits=1))
    assert track(seen(BOX), 0.0).track_id.tolist() == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"low_score": 0.7},
        {"new_score": 0.5},
        {"high_score": 1.1, "new_score": 1.2},
        {"min_iou": 0.0},
        {"min_iou_low": 1.0},
        {"max_lost_s": 0.0},
        {"confirm_hits": 0},
        {"reference_fps": -1.0},
    ],
)
def test_senseless_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        TrackerSettings(**changes)


def test_assignment_prefers_the_best_whole_to_the_best_pair() -> None:
    overlap = np.array([[0.9, 0.8], [0.85, 0.0]])
    both = np.ones(2, bool)
    rows, columns = assign(overlap, both, both, 0.2)
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {0: 1, 1: 0}


@given(
    values=st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12),
    min_iou=st.floats(0.05, 0.9),
)
def test_assignment_is_one_to_one_and_respects_the_bound(values, min_iou) -> None:
    overlap = np.array(values).reshape(3, 4)
    rows, columns = assign(overlap, np.ones(3, bool), np.ones(4, bool), min_iou)
    assert len(set(rows.tolist())) == len(rows)
    assert len(set(columns.tolist())) == len(columns)
    assert (overlap[rows, columns] >= min_iou).all()
    # Nothing that could still be matched is left.
    left = np.delete(np.delete(overlap, rows, axis=0), columns, axis=1)
    assert (left <= min_iou + 1e-9).all()


def _run(track: ByteTracker, scene) -> list[Tracks]:
    return [track(found, i / scene.fps) for i, found in enumerate(scene.detections)]


@pytest.mark.parametrize(("walkers", "fps"), [(8, 5.0), (8, 10.0), (8, 30.0), (20, 10.0)])
def test_walkers_keep_their_identity_at_any_frame_rate(walkers: int, fps: float) -> None:
    scene = walking(SceneSettings(walkers=walkers, fps=fps, seconds=15.0, seed=7))
    shown = _run(ByteTracker(), scene)
    labels = [label(d, t) for d, t in zip(scene.detections, shown, strict=True)]
    agreement = compare(list(scene.walker_ids), labels)
    assert agreement.idf1 >= 0.97
    assert agreement.links >= 0.995


def test_a_replay_gives_the_same_tracks_bit_for_bit() -> None:
    scene = walking(SceneSettings(walkers=20, seconds=8.0, seed=3))
    for one, other in zip(_run(ByteTracker(), scene), _run(ByteTracker(), scene), strict=True):
        for name in ("track_id", "xyxy", "scores", "class_ids", "ended"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_ids_grow_never_repeat_and_end_once() -> None:
    scene = walking(SceneSettings(walkers=30, seconds=15.0, seed=5, missed=0.2))
    track = ByteTracker()
    shown = [*_run(track, scene), track.finish()]
    first_seen: list[int] = []
    ended: list[int] = []
    for tracks in shown:
        ids = tracks.track_id.tolist()
        assert ids == sorted(set(ids))
        assert not set(ids) & set(ended)
        first_seen += [track_id for track_id in ids if track_id not in first_seen]
        ended += tracks.ended.tolist()
    assert first_seen == list(range(1, len(first_seen) + 1))
    assert sorted(ended) == first_seen


def test_sixty_objects_cost_little() -> None:
    """Goal: 2 CPU ms a frame with 60 objects. The bound is loose: test machines are busy."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 2000, (60, 2))
    boxes = np.hstack((corner, np.add(corner, (40.0, 100.0))))
    track = ByteTracker()
    frames = [seen(*(boxes + rng.normal(0, 1, boxes.shape)).tolist()) for _ in range(100)]
    started_s = time.process_time()
    for index, found in enumerate(frames):
        tracks = track(found, index / 10)
    assert (time.process_time() - started_s) / len(frames) < 0.004
    assert len(tracks) == 60
