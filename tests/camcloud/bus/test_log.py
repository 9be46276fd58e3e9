"""The bus: one suite over the SQLite journal and the one in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from camcloud.bus import BusLimits, LaneCounts, LogBus, MemoryJournal, Publisher, SqliteJournal
from camcloud.bus.journals import Group, Journal
from camsdk.errors import Conflict, DataCorrupted, ResourceExhausted, Unavailable

DEVICE, FLEET, EPOCH = "cam-1", "park-a", 7
LANE = (DEVICE, EPOCH)


@asynccontextmanager
async def running(journal: Journal, limits: BusLimits | None = None) -> AsyncIterator[LogBus]:
    bus = LogBus(journal, limits)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


@pytest.fixture(params=["sqlite", "memory"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Journal]:
    """Opens the same journal again and again, as restarts of the cloud do."""
    if request.param == "sqlite":
        return lambda: SqliteJournal(tmp_path / "bus.db")
    journal = MemoryJournal()
    return lambda: journal


async def send(publisher: Publisher, *sequences: int) -> int:
    for sequence in sequences:
        publisher.publish(sequence, b"batch %d" % sequence)
    while publisher.acked < sequences[-1]:
        await publisher.progress(publisher.acked, 5)
    return publisher.acked


async def test_batches_arrive_in_order_and_once(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        assert await send(bus.open_lane(DEVICE, FLEET, EPOCH), 1, 2, 3) == 3
        deliveries = await bus.consume(0, 10)
    assert [d.sequence for d in deliveries] == [1, 2, 3]
    assert [d.position for d in deliveries] == [1, 2, 3]
    assert deliveries[0].payload == b"batch 1"
    assert (deliveries[0].device_id, deliveries[0].fleet, deliveries[0].epoch) == (
        DEVICE,
        FLEET,
        EPOCH,
    )


async def test_nothing_is_acknowledged_before_it_is_written(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        publisher.publish(1, b"x")
        assert (publisher.taken, publisher.acked) == (1, 0)
        assert await publisher.progress(0, 5) == 1


async def test_progress_returns_at_its_timeout(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        assert await bus.open_lane(DEVICE, FLEET, EPOCH).progress(0, 0.01) == 0


async def test_a_repetition_is_counted_and_ignored(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        await send(publisher, 1, 2)
        assert not publisher.publish(2, b"again")
        assert publisher.publish(3, b"new")
        await publisher.progress(2, 5)
        assert [d.sequence for d in await bus.consume(0, 10)] == [1, 2, 3]
        assert bus.lanes()[LANE] == LaneCounts(sequence=3, duplicates=1)


async def test_a_gap_is_refused(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        await send(publisher, 1)
        with pytest.raises(Conflict, match="send from batch 2"):
            publisher.publish(3, b"x")


async def test_a_stated_loss_is_counted(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        await send(publisher, 1)
        assert publisher.skip_to(5) == 3
        assert publisher.skip_to(2) == 0
        assert await publisher.progress(1, 5) == 4
        await send(publisher, 5)
        assert bus.lanes()[LANE] == LaneCounts(sequence=5, lost=3)


async def test_a_restart_goes_on_where_it_was(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        publisher.skip_to(2)
        await send(publisher, 2, 3, 4)
        bus.ack((await bus.consume(0, 1))[-1].position)
    async with running(reopen()) as bus:
        assert bus.depth == 2
        assert bus.lanes()[LANE] == LaneCounts(sequence=4, lost=1)
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        assert not publisher.publish(4, b"again")
        await send(publisher, 5)
        assert [d.sequence for d in await bus.consume(0, 10)] == [3, 4, 5]


async def test_positions_are_never_given_out_again(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        await send(bus.open_lane(DEVICE, FLEET, EPOCH), 1, 2)
        bus.ack(2)
    async with running(reopen()) as bus:
        assert bus.depth == 0
        waiting = asyncio.create_task(bus.consume(0, 10))
        await asyncio.sleep(0.02)
        assert not waiting.done()  # an emptied log is waited on, not spun over
        await send(bus.open_lane(DEVICE, FLEET, EPOCH), 3)
        assert [(d.position, d.sequence) for d in await waiting] == [(3, 3)]


async def test_what_is_acknowledged_is_forgotten_even_when_idle(
    reopen: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camcloud.bus.log._TRIM_DELAY_S", 0.01)
    journal = reopen()
    async with running(journal) as bus:
        await send(bus.open_lane(DEVICE, FLEET, EPOCH), 1, 2)
        bus.ack(2)
        await asyncio.sleep(0.1)
        assert journal.read(0, 10) == []


async def test_a_full_bus_refuses_until_the_consumer_has_caught_up(
    reopen: Callable[[], Journal],
) -> None:
    async with running(reopen(), BusLimits(batches=3)) as bus:
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        await send(publisher, 1, 2, 3)
        assert (bus.depth, bus.room) == (3, 0)
        with pytest.raises(ResourceExhausted, match="credits"):
            publisher.publish(4, b"x")
        bus.ack(2)
        assert bus.room == 2
        assert await send(publisher, 4) == 4


async def test_a_bus_full_of_bytes_has_no_room(reopen: Callable[[], Journal]) -> None:
    async with running(reopen(), BusLimits(size_bytes=10)) as bus:
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        publisher.publish(1, b"0123456789")
        assert bus.room == 0
        await publisher.progress(0, 5)
        bus.ack(1)
        assert bus.room > 0


async def test_a_newer_stream_takes_the_lane_over(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        old = bus.open_lane(DEVICE, FLEET, EPOCH)
        new = bus.open_lane(DEVICE, FLEET, EPOCH)
        with pytest.raises(Conflict, match="taken over"):
            old.publish(1, b"x")
        with pytest.raises(Conflict, match="taken over"):
            await old.progress(0, 5)
        old.close()
        assert await send(new, 1) == 1


async def test_a_device_cannot_begin_epochs_without_end(reopen: Callable[[], Journal]) -> None:
    async with running(reopen(), BusLimits(lanes_per_device=3)) as bus:
        for epoch in (1, 2, 3, 1):
            bus.open_lane(DEVICE, FLEET, epoch)
        with pytest.raises(ResourceExhausted, match="3 epochs"):
            bus.open_lane(DEVICE, FLEET, 4)
        assert await send(bus.open_lane("cam-2", FLEET, 4), 1) == 1


async def test_lanes_do_not_disturb_each_other(reopen: Callable[[], Journal]) -> None:
    async with running(reopen()) as bus:
        lanes = [bus.open_lane(f"cam-{n}", FLEET, EPOCH) for n in range(20)]
        await asyncio.gather(*(send(lane, *range(1, 11)) for lane in lanes))
        deliveries = await bus.consume(0, 1000)
    for n in range(20):
        mine = [d.sequence for d in deliveries if d.device_id == f"cam-{n}"]
        assert mine == list(range(1, 11))


async def test_a_lost_bus_is_raised_to_what_the_store_holds(
    reopen: Callable[[], Journal],
) -> None:
    async with running(reopen()) as bus:
        await send(bus.open_lane(DEVICE, FLEET, EPOCH), 1, 2, 3)
        await bus.restore({LANE: 2, ("cam-9", 1): 40})
        assert bus.lanes()[LANE].sequence == 3
    async with running(reopen()) as bus:
        publisher = bus.open_lane("cam-9", FLEET, 1)
        assert publisher.acked == 40
        assert await send(publisher, 41) == 41


class FailingJournal(MemoryJournal):
    """A disk that can be told to be full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.group_sizes: list[int] = []

    def write(self, group: Group) -> None:
        if self.is_full:
            raise Unavailable("the bus cannot be written: disk full")
        self.group_sizes.append(len(group.entries))
        super().write(group)


