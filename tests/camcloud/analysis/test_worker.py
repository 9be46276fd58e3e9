"""The analysis from bus to store: each batch once, poison set aside, nothing lost by a restart."""

import asyncio
import dataclasses
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from camcloud.analysis import worker as worker_module
from camcloud.blobs import MemoryBlobs
from camcloud.bus import Delivery, LogBus, MemoryJournal
from camcloud.bus.journals import Group
from camcloud.data_plane import DataPlane
from camcloud.store import crops, embeddings, events, ingest, tracks
from camcloud.store.events import EventQuery
from camcloud.store.tracks import TrackQuery
from camproto.v1 import data_pb2
from camsdk.errors import Unavailable
from camsdk.vision.results import DEATH
from camsdk.wire import Crop
from support.data_plane import (
    CAMERA,
    DEVICE,
    EPOCH,
    FLEET,
    Camera,
    code,
    data_plane,
    publish,
    with_codes,
)

JPEG = b"\xff\xd8\xff\xe0 picture"


async def stored_events(plane: DataPlane) -> list[events.StoredEvent]:
    await asyncio.wait_for(plane.drained(), 10)
    return await plane.database.arun(lambda c: events.page(c, EventQuery()))


async def stored_tracks(plane: DataPlane) -> list[tracks.StoredTrack]:
    await asyncio.wait_for(plane.drained(), 10)
    return await plane.database.arun(lambda c: tracks.page(c, TrackQuery()))


async def test_a_batch_becomes_events_tracks_and_codes(tmp_path: Path) -> None:
    camera = Camera()
    results = camera.frames(10, event_count=2)
    results[3] = with_codes(results[3], {1: code(1), 2: code(2)})
    async with data_plane(tmp_path) as plane:
        payload = camera.pack(results)
        await publish(plane.bus, camera, payload)
        found = await stored_events(plane)
        assert [one.event_id for one in found] == ["cam-1/7/1", "cam-1/7/2"]
        assert [one.shipped.event for one in found] == list(results[0].events)
        assert found[0].fleet == FLEET
        assert found[0].cursor < found[1].cursor
        first, second = await stored_tracks(plane)
        assert {first.sighting.track_id, second.sighting.track_id} == {1, 2}
        assert first.sighting.frame_count == 10
        assert first.sighting.first_timestamp_s == pytest.approx(1000.0)
        assert first.sighting.last_timestamp_s == pytest.approx(1000.9)
        assert len(plane.vectors) == 2
        stats = await plane.database.arun(ingest.read_stats)
        assert (stats.batch_count, stats.frame_count) == (1, 10)
        assert (stats.event_count, stats.embedding_count) == (2, 2)
        sizes = (stats.track_bytes, stats.embedding_bytes, stats.event_bytes, stats.envelope_bytes)
        assert sum(sizes) == len(payload)
        assert min(sizes) > 0


async def test_a_track_grows_over_batches_and_a_late_code_does_not_move_it() -> None:
    camera = Camera()
    async with data_plane() as plane:
        await publish(plane.bus, camera, camera.pack(camera.frames(5)))
        await publish(plane.bus, camera, camera.pack(camera.frames(5)))
        farewell = camera.frames(1, track_count=0)
        farewell[0] = with_codes(farewell[0], {1: code(1)})
        farewell[0].embeddings.reasons[:] = DEATH
        await publish(plane.bus, camera, camera.pack(farewell))
        grown = {one.sighting.track_id: one for one in await stored_tracks(plane)}[1]
        assert grown.sighting.frame_count == 10
        assert grown.sighting.last_timestamp_s == pytest.approx(1000.9)
        assert grown.sighting.class_id == 0
        record = (await plane.database.arun(lambda c: embeddings.records(c, [1])))[1]
        assert record.track == grown
        assert record.timestamp_s == pytest.approx(1001.0)
        assert np.array_equal(record.code, code(1))


async def test_the_same_track_id_in_another_session_or_epoch_is_another_track() -> None:
    cameras = [Camera(), Camera(session=2), Camera(epoch=8), Camera(camera_id="yard", epoch=9)]
    cameras[1].next_batch = 2
    async with data_plane() as plane:
        for camera in cameras:
            await publish(plane.bus, camera, camera.pack(camera.frames(2, track_count=1)))
        assert len(await stored_tracks(plane)) == 4


