"""The asynchronous client does what the other one does, and can be cancelled."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from camproto.v1 import api_pb2
from camsdk.client import AsyncClient, RolloutState, RolloutStatus
from camsdk.client.aio import AsyncEventStream
from camsdk.errors import DeadlineExceeded, NotFound, Unavailable
from support.fake_api import FakeCloud


@pytest.fixture
async def aio(cloud: FakeCloud) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cloud.endpoint, credentials=cloud.credentials) as client:
        yield client


async def _take(stream: AsyncEventStream, count: int) -> list[int]:
    seen: list[int] = []
    async for event in stream:
        seen.append(event.sequence)
        if len(seen) == count:
            break
    return seen


async def test_calls_and_errors(cloud: FakeCloud, aio: AsyncClient) -> None:
    fleet = await aio.create_fleet("park-a")
    assert await aio.list_fleets() == (fleet,)
    assert (await aio.push_model(b"CAM")).reference == "detector:1"
    with pytest.raises(NotFound) as caught:
        await aio.get_device("nobody")
    assert caught.value.hint == "list them"
    cloud.fail("ListFleets", *[grpc.StatusCode.UNAVAILABLE] * 2)
    assert await aio.list_fleets() == (fleet,)
    cloud.fail("CreateFleet", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable):
        await aio.create_fleet("park-b")
    assert cloud.state.calls["CreateFleet"] == 2


async def test_an_events_crop(cloud: FakeCloud, aio: AsyncClient) -> None:
    cloud.state.crops["cam-1/7/1"] = b"\xff\xd8 picture"
    assert await aio.event_crop("cam-1/7/1") == b"\xff\xd8 picture"
    with pytest.raises(NotFound, match="no crop"):
        await aio.event_crop("cam-1/7/2")


async def test_deadline(cloud: FakeCloud) -> None:
    cloud.state.delays_s["GetStatus"] = 0.5
    credentials = cloud.credentials
    async with AsyncClient(cloud.endpoint, credentials=credentials, timeout_s=0.2) as client:
        with pytest.raises(DeadlineExceeded):
            await client.status()
    cloud.state.delays_s.clear()


async def test_no_gap_and_no_duplicate_over_breaks(cloud: FakeCloud, aio: AsyncClient) -> None:
    total = 120
    stream = await aio.events().start()

    async def produce() -> None:
        for number in range(total):
            cloud.add_event()
            if number % 30 == 20:
                cloud.break_streams()
            if number == 60:
                await asyncio.to_thread(cloud.stop)
                await asyncio.to_thread(cloud.start)
            await asyncio.sleep(0.001)

    producer = asyncio.create_task(produce())
    assert await _take(stream, total) == list(range(1, total + 1))
    assert stream.cursor == 10 * total
    await producer
    await stream.aclose()


async def test_a_stream_starts_at_its_first_step(cloud: FakeCloud, aio: AsyncClient) -> None:
    cloud.add_event()
    stream = aio.events(after_cursor=0, timeout_s=5)
    assert await _take(stream, 1) == [1]
    await stream.aclose()
    assert [event async for event in aio.events(timeout_s=0.2)] == []


async def test_a_waiting_stream_can_be_cancelled(cloud: FakeCloud, aio: AsyncClient) -> None:
    stream = await aio.events().start()
    task = asyncio.create_task(_take(stream, 1))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_the_client_ends_a_waiting_stream(cloud: FakeCloud) -> None:
    client = AsyncClient(cloud.endpoint, credentials=cloud.credentials)
    stream = await client.events().start()
    task = asyncio.create_task(_take(stream, 1))
    await asyncio.sleep(0.1)
    await client.close()
    assert await asyncio.wait_for(task, 5) == []


async def test_rollouts(cloud: FakeCloud, aio: AsyncClient) -> None:
    await aio.create_fleet("park-a")
    cloud.add_device("cam-1")
    rollout = await aio.deploy(fleet="park-a", needs_approval=True)
    with pytest.raises(DeadlineExceeded):
        await rollout.wait(timeout_s=0.2)
    assert (await rollout.approve()).state is RolloutState.RUNNING
    seen: list[RolloutStatus] = []

    def progress(status: RolloutStatus) -> None:
        seen.append(status)
        if len(seen) == 1:
            cloud.break_streams()
            cloud.change_rollout(
                rollout.rollout_id,
                lambda row: setattr(row, "state", api_pb2.ROLLOUT_STATE_COMPLETED),
            )

    final = await rollout.wait(progress)
    assert final.state is RolloutState.COMPLETED
    assert [status.state for status in seen] == [RolloutState.RUNNING, RolloutState.COMPLETED]
    assert (await aio.rollout(rollout.rollout_id)).status == await rollout.refresh()
