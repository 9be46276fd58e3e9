"""The pipeline: what becomes of each frame, sessions, failures, and identical replays."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from camagent.config import CameraSettings
from camagent.detect import Detect
from camagent.features import Features
from camagent.gate import Gate
from camagent.pipeline import Cutter, Pipeline, Watcher
from camagent.source import Presence, Source, open_source
from camagent.source.feed import Feed
from camagent.track import ByteTracker
from camagent.zones import Zones
from camsdk.errors import SourceError
from camsdk.vision.frames import Frame
from camsdk.vision.results import CAMERA_ONLINE, DEATH, LINE_CROSSED, Event, FrameResult, Tracks
from camsdk.vision.rules import parse_rules
from support.clips import encode, scene, write_video
from support.fake_runtime import BlockRuntime, block_detector
from support.frame_results import Recorder, assert_same_results
from support.rtsp_server import RtspServer

WIDTH, HEIGHT = 384, 288

RULES = parse_rules(
    """
version: 1
cameras:
  "*":
    lines:
      - {name: door, from: [0.5, 0.0], to: [0.5, 1.0], in: left}
"""
)


class Script(Feed):
    """A source that plays what a test wrote: frames and presences."""

    is_recording = False
    cpu_time_s = 0.0

    def __init__(self, *items: Frame | Presence) -> None:
        super().__init__(CameraSettings("cam", "rtsp://127.0.0.1/never"))
        self._items = items

    def frames(self, stop: threading.Event | None = None) -> Iterator[Frame]:
        for item in self._items:
            if isinstance(item, Presence):
                self.is_online = item.is_online
                self._tell(item)
            else:
                yield item


def frame(
    index: int,
    left: int | None = 60,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    start_s: float = 1000.0,
    is_corrupt: bool = False,
) -> Frame:
    """A dark room with a bright person whose left edge is at ``left``, or none."""
    width, height = size
    luma = np.full((height, width), 60, np.uint8)
    if left is not None:
        luma[height // 3 : 2 * height // 3, left : left + width // 12] = 230
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    return Frame(index, start_s + index / 10, luma, chroma, chroma, is_corrupt=is_corrupt)


@dataclass
class Bench:
    """A pipeline with real stages, except for the model."""

    source: Source
    runtime: BlockRuntime = field(default_factory=BlockRuntime)
    detect_every: int = 1
    zones: Watcher | None = None
    crops: Cutter | None = None
    sink: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.detect = Detect(block_detector(self.runtime))
        self.pipeline = Pipeline(
            "cam",
            self.source,
            Gate(),
            self.detect,
            ByteTracker(),
            self.zones or Zones(RULES.for_camera("cam"), ("person", "bicycle")),
            Features(),
            self.sink,
            crops=self.crops,
            detect_every=self.detect_every,
        )

    def before_frame(self, index: int, action: Callable[[], object]) -> None:
        """Have ``action`` called before the frame ``index``, in the pipeline's thread."""
        if index == 0:
            self.pipeline.between_frames(action)
        else:
            self.pipeline.between_frames(lambda: self.before_frame(index - 1, action))

    def run(self) -> list[FrameResult]:
        self.pipeline.run(threading.Event())
        return self.sink.results


def kinds(results: list[FrameResult]) -> list[tuple[int, str]]:
    return [(r.frame_index, event.kind) for r in results for event in r.events]


def test_a_walk_across_the_line_becomes_a_track_a_crossing_and_codes() -> None:
    bench = Bench(Script(*(frame(i, 60 + 6 * i) for i in range(40))))
    results = bench.run()
    frames, closing = results[:-1], results[-1]
    assert [result.frame_index for result in frames] == list(range(40))
    assert all(result.is_detected and result.model_digest == "d" * 64 for result in frames)
    assert {id_ for r in frames for id_ in r.tracks.track_id.tolist()} == {1}
    assert len(kinds(frames)) == 1
    assert sum(len(result.embeddings) for result in frames) >= 1
    assert closing.frame_index == 40
    assert closing.tracks.ended.tolist() == [1]
    assert closing.embeddings.reasons.tolist() == [DEATH]
    assert not closing.is_detected
    stats = bench.pipeline.stats()
    assert stats.frame_count == 40
    assert stats.detector_calls == stats.open_frames == 40