async def test_what_the_bus_delivers_again_is_stored_once(tmp_path: Path) -> None:
    camera = Camera()
    results = camera.frames(4, event_count=1)
    results[0] = with_codes(results[0], {1: code(1)})
    payload = camera.pack(results)
    async with data_plane(tmp_path) as plane:
        await publish(plane.bus, camera, payload)
        before = await stored_events(plane)
    # As after a crash between the store's transaction and the bus' own.
    journal = MemoryJournal()
    journal.write(Group([Delivery(1, DEVICE, FLEET, EPOCH, 1, 1000.0, payload)]))
    async with data_plane(tmp_path, bus=LogBus(journal)) as plane:
        assert await stored_events(plane) == before
        assert len(plane.vectors) == 1
        assert (await plane.database.arun(ingest.read_stats)).batch_count == 1
        assert (await plane.counts()).duplicate_batch_count == 1


async def test_a_lost_bus_does_not_take_stored_batches_again(tmp_path: Path) -> None:
    camera = Camera()
    async with data_plane(tmp_path) as plane:
        await publish(plane.bus, camera, *(camera.pack(camera.frames(2)) for _ in range(3)))
        await asyncio.wait_for(plane.drained(), 10)
    (tmp_path / "bus.db").unlink()
    async with data_plane(tmp_path) as plane:
        assert plane.bus.open_lane(DEVICE, FLEET, EPOCH).acked == 3


def _edited(payload: bytes, edit: Callable[[data_pb2.Batch], object]) -> bytes:
    batch = data_pb2.Batch.FromString(payload)
    edit(batch)
    return batch.SerializeToString()


def _many_attributes(batch: data_pb2.Batch) -> None:
    for number in range(33):
        batch.events[0].attributes[f"key-{number}"] = "x"


def _many_events(batch: data_pb2.Batch) -> None:
    first = data_pb2.Event.FromString(batch.events[0].SerializeToString())
    for sequence in range(first.sequence + 1, first.sequence + 4097):
        first.sequence = sequence
        batch.events.append(first)


def _still_of_no_event(batch: data_pb2.Batch) -> None:
    batch.crops.add(jpeg=JPEG, timestamp_s=batch.first_timestamp_s, event_sequence=2**64 - 1)


POISON: dict[str, Callable[[data_pb2.Batch], object]] = {
    "NaN time": lambda b: setattr(b, "first_timestamp_s", float("nan")),
    "infinite time": lambda b: setattr(b.events[0], "timestamp_s", float("inf")),
    "huge time": lambda b: setattr(b, "first_timestamp_s", 1e300),
    "NaN score": lambda b: setattr(b.events[0], "score", float("nan")),
    "NaN box": lambda b: b.events[0].xyxy.extend([0, 0, float("nan"), 1]),
    "cut columns": lambda b: setattr(b, "tracks", b.tracks[:-3]),
    "wrong count": lambda b: setattr(b, "frame_count", 99),
    "no camera": lambda b: setattr(b, "camera_id", ""),
    "long name": lambda b: setattr(b, "camera_id", "x" * 129),
    "log forgery": lambda b: setattr(b.events[0], "rule", "gate\n2026 ERROR all is lost"),
    "session beyond 63 bits": lambda b: setattr(b, "session", 2**63),
    "event of another epoch": lambda b: setattr(b.events[0], "epoch", EPOCH + 1),
    "event of another camera": lambda b: setattr(b.events[0], "camera_id", "yard"),
    "event beyond 63 bits": lambda b: setattr(b.events[0], "sequence", 2**63),
    "event out of order": lambda b: b.events.append(b.events[0]),
    "many attributes": _many_attributes,
    "many events": _many_events,
    "many stills": lambda b: [b.crops.add(jpeg=JPEG, timestamp_s=1000.0) for _ in range(257)],
    "still of an event beyond 63 bits": _still_of_no_event,
    "negative frame": lambda b: setattr(b, "first_frame_index", -5),
    "still without time": lambda b: b.crops.add(jpeg=JPEG, timestamp_s=float("nan")),
    "still of another day": lambda b: b.crops.add(jpeg=JPEG, timestamp_s=9e6),
}


@pytest.mark.parametrize("name", [*POISON, "noise", "empty"])
async def test_poison_is_set_aside_and_blocks_nothing(name: str) -> None:
    camera = Camera()
    good = camera.pack(camera.frames(4, event_count=1))
    if name == "noise":
        poison = struct.pack("<40Q", *range(2**62, 2**62 + 40))
    elif name == "empty":
        poison = b""
    else:
        poison = _edited(camera.pack(camera.frames(4, event_count=1)), POISON[name])
    after = camera.pack(camera.frames(4, event_count=1))
    async with data_plane() as plane:
        await publish(plane.bus, camera, good, poison, after)
        found = await stored_events(plane)
        assert len(found) == 2
        counts = await plane.counts()
        assert counts.rejected_batch_count == plane.worker.counts.refused == 1
        assert counts.lost_event_count == camera.next_event - 1 - 2
        kept = (await plane.database.arun(ingest.quarantined))[0]
        assert (kept.device_id, kept.sequence, kept.payload) == (DEVICE, 2, poison)
        assert kept.reason
        assert "failed" not in kept.reason, "found out by its check, not by an accident behind it"


