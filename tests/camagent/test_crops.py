"""Pictures of events: cut where a rule asks for them, and otherwise not a pixel leaves."""

import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camagent import crops as crops_module
from camagent.batch import Batcher
from camagent.config import CameraSettings, OutboxSettings
from camagent.crops import MAX_CROPS, MAX_SIDE_PX, Crops, cut
from camagent.detect import Detect
from camagent.features import Features
from camagent.gate import Gate
from camagent.outbox import Outbox
from camagent.pipeline import Pipeline
from camagent.source import open_source
from camagent.track import ByteTracker
from camagent.zones import Zones
from camproto.v1 import data_pb2
from camsdk.vision.frames import Frame
from camsdk.vision.results import LINE_CROSSED, Event
from camsdk.vision.rules import CameraRules, LineRule, ZoneRule, parse_rules
from camsdk.wire import MAX_PAYLOAD_BYTES
from support.clips import scene, write_video
from support.fake_runtime import block_detector

WIDTH, HEIGHT, FRAMES = 192, 144, 90
JPEG_START = b"\xff\xd8\xff"
Box = tuple[float, float, float, float]

LINE = LineRule("door", (0.5, 0.0), (0.5, 1.0), "left", crops=True)
ZONE = ZoneRule("lawn", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)), crops=True)