def test_nobody_there_means_few_looks() -> None:
    bench = Bench(Script(*(frame(i, None) for i in range(200))))
    results = bench.run()
    assert len(results) == 200  # and nothing to close
    assert bench.runtime.calls == 3 * 4
    assert sum(result.is_detected for result in results) == 12
    assert {result.model_digest for result in results} == {"d" * 64}


def test_somebody_who_never_moves_is_found_and_kept() -> None:
    """There before the first frame, never moving: the first peek finds, the track keeps open."""
    results = Bench(Script(*(frame(i, 100) for i in range(600)))).run()[:-1]
    assert all(result.tracks.track_id.tolist() == [1] for result in results[2:])


def test_somebody_unseen_at_first_is_found_by_a_later_peek() -> None:
    """The model is blind at the start, when there is motion; nothing moves ever after."""
    bench = Bench(Script(*(frame(i, 100) for i in range(200))))
    bench.before_frame(0, lambda: setattr(bench.runtime, "level", 255))
    bench.before_frame(40, lambda: setattr(bench.runtime, "level", 180))
    results = bench.run()[:-1]
    first = next(result.frame_index for result in results if len(result.tracks))
    assert 40 < first <= 40 + 53


def test_when_the_gate_closes_tracks_age_and_end_by_time() -> None:
    before = [frame(i, None) for i in range(100)]
    here = [frame(100 + i, 60 + 8 * i) for i in range(20)]
    gone = [frame(120 + i, None) for i in range(100)]
    results = Bench(Script(*before, *here, *gone)).run()
    assert all(result.is_detected for result in results[100:120])
    ended = [result.frame_index for result in results if 1 in result.tracks.ended.tolist()]
    assert len(ended) == 1
    assert 129 <= ended[0] <= 132
    assert sum(result.is_detected for result in results[170:]) <= 3  # a peek


def test_a_damaged_frame_leaves_the_tracks_as_they_were() -> None:
    frames = [frame(i, 60 + 4 * i, is_corrupt=10 <= i < 15) for i in range(30)]
    bench = Bench(Script(*frames))
    results = bench.run()
    before = results[9].tracks
    for result in results[10:15]:
        assert not result.is_detected
        assert np.array_equal(result.tracks.xyxy, before.xyxy)
        assert not result.events
        assert len(result.embeddings) == 0
    assert results[16].tracks.track_id.tolist() == [1]
    assert bench.pipeline.stats().skipped_frames == 5


def test_detect_every_third_frame() -> None:
    bench = Bench(Script(*(frame(i, 60 + 3 * i) for i in range(60))), detect_every=3)
    results = bench.run()[:-1]
    assert bench.runtime.calls == 20
    assert all(result.is_detected == (result.frame_index % 3 == 0) for result in results)
    assert all(result.tracks.track_id.tolist() == [1] for result in results[3:])
    assert len(kinds(results)) == 1


def test_detect_every_does_not_keep_a_peek_from_finding_somebody() -> None:
    """A peek has three frames, of which every fifth alone would never confirm a track."""
    results = Bench(Script(*(frame(i, 100) for i in range(100))), detect_every=5).run()[:-1]
    assert all(result.tracks.track_id.tolist() == [1] for result in results[1:])
    assert 20 <= sum(result.is_detected for result in results) <= 24


