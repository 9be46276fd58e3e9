"""A data plane in one process, and batches made to order."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from camcloud.blobs import Blobs, LocalBlobs, MemoryBlobs
from camcloud.bus import Bus, LogBus, MemoryJournal, SqliteJournal
from camcloud.data_plane import DataPlane
from camcloud.store import data_tables, migrate
from camcloud.store.database import Database
from camcloud.vectors import CODE_SIZE, ExactVectors, FaissVectors, Vectors
from camsdk.vision.results import BIRTH, Embeddings, Event, FrameResult
from camsdk.wire import Crop, encode_batch
from support.frame_results import frame_result

DEVICE, FLEET, CAMERA, EPOCH = "cam-1", "park-a", "gate", 7


def code(seed: int) -> np.ndarray:
    """An appearance code, int8 (128,); different seeds look nothing alike."""
    values = np.random.default_rng(seed).normal(size=CODE_SIZE)
    return np.rint(values / np.linalg.norm(values) * 127).astype(np.int8)


def with_codes(result: FrameResult, codes: Mapping[int, np.ndarray]) -> FrameResult:
    """``result`` with a birth code for each of these track ids."""
    embeddings = Embeddings(
        track_id=np.array(list(codes), np.int64),
        codes=np.stack(list(codes.values())),
        reasons=np.full(len(codes), BIRTH, np.uint8),
    )
    return replace(result, embeddings=embeddings)


def with_events(result: FrameResult, *events: Event) -> FrameResult:
    """``result`` with these events."""
    return replace(result, events=events)


@dataclass
class Camera:
    """Makes the batches of one device's only camera, numbered as an outbox numbers them."""

    device_id: str = DEVICE
    fleet: str = FLEET
    camera_id: str = CAMERA
    epoch: int = EPOCH
    session: int = 1
    next_frame: int = 0
    next_batch: int = 1
    next_event: int = 1

    def frames(
        self, count: int = 4, *, event_count: int = 0, track_count: int = 2
    ) -> list[FrameResult]:
        """The next ``count`` frames; the first has ``event_count`` events."""
        first = self.next_frame
        self.next_frame += count
        return [
            frame_result(
                first + n, event_count=event_count if n == 0 else 0, track_count=track_count
            )
            for n in range(count)
        ]

    def pack(self, results: Sequence[FrameResult], crops: Sequence[Crop] = ()) -> bytes:
        """A payload with these frames."""
        payload = encode_batch(
            results,
            camera_id=self.camera_id,
            session=self.session,
            epoch=self.epoch,
            first_event_sequence=self.next_event,
            crops=crops,
        )
        self.next_event += sum(len(result.events) for result in results)
        return payload


async def publish(bus: Bus, camera: Camera, *payloads: bytes) -> None:
    """Has the bus take payloads as the camera's next batches; durable when it returns."""
    lane = bus.open_lane(camera.device_id, camera.fleet, camera.epoch)
    for payload in payloads:
        lane.publish(camera.next_batch, payload)
        camera.next_batch += 1
    while lane.acked < lane.taken:
        await lane.progress(lane.acked, 5)
    lane.close()


@asynccontextmanager
async def data_plane(
    folder: Path | None = None,
    *,
    bus: Bus | None = None,
    vectors: Vectors | None = None,
    blobs: Blobs | None = None,
) -> AsyncIterator[DataPlane]:
    """A started data plane: over a folder, as often as one likes over the same, or in memory."""
    if folder is None:
        database = Database(None)
        # A test shows that this and the revisions make the same.
        database.run(lambda connection: data_tables.metadata.create_all(connection))
    else:
        folder.mkdir(exist_ok=True)
        database = Database(folder / "store.db")
        migrate.upgrade(database)
    journal = MemoryJournal() if folder is None else SqliteJournal(folder / "bus.db")
    plane = DataPlane(
        database,
        bus or LogBus(journal),
        vectors or (ExactVectors() if folder is None else FaissVectors(folder / "vectors")),
        blobs or (MemoryBlobs() if folder is None else LocalBlobs(folder / "blobs")),
    )
    try:
        await plane.start()
        try:
            yield plane
        finally:
            await plane.stop()
    finally:
        database.close()
