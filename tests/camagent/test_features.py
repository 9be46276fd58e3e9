"""When codes are taken and sent."""

import numpy as np
import pytest

from camagent.features import Features, FeatureSettings
from camsdk.vision.appearance import crop_rgb, hsv_stripes
from camsdk.vision.frames import Frame
from camsdk.vision.results import BIRTH, DEATH, REFRESH, Embeddings, Tracks

WIDTH, HEIGHT = 320, 240
BOX = (100.0, 60.0, 140.0, 160.0)


def frame_at(time_s: float, luma: int = 90) -> Frame:
    rng = np.random.default_rng(luma)
    y = rng.integers(luma - 40, luma + 40, (HEIGHT, WIDTH)).astype(np.uint8)
    u, v = rng.integers(60, 200, (2, HEIGHT // 2, WIDTH // 2)).astype(np.uint8)
    return Frame(round(time_s * 10), time_s, y, u, v)


def tracks_of(
    boxes: dict[int, tuple[float, float, float, float]], ended: tuple[int, ...] = ()
) -> Tracks:
    count = len(boxes)
    return Tracks(
        np.array(list(boxes), np.int64),
        np.array(list(boxes.values()), np.float32).reshape(-1, 4),
        np.full(count, 0.9, np.float32),
        np.zeros(count, np.int64),
        np.array(ended, np.int64),
    )


def code_of(frame: Frame, box: tuple[float, float, float, float]) -> list[int]:
    crop = crop_rgb(frame, np.array(box))
    assert crop is not None
    return hsv_stripes(crop).tolist()


def sent(embeddings: Embeddings) -> list[tuple[int, int]]:
    return list(zip(embeddings.track_id.tolist(), embeddings.reasons.tolist(), strict=True))


def run(features: Features, until_s: float, boxes, start_s: float = 0.0) -> list[tuple[float, int]]:
    events = []
    for step in range(round(start_s * 10), round(until_s * 10)):
        found = features(frame_at(step / 10), tracks_of(boxes))
        events += [(step / 10, reason) for _, reason in sent(found)]
    return events


def test_birth_then_every_five_seconds() -> None:
    events = run(Features(), 12.0, {1: BOX})
    assert events == [(0.0, BIRTH), (5.0, REFRESH), (10.0, REFRESH)]


def test_codes_are_those_of_the_frame() -> None:
    features, frame = Features(), frame_at(0.0)
    found = features(frame, tracks_of({4: BOX, 9: (200.0, 60.0, 240.0, 160.0)}))
    assert found.track_id.tolist() == [4, 9]
    assert found.codes[0].tolist() == code_of(frame, BOX)
    assert found.codes[1].tolist() == code_of(frame, (200.0, 60.0, 240.0, 160.0))
    assert found.codes.dtype == np.int8


def test_death_gives_the_last_good_code() -> None:
    features = Features()
    features(frame_at(0.0, 90), tracks_of({1: BOX}))
    late = frame_at(1.0, 150)
    assert len(features(late, tracks_of({1: BOX}))) == 0  # looked at, not sent
    outside = (-30.0, 60.0, 10.0, 160.0)
    assert len(features(frame_at(2.0, 60), tracks_of({1: outside}))) == 0  # no good look
    last = features(frame_at(3.0, 70), tracks_of({}, ended=(1,)))
    assert sent(last) == [(1, DEATH)]
    assert last.codes[0].tolist() == code_of(late, BOX)


def test_a_track_that_ended_is_forgotten() -> None:
    features = Features()
    features(frame_at(0.0), tracks_of({1: BOX}))
    assert len(features(frame_at(0.1), tracks_of({}, ended=(1,)))) == 1
    assert len(features(frame_at(0.2), tracks_of({}, ended=(1, 99)))) == 0


@pytest.mark.parametrize(
    "bad",
    [
        (-20.0, 60.0, 20.0, 160.0),  # half outside
        (100.0, 60.0, 110.0, 80.0),  # too small
    ],
)
def test_birth_waits_for_a_good_look(bad: tuple[float, float, float, float]) -> None:
    features = Features()
    assert run(features, 0.5, {1: bad}) == []
    frame = frame_at(0.5)
    found = features(frame, tracks_of({1: BOX}))
    assert sent(found) == [(1, BIRTH)]
    assert found.codes[0].tolist() == code_of(frame, BOX)


def test_birth_does_not_wait_for_ever() -> None:
    covered, nearer = (100.0, 60.0, 140.0, 160.0), (105.0, 70.0, 145.0, 180.0)
    features = Features(FeatureSettings(birth_wait_s=0.5))
    births = {}
    for step in range(10):
        found = features(frame_at(step / 10), tracks_of({1: covered, 2: nearer}))
        births |= dict.fromkeys(found.track_id.tolist(), step / 10)
    assert births == {1: 0.5, 2: 0.0}  # who stands in front is seen well


def test_no_refresh_without_a_good_look() -> None:
    features = Features()
    run(features, 0.5, {1: BOX})
    hidden = (-20.0, 60.0, 20.0, 160.0)
    assert run(features, 7.0, {1: hidden}, start_s=0.5) == []
    assert run(features, 8.0, {1: BOX}, start_s=7.0) == [(7.0, REFRESH)]


def test_a_box_outside_the_frame_never_gives_a_code() -> None:
    features = Features()
    gone = (400.0, 60.0, 440.0, 160.0)
    assert run(features, 3.0, {1: gone}) == []
    assert len(features(frame_at(3.0), tracks_of({}, ended=(1,)))) == 0


def test_few_crops_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def counting(frame: Frame, xyxy: np.ndarray) -> np.ndarray | None:
        taken.append(frame.index)
        return crop_rgb(frame, xyxy)

    monkeypatch.setattr("camagent.features.crop_rgb", counting)
    run(Features(), 10.0, {1: BOX})
    assert len(taken) == 10