def test_a_failing_runtime_stops_neither_the_pipeline_nor_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(Script(*(frame(i, 60 + 4 * i) for i in range(60))))
    bench.before_frame(10, lambda: setattr(bench.runtime, "is_broken", True))
    bench.before_frame(40, lambda: setattr(bench.runtime, "is_broken", False))
    with caplog.at_level(logging.WARNING):
        results = bench.run()
    assert [result.frame_index for result in results[:60]] == list(range(60))
    assert bench.pipeline.stats().detector_failures == 30
    assert bench.detect.health().failures == 30
    assert len(caplog.records) == 1  # one line for one outage
    ended = [result.frame_index for result in results if 1 in result.tracks.ended.tolist()]
    assert 19 <= ended[0] <= 22


def test_without_a_model_frames_flow() -> None:
    bench = Bench(Script(*(frame(i) for i in range(5))))
    bench.detect.swap(None)
    results = bench.run()
    assert [result.frame_index for result in results] == list(range(5))
    assert {result.model_digest for result in results} == {""}
    assert not any(result.is_detected for result in results)
    assert bench.pipeline.stats().detector_calls == 0


def test_a_live_camera_is_told_online_and_offline_in_sessions() -> None:
    here, gone = Presence(True, 1000.0), Presence(False, 1002.5, "it is silent")
    again = Presence(True, 2000.0)
    first = [frame(i, 60 + 4 * i) for i in range(20)]
    second = [frame(i, 60 + 4 * i, start_s=2000.0) for i in range(20)]
    results = Bench(Script(here, *first, gone, again, *second)).run()
    assert kinds(results) == [(0, "camera_online"), (20, "camera_offline"), (0, "camera_online")]
    closing = results[20]
    assert closing.timestamp_s == 1002.5
    assert closing.tracks.ended.tolist() == [1]
    assert len(closing.tracks) == 0
    assert closing.events[0].attributes == {"reason": "it is silent"}
    ids = {id_ for result in results[21:] for id_ in result.tracks.track_id.tolist()}
    assert ids == {2}  # a new session continues no track of the old one


def test_an_outage_before_the_first_frame_tells_nothing() -> None:
    results = Bench(Script(Presence(False, 5.0, "refused"))).run()
    assert results == []


def test_a_change_of_resolution_ends_tracks_and_starts_new_ones() -> None:
    large = [frame(i, 60 + 4 * i) for i in range(20)]
    small = [frame(20 + i, 30 + 2 * i, size=(192, 144)) for i in range(20)]
    results = Bench(Script(*large, *small)).run()
    assert results[20].tracks.ended.tolist() == [1]
    assert results[20].embeddings.reasons.tolist() == [DEATH]
    assert (results[20].width, results[20].height) == (192, 144)
    later = {id_ for result in results[21:40] for id_ in result.tracks.track_id.tolist()}
    assert later == {2}
    assert [r.frame_index for r in results if 1 in r.tracks.ended.tolist()] == [20]


def test_a_change_of_resolution_under_damage_ends_tracks_with_the_next_good_frame() -> None:
    large = [frame(i, 60 + 4 * i) for i in range(20)]
    small = [frame(20 + i, 30, size=(192, 144), is_corrupt=i < 3) for i in range(6)]
    results = Bench(Script(*large, *small)).run()
    assert all(len(result.tracks) == 0 for result in results[20:23])
    assert results[23].tracks.ended.tolist() == [1]


def test_every_frame_of_a_swap_is_seen_by_one_of_the_two() -> None:
    bench = Bench(Script(*(frame(i, 60 + 4 * i) for i in range(30))))
    bench.before_frame(10, lambda: bench.detect.swap(block_detector(digest="e" * 64)))
    results = bench.run()[:-1]
    assert all(result.is_detected for result in results)
    digests = [result.model_digest[0] for result in results]
    assert digests == ["d"] * 10 + ["e"] * 20