def frame_of(rgb: np.ndarray, index: int = 3) -> Frame:
    """A frame with even sides that shows a picture."""
    height, width = rgb.shape[:2]
    i420 = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    u, v = i420[height:].reshape(2, height // 2, width // 2)
    return Frame(index, 1000.0 + index / 10, i420[:height], u, v)


def room(width: int = 640, height: int = 480, box: Box = (200, 100, 300, 400)) -> Frame:
    """A green room with somebody in red where the box is."""
    rgb = np.full((height, width, 3), (30, 120, 40), np.uint8)
    left, top, right, bottom = map(int, box)
    rgb[top:bottom, left:right] = (200, 30, 30)
    return frame_of(rgb)


def event(rule: str = "door", xyxy: Box | None = (200, 100, 300, 400), track_id: int = 1) -> Event:
    return Event(LINE_CROSSED, 3, 1000.3, rule, track_id, 0, "person", 0.9, xyxy)


def decoded(jpeg: bytes) -> np.ndarray:
    """RGB of a JPEG, uint8 (height, width, 3)."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_the_picture_shows_the_object_with_a_margin() -> None:
    picture = decoded(cut(room(), (200, 100, 300, 400)))
    # The box is 100 x 300, with 30 px all round 160 x 360, then shrunk to a height of 320.
    assert picture.shape == (MAX_SIDE_PX, 142, 3)
    middle, corner = picture[160, 71].astype(int), picture[4, 4].astype(int)
    assert np.abs(middle - (200, 30, 30)).max() < 16
    assert np.abs(corner - (30, 120, 40)).max() < 16


def test_a_small_picture_is_not_blown_up() -> None:
    assert decoded(cut(room(), (200, 100, 220, 140))).shape == (48, 28, 3)


def test_what_lies_outside_the_frame_is_cut_off() -> None:
    assert decoded(cut(room(), (-50, -50, 50, 50))).shape == (60, 60, 3)
    assert cut(room(), (-90, -90, -50, -50)) == b""
    assert cut(room(), (float("nan"), 0, 10, 10)) == b""


@given(st.tuples(*[st.floats(-2000, 2000, width=32)] * 4))
def test_any_box_gives_a_small_picture_or_none(box: Box) -> None:
    jpeg = cut(room(320, 240), box)
    if jpeg:
        assert max(decoded(jpeg).shape) <= MAX_SIDE_PX


def test_only_events_of_rules_that_ask_get_a_picture() -> None:
    crops = Crops(CameraRules((LINE, LineRule("road", (0, 0.5), (1, 0.5), "left")), (ZONE,)))
    events = (event("road"), event("door"), event("lawn"), Event("camera_online", 0, 0.0))
    assert [bool(jpeg) for jpeg in crops(room(), events)] == [False, True, True, False]
    assert crops(room(), (event("road"),)) == ()
    assert crops(room(), (event("door", None),)) == ()
    assert crops(room(), ()) == ()


def test_new_rules_hold_from_the_next_frame_on() -> None:
    crops = Crops(CameraRules((LINE,)))
    assert crops(room(), (event(),))
    crops.configure(CameraRules((LineRule("door", (0.5, 0.0), (0.5, 1.0), "left"),)))
    assert crops(room(), (event(),)) == ()
    crops.configure(CameraRules(zones=(ZONE,)))
    assert crops(room(), (event("lawn"),))


def test_the_worst_frame_still_fits_into_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    """Noise is what a JPEG is worst at; everybody crosses at once."""
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    whole = (10.0, 10.0, 300.0, 300.0)
    events = tuple(event(xyxy=whole, track_id=number) for number in range(100))
    pictures = Crops(CameraRules((LINE,)))(frame_of(noise), events)
    assert len(pictures) == 100
    assert sum(map(bool, pictures)) == MAX_CROPS
    assert sum(map(len, pictures)) < MAX_PAYLOAD_BYTES / 2
    assert "100 events of one frame" in caplog.text


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright block that crosses the middle twice from left to right."""
    folder = tmp_path_factory.mktemp("clips")
    return write_video(folder / "walk.mp4", scene(WIDTH, HEIGHT, FRAMES))


Replay = Callable[[str], list[data_pb2.Batch]]


@pytest.fixture
def replay(clip: Path, tmp_path: Path) -> Replay:
    """Plays the clip under two lines with their ``crops``; returns the batches as serialized."""
    outboxes: list[Outbox] = []

    def play(first_crops: str) -> list[data_pb2.Batch]:
        rules = parse_rules(
            "version: 1\ncameras:\n  '*':\n    lines:\n"
            f"    - {{name: first, from: [0.4, 0], to: [0.4, 1], in: left{first_crops}}}\n"
            "    - {name: second, from: [0.6, 0], to: [0.6, 1], in: left}\n"
        ).for_camera("cam")
        outbox = Outbox(tmp_path / f"{len(outboxes)}.db")
        outboxes.append(outbox)
        session = outbox.next_session("cam", "clip", True, 1000.0)
        batcher = Batcher(outbox, "cam", session, OutboxSettings(batch_wait_s=30))
        settings = CameraSettings("cam", str(clip), pace="fast", start_time_s=1000.0)
        source = open_source(settings)
        Pipeline(
            "cam", source, Gate(), Detect(block_detector()), ByteTracker(),
            Zones(rules, ("person", "bicycle")), Features(), batcher, crops=Crops(rules),
        ).run(threading.Event())  # fmt: skip
        source.close()
        batcher.close()
        batches = []
        for waiting in outbox.pending(0, 1000):
            batch = data_pb2.Batch.FromString(waiting.payload)
            assert (JPEG_START in waiting.payload) == bool(batch.crops)
            for shipped in batch.events:
                shipped.epoch = 0  # random for each outbox
            batches.append(batch)
        outbox.close()
        return batches

    return play


def test_without_a_rule_that_asks_not_one_pixel_leaves(
    replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replay(", crops: true")
    monkeypatch.setattr(crops_module, "cut", lambda *_: pytest.fail("a picture was cut"))
    silent = replay("")
    assert sum(len(batch.events) for batch in silent) == 4
    assert not any(batch.crops for batch in silent)
    assert replay(", crops: false") == silent
    # And the pictures are all that the rule has changed.
    for batch in asked:
        batch.ClearField("crops")
    assert asked == silent


def test_a_picture_is_numbered_with_its_event(replay: Replay) -> None:
    batches = replay(", crops: true")
    events = {shipped.sequence: shipped for batch in batches for shipped in batch.events}
    assert [events[n].rule for n in sorted(events)] == ["first", "second"] * 2
    shown = []
    for batch in batches:
        for crop in batch.crops:
            shipped = events[crop.event_sequence]
            assert shipped in batch.events  # in the same batch, hence in one transaction
            assert (crop.track_id, crop.frame_index) == (shipped.track_id, shipped.frame_index)
            assert crop.timestamp_s == shipped.timestamp_s
            shown.append(shipped.rule)
            picture = decoded(crop.jpeg)
            # The block is 16 x 48; bright in the middle, the darker wall in the margin.
            assert 48 <= picture.shape[0] <= 80
            assert 16 <= picture.shape[1] <= 48
            rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
            assert picture[rows, columns].mean() > 180
            assert picture[0].mean() < 150
    assert shown == ["first", "first"]


def test_a_replay_gives_the_same_bytes(replay: Replay) -> None:
    first = replay(", crops: true")
    assert sum(len(batch.crops) for batch in first) == 2
    assert replay(", crops: true") == first