async def test_a_mistake_of_ours_sets_one_batch_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = worker_module.write

    def tripping(connection: object, group: list) -> object:
        if any(item.delivery.sequence == 2 and hasattr(item, "batch") for item in group):
            raise KeyError("a mistake")
        return real(connection, group)

    monkeypatch.setattr(worker_module, "write", tripping)
    camera = Camera()
    async with data_plane() as plane:
        payloads = [camera.pack(camera.frames(2, event_count=1)) for _ in range(4)]
        await publish(plane.bus, camera, *payloads)
        found = await stored_events(plane)
        assert [one.shipped.sequence for one in found] == [1, 3, 4]
        kept = await plane.database.arun(ingest.quarantined)
        assert [(one.sequence, one.reason) for one in kept] == [(2, "writing failed: KeyError")]


async def test_batches_that_unpack_to_much_are_stored_in_small_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "_GROUP_BYTES", 1 << 20)
    real, sizes = worker_module.write, []

    def counting(connection: object, group: list) -> object:
        sizes.append(len(group))
        return real(connection, group)

    monkeypatch.setattr(worker_module, "write", counting)
    camera, payloads = Camera(), []
    for ended_count in (0, 0, 100_000, 100_000, 0):
        (result,) = camera.frames(1, event_count=1)
        tracks_of = dataclasses.replace(result.tracks, ended=np.zeros(ended_count, np.int64))
        payloads.append(camera.pack([dataclasses.replace(result, tracks=tracks_of)]))
    assert max(map(len, payloads)) < 1000, "a few bytes on the wire"
    journal = MemoryJournal()
    entries = [
        Delivery(n, DEVICE, FLEET, EPOCH, n, 1000.0, payload)
        for n, payload in enumerate(payloads, 1)
    ]
    journal.write(Group(entries))
    async with data_plane(bus=LogBus(journal)) as plane:
        assert [one.shipped.sequence for one in await stored_events(plane)] == [1, 2, 3, 4, 5]
    assert sizes == [3, 1, 1]


async def test_what_is_committed_is_handed_on_although_the_next_has_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "_FIRST_PAUSE_S", 0.01)
    real = worker_module.write
    troubles = [KeyError("in the group"), None, OperationalError("", {}, Exception("disk full"))]

    def troubled(connection: object, group: list) -> object:
        trouble = troubles.pop(0) if troubles else None
        if trouble is not None:
            raise trouble
        return real(connection, group)

    camera = Camera()
    async with data_plane() as plane:
        following = asyncio.create_task(_first(plane.feed.follow(EventQuery(), from_now=True), 3))
        await asyncio.sleep(0.05)
        monkeypatch.setattr(worker_module, "write", troubled)
        payloads = [camera.pack(camera.frames(2, event_count=1)) for _ in range(3)]
        await publish(plane.bus, camera, *payloads)
        live = await asyncio.wait_for(following, 5)
        assert [one.shipped.sequence for one in live] == [1, 2, 3]
        await asyncio.wait_for(plane.drained(), 10)
        assert plane.worker.counts.batches == 3
        assert plane.worker.counts.retries == 1


async def _first(following: AsyncIterator[events.StoredEvent], count: int) -> list:
    return [await anext(following) for _ in range(count)]


async def test_bad_codes_and_stills_are_left_out_and_counted() -> None:
    camera = Camera()
    results = camera.frames(3)
    loud = np.full(128, 127, np.int8)  # longer than a unit: would win every search
    results[0] = with_codes(results[0], {1: code(1), 2: loud})
    results[1] = with_codes(results[1], {2: np.zeros(128, np.int8)})
    still = Crop(1, 0, 1000.0, b"no picture")
    async with data_plane() as plane:
        await publish(plane.bus, camera, camera.pack(results, crops=[still]))
        await asyncio.wait_for(plane.drained(), 10)
        stats = await plane.database.arun(ingest.read_stats)
        assert (stats.embedding_count, stats.refused_row_count) == (1, 3)
        assert len(plane.vectors) == 1


async def test_codes_of_another_size_are_refused() -> None:
    camera = Camera()
    results = camera.frames(1)
    results[0] = with_codes(results[0], {1: np.full(64, 15, np.int8)})
    async with data_plane() as plane:
        await publish(plane.bus, camera, camera.pack(results))
        await asyncio.wait_for(plane.drained(), 10)
        stats = await plane.database.arun(ingest.read_stats)
        assert (stats.embedding_count, stats.refused_row_count) == (0, 1)