async def test_a_failed_write_is_never_acknowledged_and_heals() -> None:
    journal = FailingJournal()
    async with running(journal) as bus:
        publisher = bus.open_lane(DEVICE, FLEET, EPOCH)
        await send(publisher, 1)
        journal.is_full = True
        publisher.skip_to(3)
        publisher.publish(3, b"x")
        with pytest.raises(Unavailable, match="disk full"):
            await publisher.progress(1, 5)
        with pytest.raises(Unavailable, match="disk full"):
            publisher.publish(4, b"x")
        assert (bus.depth, bus.lanes()[LANE]) == (1, LaneCounts(sequence=1))
        journal.is_full = False
        again = bus.open_lane(DEVICE, FLEET, EPOCH)
        assert (again.taken, again.skip_to(3)) == (1, 1)
        assert await send(again, 3) == 3
        assert bus.lanes()[LANE] == LaneCounts(sequence=3, lost=1)
        assert [d.sequence for d in await bus.consume(0, 10)] == [1, 3]


class BrokenJournal(MemoryJournal):
    """Fails in a way that no journal may."""

    def write(self, group: Group) -> None:
        raise ZeroDivisionError


async def test_a_writer_that_ends_is_noticed() -> None:
    async with running(BrokenJournal()) as bus:
        failing = asyncio.create_task(bus.failure())
        bus.open_lane(DEVICE, FLEET, EPOCH).publish(1, b"x")
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(failing, 5)


async def test_batches_that_arrive_together_share_a_transaction() -> None:
    journal = FailingJournal()
    async with running(journal) as bus:
        lanes = [bus.open_lane(f"cam-{n}", FLEET, EPOCH) for n in range(50)]
        await asyncio.gather(*(send(lane, 1, 2) for lane in lanes))
    assert sum(journal.group_sizes) == 100
    assert len([size for size in journal.group_sizes if size]) <= 3


async def test_a_damaged_file_is_named_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "bus.db").write_bytes(b"no database at all" * 300)
    with pytest.raises(DataCorrupted, match="is damaged"):
        SqliteJournal(tmp_path / "bus.db").load()


async def test_a_file_of_another_release_is_refused(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "bus.db")
    journal.load()
    journal._open().execute("PRAGMA user_version=99")
    journal.close()
    with pytest.raises(DataCorrupted, match="layout 99"):
        SqliteJournal(tmp_path / "bus.db").load()


async def test_a_read_stops_at_its_byte_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camcloud.bus.journals.READ_BYTES", 20)
    async with running(SqliteJournal(tmp_path / "bus.db")) as bus:
        await send(bus.open_lane(DEVICE, FLEET, EPOCH), *range(1, 10))
        assert len(await bus.consume(0, 10)) == 3