def test_stats_charge_cpu_to_stages() -> None:
    bench = Bench(Script(*(frame(i, 60 + 4 * i) for i in range(30))))
    bench.run()
    stats = bench.pipeline.stats()
    assert stats.cpu_s["gate"] > 0.0
    assert stats.cpu_s["track"] > 0.0
    assert stats.detector_cpu_ms == pytest.approx(
        1000 * (stats.cpu_s["detect"] + 0.030) / 30, rel=1e-6
    )
    assert stats.cpu_ms_per_frame < stats.detector_cpu_ms + 100


def test_pictures_stand_beside_their_events_and_end_with_their_frame() -> None:
    def zones(_: Tracks, index: int, timestamp_s: float, *_size: int) -> tuple[Event, ...]:
        return (Event(LINE_CROSSED, index, timestamp_s),) if index == 0 else ()

    def crops(seen: Frame, events: tuple[Event, ...]) -> tuple[bytes, ...]:
        return (b"of frame %d" % seen.index,) * len(events)

    here, gone = Presence(True, 1000.0), Presence(False, 1002.5, "it is silent")
    first, closing = Bench(Script(here, frame(0), gone), zones=zones, crops=crops).run()
    assert [event.kind for event in first.events] == [CAMERA_ONLINE, LINE_CROSSED]
    assert first.crops == (b"", b"of frame 0")
    assert len(closing.events) == 1
    assert closing.crops == ()


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    return write_video(folder / "scene.mp4", scene(WIDTH, HEIGHT, 60), rate_hz=10)


def replay(path: Path) -> tuple[Bench, list[FrameResult]]:
    settings = CameraSettings("cam", str(path), pace="fast", start_time_s=1000.0)
    source = open_source(settings)
    bench = Bench(source)
    return bench, bench.run()


def test_replaying_a_file_gives_identical_results(clip_path: Path) -> None:
    _, first = replay(clip_path)
    _, second = replay(clip_path)
    assert_same_results(first, second)
    assert sum(len(result.tracks) for result in first) > 40
    assert kinds(first)


def test_a_recording_is_closed_at_its_end_but_not_when_stopped(clip_path: Path) -> None:
    bench, results = replay(clip_path)
    assert bench.pipeline.stats().is_finished
    assert results[-1].frame_index == 60
    assert results[-1].tracks.ended.tolist() == [1]
    assert not any(kind.startswith("camera_") for _, kind in kinds(results))

    settings = CameraSettings("cam", str(clip_path), pace="fast", start_time_s=1000.0)
    source, stop = open_source(settings), threading.Event()
    stopped = Bench(source)
    stopped.before_frame(20, stop.set)
    stopped.pipeline.run(stop)
    assert not stopped.pipeline.stats().is_finished
    assert_same_results(stopped.sink.results, results[:21])


def test_a_recording_that_cannot_be_read_raises(tmp_path: Path) -> None:
    path = tmp_path / "text.avi"
    path.write_text("no video")
    with pytest.raises(SourceError):
        replay(path)


@pytest.mark.slow
def test_a_real_camera_end_to_end() -> None:
    """Over RTSP: tracks, an outage, and tracks again."""
    clip = encode(scene(WIDTH, HEIGHT, 80), rate_hz=25)
    with RtspServer(clip) as server:
        source = open_source(CameraSettings("cam", server.url))
        bench, stop = Bench(source), threading.Event()
        thread = threading.Thread(target=bench.pipeline.run, args=(stop,))
        thread.start()
        wait_for(lambda: sum(len(r.tracks) for r in bench.sink.results) > 10)
        server.drop()
        wait_for(lambda: bench.pipeline.stats().reconnects == 1)
        count = len(bench.sink.results)
        wait_for(lambda: sum(len(r.tracks) for r in bench.sink.results[count:]) > 10)
        stop.set()
        thread.join(timeout=10)
        assert not thread.is_alive()
    told = [kind for _, kind in kinds(bench.sink.results) if kind.startswith("camera_")]
    assert told == ["camera_online", "camera_offline", "camera_online"]
    assert not bench.pipeline.stats().is_online


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited in vain")
