"""When a batch leaves, and what is dropped."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from camagent.batch import Batcher
from camagent.config import OutboxSettings
from camagent.outbox import NewBatch, Outbox, Session
from camsdk.errors import ResourceExhausted
from camsdk.wire import decode_batch
from support.frame_results import frame_result

SLOW = OutboxSettings(batch_wait_s=30)


@pytest.fixture
def outbox(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.db")
    yield outbox
    outbox.close()


def batcher(outbox: Outbox, settings: OutboxSettings = SLOW, watermark: int = -1) -> Batcher:
    return Batcher(outbox, "cam", Session(1, 1000.0, watermark), settings)


def sizes(outbox: Outbox) -> list[int]:
    return [
        len(decode_batch(waiting.payload).tracks.frame_index) for waiting in outbox.pending(0, 1000)
    ]


def test_a_full_batch_leaves(outbox: Outbox) -> None:
    sink = batcher(outbox)
    for index in range(70):
        sink.put(frame_result(index))
    assert sizes(outbox) == [32, 32]
    sink.close()
    assert sizes(outbox) == [32, 32, 6]


def test_an_event_leaves_at_once(outbox: Outbox) -> None:
    sink = batcher(outbox)
    sink.put(frame_result(0))
    sink.put(frame_result(1, event_count=2))
    (waiting,) = outbox.pending(0, 9)
    events = decode_batch(waiting.payload).events
    assert [(e.epoch, e.sequence, e.event.rule) for e in events] == [
        (outbox.epoch, 1, "line-0"),
        (outbox.epoch, 2, "line-1"),
    ]


def test_a_crowd_fills_a_batch_before_the_cloud_would_set_it_aside(outbox: Outbox) -> None:
    sink = batcher(outbox, OutboxSettings(batch_frames=4096, batch_wait_s=30))
    for index in range(1600):
        sink.put(frame_result(index, track_count=100))
    sink.close()
    assert sum(sizes(outbox)) == 1600  # each decodes
    assert max(sizes(outbox)) <= 41


def test_many_events_after_a_full_disk_make_batches_that_the_cloud_takes(tmp_path: Path) -> None:
    outbox = FullDisk(tmp_path / "full.db")
    sink = batcher(outbox)
    for index in range(30):
        sink.put(frame_result(index, event_count=200))
    outbox.is_full = False
    sink.close()
    assert sum(sizes(outbox)) == 30
    assert outbox.stats().event_count == 6000
    outbox.close()


def test_waiting_ends(outbox: Outbox) -> None:
    sink = batcher(outbox, OutboxSettings(batch_wait_s=0.05))
    sink.put(frame_result(0))
    due_s = sink.flush_due(time.monotonic())
    assert 0 < due_s - time.monotonic() <= 0.05
    assert sizes(outbox) == []
    assert sink.flush_due(due_s) == float("inf")
    assert sizes(outbox) == [1]


def test_a_change_of_size_or_model_starts_a_batch(outbox: Outbox) -> None:
    sink = batcher(outbox)
    sink.put(frame_result(0))
    sink.put(frame_result(1, digest="a" * 64))
    sink.put(frame_result(2, digest="a" * 64, width=640))
    sink.close()
    assert sizes(outbox) == [1, 1, 1]


def test_a_replay_ships_only_what_is_new(outbox: Outbox) -> None:
    session = outbox.next_session("cam", "clip", True, 1000.0)
    sink = Batcher(outbox, "cam", session, SLOW)
    for index in range(40):
        sink.put(frame_result(index, event_count=index == 20))
    # killed here: frames 21 to 39 were only in memory
    again = Batcher(outbox, "cam", outbox.next_session("cam", "clip", True, 0.0), SLOW)
    for index in range(40):
        again.put(frame_result(index, event_count=index == 20))
    again.close()
    shipped = [
        int(index)
        for waiting in outbox.pending(0, 99)
        for index in decode_batch(waiting.payload).tracks.frame_index
    ]
    assert shipped == list(range(40))
    assert outbox.stats().event_count == 1


def test_a_new_session_starts_a_batch_of_its_own(outbox: Outbox) -> None:
    sink = batcher(outbox, watermark=5)
    sink.put(frame_result(6))
    sink.begin(Session(2, 1000.0))
    sink.put(frame_result(0))
    sink.close()
    batches = [decode_batch(waiting.payload) for waiting in outbox.pending(0, 9)]
    assert [(b.session, b.tracks.frame_index.tolist()) for b in batches] == [(1, [6]), (2, [0])]


class FullDisk(Outbox):
    """An outbox whose disk is full for a while."""

    is_full = True

    def commit(self, batch: NewBatch) -> int:
        if self.is_full:
            raise ResourceExhausted("disk full")
        return super().commit(batch)


def test_a_full_disk_keeps_events_longest(tmp_path: Path) -> None:
    outbox = FullDisk(tmp_path / "full.db")
    sink = batcher(outbox)
    for index in range(1100):
        sink.put(frame_result(index, event_count=index < 10, track_count=0))
    assert sink.dropped_events == 0
    assert sink.dropped_frames == 1100 - 1024
    outbox.is_full = False
    sink.close()
    assert sum(sizes(outbox)) == 1024
    assert outbox.stats().event_count == 10
    outbox.close()


def test_a_full_disk_costs_pictures_before_events(tmp_path: Path) -> None:
    outbox = FullDisk(tmp_path / "full.db")
    sink = batcher(outbox)
    crops = (b"", b"\xff\xd8\xff 1")
    sink.put(replace(frame_result(0, event_count=2), crops=crops))
    assert sink.dropped_crops == 1
    outbox.is_full = False
    sink.put(replace(frame_result(1, event_count=2), crops=crops))
    (waiting,) = outbox.pending(0, 9)
    batch = decode_batch(waiting.payload)
    assert [shipped.sequence for shipped in batch.events] == [1, 2, 3, 4]
    (crop,) = batch.crops
    assert (crop.event_sequence, crop.frame_index, crop.jpeg) == (4, 1, crops[1])
    assert (sink.dropped_crops, sink.dropped_events) == (1, 0)
    outbox.close()


def test_a_full_disk_is_not_tried_with_each_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = FullDisk(tmp_path / "full.db")
    sink = batcher(outbox)
    for index in range(500):
        sink.put(frame_result(index, track_count=0))
    assert 1 <= len(caplog.records) <= 5  # a line for each attempt, on the disk that is full
    outbox.is_full = False
    sink.flush_due(time.monotonic() + 60)
    assert sum(sizes(outbox)) == 500
    outbox.close()


def test_what_never_fits_is_counted(tmp_path: Path) -> None:
    outbox = FullDisk(tmp_path / "full.db")
    sink = batcher(outbox)
    sink.put(frame_result(0, event_count=2))
    sink.close()
    assert (sink.dropped_frames, sink.dropped_events) == (1, 2)
    outbox.close()