async def test_a_still_is_a_blob_with_a_row(tmp_path: Path) -> None:
    camera = Camera()
    stills = [Crop(1, 2, 1000.2, JPEG, event_sequence=1), Crop(9, 3, 1000.3, JPEG + b"2")]
    async with data_plane(tmp_path) as plane:
        await publish(plane.bus, camera, camera.pack(camera.frames(5), crops=stills))
        found = {one.sighting.track_id: one for one in await stored_tracks(plane)}
        assert found[9].sighting.frame_count == 0  # known by its still alone
        row = (await plane.database.arun(lambda c: crops.of_track(c, found[1].key)))[0]
        assert (row.frame_index, row.event_sequence, row.size_bytes) == (2, 1, len(JPEG))
        assert plane.blobs.get(row.blob_key) == JPEG


class SulkingBlobs(MemoryBlobs):
    """Away for the first few puts."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def put(self, key: str, data: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("the blob store is away")
        super().put(key, data)


async def test_a_store_that_is_away_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "_FIRST_PAUSE_S", 0.01)
    camera = Camera()
    payload = camera.pack(camera.frames(2, event_count=1), crops=[Crop(1, 1, 1000.1, JPEG)])
    async with data_plane(blobs=SulkingBlobs(3)) as plane:
        await publish(plane.bus, camera, payload)
        assert len(await stored_events(plane)) == 1
        assert plane.worker.counts.retries == 3
        assert (await plane.counts()).rejected_batch_count == 0


async def test_an_index_that_is_missing_or_behind_catches_up(tmp_path: Path) -> None:
    camera = Camera()

    async def ship(plane: DataPlane, seed: int) -> None:
        results = camera.frames(1)
        results[0] = with_codes(results[0], {1: code(seed), 2: code(seed + 1)})
        await publish(plane.bus, camera, camera.pack(results))
        await asyncio.wait_for(plane.drained(), 10)

    async with data_plane(tmp_path) as plane:
        await ship(plane, 0)
    saved = {path: path.read_bytes() for path in (tmp_path / "vectors").iterdir()}
    async with data_plane(tmp_path) as plane:
        assert len(plane.vectors) == 2
        await ship(plane, 10)
    for path, data in saved.items():
        path.write_bytes(data)  # as after a crash before the index was saved
    async with data_plane(tmp_path) as plane:
        assert (len(plane.vectors), plane.vectors.last_id) == (4, 4)
    for path in saved:
        path.unlink()
    async with data_plane(tmp_path) as plane:
        ids, _ = plane.vectors.search(code(11)[None], 1)
        assert (len(plane.vectors), ids.tolist()) == (4, [[4]])


async def test_an_index_of_another_store_is_rebuilt(tmp_path: Path) -> None:
    camera = Camera()
    results = camera.frames(1)
    results[0] = with_codes(results[0], {1: code(1), 2: code(2)})
    async with data_plane(tmp_path / "a") as plane:
        await publish(plane.bus, camera, camera.pack(results))
        await asyncio.wait_for(plane.drained(), 10)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "vectors").rename(tmp_path / "b" / "vectors")
    async with data_plane(tmp_path / "b") as plane:
        assert len(plane.vectors) == 0


async def test_events_that_never_came_are_counted() -> None:
    camera = Camera()
    async with data_plane() as plane:
        await publish(plane.bus, camera, camera.pack(camera.frames(1, event_count=2)))
        camera.next_event += 5
        await publish(plane.bus, camera, camera.pack(camera.frames(1, event_count=1)))
        assert [one.shipped.sequence for one in await stored_events(plane)] == [1, 2, 8]
        assert (await plane.counts()).lost_event_count == 5


async def test_an_event_that_comes_in_a_second_batch_is_stored_once() -> None:
    camera = Camera()
    async with data_plane() as plane:
        await publish(plane.bus, camera, camera.pack(camera.frames(1, event_count=2)))
        camera.next_event = 2
        await publish(plane.bus, camera, camera.pack(camera.frames(1, event_count=2)))
        found = await stored_events(plane)
        assert [one.shipped.sequence for one in found] == [1, 2, 3]
        assert [one.shipped.camera_id for one in found] == [CAMERA] * 3


async def test_a_worker_that_ends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: object, group: object) -> object:
        raise RuntimeError("nothing can be written at all")

    monkeypatch.setattr(worker_module, "write", broken)
    camera = Camera()
    async with data_plane() as plane:
        failing = asyncio.create_task(plane.failure())
        await publish(plane.bus, camera, camera.pack(camera.frames(1)))
        with pytest.raises(RuntimeError, match="at all"):
            await asyncio.wait_for(failing, 5)
