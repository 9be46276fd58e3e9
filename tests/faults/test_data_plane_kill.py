"""Kill -9 of the cloud's data plane again and again: every event once, in order, none missing.

Two devices ship without pause, a subscriber follows and resumes by its cursor; the process dies at
random moments. What the devices were told is durable must be stored, once; what the subscriber
gets must be what is stored.
"""

import asyncio
import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest

from camcloud.store import events, ingest
from camcloud.store.database import Database
from camcloud.store.events import EventQuery
from camcloud.vectors import FaissVectors
from camproto.v1 import api_pb2, api_pb2_grpc, device_pb2, device_pb2_grpc
from support.data_plane import Camera, code, data_plane, with_codes

KILLS = 20
SEED = 20


BROKEN = (
    grpc.aio.AioRpcError,
    grpc.aio.UsageError,
    asyncio.InvalidStateError,
    asyncio.CancelledError,
    TimeoutError,
)
"""What a call may raise when its peer dies or its channel is closed under it."""

HELLO_TIMEOUT_S = 5.0
"""A call that is made while its channel is being closed never starts, and says nothing."""


def check_not_cancelled() -> None:
    """A closed channel cancels its calls; the task itself must still end when it is cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Cloud:
    """The process, and the channel to its present life."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        tests = Path(__file__).parents[1]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(tests / "support" / "data_plane_server.py"),
            str(self._folder),
            env=os.environ | {"PYTHONPATH": str(tests)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{int(line)}")

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        channel, self.channel = self.channel, None
        assert channel is not None
        await channel.close()

    async def present(self) -> grpc.aio.Channel:
        while self.channel is None:
            await asyncio.sleep(0.01)
        return self.channel


@dataclass
class Device:
    """An outbox in memory and the stream that empties it."""

    camera: Camera
    outbox: dict[int, bytes] = field(default_factory=dict)
    acked: int = 0
    is_closing: bool = False

    def make(self) -> bytes:
        results = self.camera.frames(2, event_count=1)
        if self.camera.next_batch % 5 == 0:
            results[0] = with_codes(results[0], {1: code(self.camera.next_batch)})
        payload = self.camera.pack(results)
        self.outbox[self.camera.next_batch] = payload
        self.camera.next_batch += 1
        return payload

    async def run(self, cloud: Cloud) -> None:
        while not (self.is_closing and not self.outbox):
            channel = await cloud.present()
            try:
                await self._stream(device_pb2_grpc.DeviceGatewayStub(channel))
            except BROKEN:
                check_not_cancelled()
                await asyncio.sleep(0.02)

    async def _stream(self, stub: device_pb2_grpc.DeviceGatewayStub) -> None:
        call = stub.Ingest(metadata=(("device", self.camera.device_id),))
        try:
            hello = device_pb2.Hello(epoch=self.camera.epoch, next_sequence=self.acked + 1)
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await call.write(device_pb2.IngestRequest(hello=hello))
            sequence, granted = self.acked + 1, 0
            while not (self.is_closing and not self.outbox):
                answer = await call.read()
                if answer is grpc.aio.EOF:
                    return
                # A promise once given holds for ever, over every kill.
                assert answer.acked_sequence >= self.acked
                self.acked = answer.acked_sequence
                self.outbox = {n: p for n, p in self.outbox.items() if n > self.acked}
                sequence = max(sequence, self.acked + 1)
                granted += answer.credits
                while granted and (sequence in self.outbox or not self.is_closing):
                    payload = self.outbox.get(sequence) or self.make()
                    batch = device_pb2.PackedBatch(sequence=sequence, payload=payload)
                    await call.write(device_pb2.IngestRequest(batch=batch))
                    sequence, granted = sequence + 1, granted - 1
        finally:
            call.cancel()


@dataclass
class Subscriber:
    """Follows all events and resumes by cursor."""

    got: list[tuple[int, str]] = field(default_factory=list)

    async def run(self, cloud: Cloud) -> None:
        while True:
            channel = await cloud.present()
            after = self.got[-1][0] if self.got else 0
            try:
                request = api_pb2.TailEventsRequest(after_cursor=after)
                async for record in api_pb2_grpc.CloudApiStub(channel).TailEvents(request):
                    self.got.append((record.cursor, record.event_id))
            except BROKEN:
                check_not_cancelled()
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_every_event_is_stored_once_over_twenty_kills(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    cloud = Cloud(tmp_path)
    await cloud.start()
    devices = [Device(Camera(f"cam-{n}", epoch=n)) for n in (1, 2)]
    subscriber = Subscriber()
    shipping = [asyncio.create_task(device.run(cloud)) for device in devices]
    following = asyncio.create_task(subscriber.run(cloud))
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        await cloud.kill()
        await cloud.start()
    for device in devices:
        device.is_closing = True
    async with asyncio.timeout(60):
        await asyncio.gather(*shipping)
        expected = {d.camera.device_id: d.camera.next_event - 1 for d in devices}
        while len(subscriber.got) < sum(expected.values()):
            await asyncio.sleep(0.05)
    following.cancel()
    await cloud.kill()

    stored = _all_events(tmp_path)
    for device in devices:
        name, count = device.camera.device_id, expected[device.camera.device_id]
        mine = [one.shipped.sequence for one in stored if one.device_id == name]
        assert mine == list(range(1, count + 1))
        assert count > KILLS  # every life has done some work
    assert subscriber.got == [(one.cursor, one.event_id) for one in stored]
    await _check_counts(tmp_path, devices)


def _all_events(folder: Path) -> list[events.StoredEvent]:
    database = Database(folder / "store.db")
    found: list[events.StoredEvent] = []
    while True:
        cursor = found[-1].cursor if found else 0
        page = database.run(lambda c, after=cursor: events.page(c, EventQuery(), cursor=after))
        if not page:
            break
        found += page
    database.close()
    return found


async def _check_counts(folder: Path, devices: list[Device]) -> None:
    batches = sum(device.camera.next_batch - 1 for device in devices)
    codes = sum((device.camera.next_batch - 1) // 5 for device in devices)
    async with data_plane(folder) as plane:
        stats = await plane.database.arun(ingest.read_stats)
        counts = await plane.counts()
        assert (stats.batch_count, stats.frame_count) == (batches, 2 * batches)
        assert (stats.embedding_count, len(plane.vectors)) == (codes, codes)
        assert (counts.lost_batch_count, counts.lost_event_count) == (0, 0)
        assert counts.rejected_batch_count == 0
    assert len(FaissVectors(folder / "vectors")) == codes
