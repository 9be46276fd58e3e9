"""``LogBus``: the bus of one process, over a journal.

Group commit without added latency: while one transaction is being synced, whatever arrives gathers
for the next. A lone batch waits for nobody; under load thousands share one sync.

All state is touched on the event loop only; the journal is called in one thread.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from camcloud.bus.journals import Group, Journal
from camcloud.bus.lane import Key, Lane, LanePublisher
from camcloud.bus.port import Delivery, LaneCounts
from camsdk.errors import Conflict, ResourceExhausted, Unavailable

_LOG = logging.getLogger(__name__)

_TRIM_DELAY_S: Final = 0.5
"""How long acknowledged deliveries may lie in an idle log: they cost space, not correctness."""


@dataclass(frozen=True)
class BusLimits:
    """How much may wait for the analysis.

    Attributes:
        batches: A camera at its real pace sends five a second: an hour of one, a minute of sixty.
        size_bytes: Bounds the file when batches carry crops.
        unsynced_bytes: Bounds the memory when the disk is slow: once for the group that is being
            written and once for the one that gathers meanwhile.
        lanes_per_device: A device begins a new epoch when it has lost its outbox: rarely.
    """

    batches: int = 20_000
    size_bytes: int = 512 << 20
    unsynced_bytes: int = 64 << 20
    lanes_per_device: int = 1000


class LogBus:
    """See the module and :class:`~camcloud.bus.port.Bus`.

    Args:
        journal: Where the log is kept; the bus opens and closes it.
        limits: How much may wait.
    """

    def __init__(self, journal: Journal, limits: BusLimits | None = None) -> None:
        self._journal = journal
        self._limits = limits or BusLimits()
        self._lanes: dict[Key, Lane] = {}
        self._pending: list[Delivery] = []
        self._pending_bytes = 0
        self._changed: set[Key] = set()
        self._backlog: deque[tuple[int, int]] = deque()
        self._backlog_bytes = 0
        self._next_position = 1
        self._durable_position = 0
        self._acked_position = 0
        self._dropped_position = 0
        self._is_stopping = False
        self._trim: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bus")
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See :meth:`Bus.start`."""
        loop = asyncio.get_running_loop()
        state = await loop.run_in_executor(self._thread, self._journal.load)
        self._lanes = {key: Lane(counts) for key, counts in state.lanes.items()}
        self._backlog = deque(state.backlog)
        self._backlog_bytes = sum(size for _, size in state.backlog)
        self._durable_position = state.last_position
        first = state.backlog[0][0] if state.backlog else state.last_position + 1
        self._acked_position = self._dropped_position = first - 1
        self._next_position = state.last_position + 1
        self._writer = asyncio.create_task(self._write_groups(), name="bus writer")
        if self._backlog:
            _LOG.info("bus opened with %d batches to analyse", len(self._backlog))

    async def stop(self) -> None:
        """See :meth:`Bus.stop`."""
        if self._writer is not None:
            self._is_stopping = True
            self._wake.set()
            await asyncio.wait({self._writer})  # what ended it early is failure()'s to say
        if self._trim is not None:
            self._trim.cancel()
        for lane in self._lanes.values():
            if lane.holder is not None:
                lane.holder.fail(Unavailable("the bus is closed"))
        await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.close)
        self._thread.shutdown()

    async def failure(self) -> None:
        """See :meth:`Bus.failure`."""
        assert self._writer is not None, "the bus is started"
        await asyncio.wait({self._writer})
        self._writer.result()

    def open_lane(self, device_id: str, fleet: str, epoch: int) -> LanePublisher:
        """See :meth:`Bus.open_lane`."""
        key = (device_id, epoch)
        if key not in self._lanes:
            self._check_new_lane(device_id)
        lane = self._lanes.setdefault(key, Lane(LaneCounts()))
        if lane.holder is not None:
            lane.holder.fail(Conflict("a newer stream of this device has taken over"))
        lane.holder = LanePublisher(self, key, fleet, lane)
        return lane.holder

    def _check_new_lane(self, device_id: str) -> None:
        count = sum(name == device_id for name, _ in self._lanes)
        if count >= self._limits.lanes_per_device:
            raise ResourceExhausted(
                f"{device_id} has begun {count} epochs", "find out why it loses its outbox"
            )

    async def consume(self, after: int, limit: int) -> Sequence[Delivery]:
        """See :meth:`Bus.consume`. One consumer at a time."""
        while self._durable_position <= max(after, self._acked_position):
            self._arrived.clear()
            await self._arrived.wait()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._journal.read, after, limit)

    def ack(self, position: int) -> None:
        """See :meth:`Bus.ack`.

        Written with the next group: forgetting it in a crash only means one more delivery.
        """
        self._acked_position = max(self._acked_position, min(position, self._durable_position))
        while self._backlog and self._backlog[0][0] <= self._acked_position:
            self._backlog_bytes -= self._backlog.popleft()[1]
        if self._trim is None:
            loop = asyncio.get_running_loop()
            self._trim = loop.call_later(_TRIM_DELAY_S, self._wake.set)

    @property
    def depth(self) -> int:
        """See :attr:`Bus.depth`."""
        return len(self._backlog)

    @property
    def room(self) -> int:
        """See :attr:`Bus.room`."""
        is_slow = self._pending_bytes >= self._limits.unsynced_bytes
        if is_slow or self._backlog_bytes >= self._limits.size_bytes:
            return 0
        return max(0, self._limits.batches - len(self._backlog))

    def lanes(self) -> Mapping[Key, LaneCounts]:
        """See :meth:`Bus.lanes`."""
        return {key: lane.durable for key, lane in self._lanes.items()}

    async def restore(self, sequences: Mapping[Key, int]) -> None:
        """See :meth:`Bus.restore`. To be called before any lane is open."""
        behind: dict[Key, LaneCounts] = {}
        for key, sequence in sequences.items():
            lane = self._lanes.setdefault(key, Lane(LaneCounts()))
            if lane.taken < sequence:
                lane.durable = replace(lane.durable, sequence=sequence)
                lane.take_back()
                behind[key] = lane.durable
        if behind:
            _LOG.warning("the bus was behind the store in %d lanes", len(behind))
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._journal.write, Group(lanes=behind))

    def append(self, key: Key, fleet: str, sequence: int, payload: bytes) -> None:
        """Takes a batch for the next group; for this bus' publishers."""
        if not self.room:
            raise ResourceExhausted("the bus is full", "wait for credits")
        delivery = Delivery(
            self._next_position, key[0], fleet, key[1], sequence, time.time(), payload
        )
        self._next_position += 1
        self._pending.append(delivery)
        self._pending_bytes += len(payload)
        self._backlog.append((delivery.position, len(payload)))
        self._backlog_bytes += len(payload)
        self.mark(key)

    def mark(self, key: Key) -> None:
        """Has a lane's counts written with the next group; for this bus' publishers."""
        self._changed.add(key)
        self._wake.set()

    async def _write_groups(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            group = self._take_group()
            try:
                await loop.run_in_executor(self._thread, self._journal.write, group)
            except Unavailable as error:
                self._give_up(error)
            else:
                self._settle(group)
            if self._is_stopping and not self._pending:
                return

    def _take_group(self) -> Group:
        entries, self._pending, self._pending_bytes = self._pending, [], 0
        lanes = {key: self._lanes[key].counts() for key in self._changed}
        self._changed = set()
        drop_until = self._acked_position if self._acked_position > self._dropped_position else 0
        if self._trim is not None:
            self._trim.cancel()
            self._trim = None
        return Group(entries, lanes, drop_until)

    def _settle(self, group: Group) -> None:
        self._dropped_position = max(self._dropped_position, group.drop_until)
        if group.entries:
            self._durable_position = group.entries[-1].position
            self._arrived.set()
        for key, counts in group.lanes.items():
            lane = self._lanes[key]
            lane.durable = counts
            if lane.holder is not None:
                lane.holder.wake()

    def _give_up(self, error: Unavailable) -> None:
        """Nothing of the group is durable: take back all that was taken, and say so."""
        _LOG.error("%s; devices will send again", error)
        self._pending, self._pending_bytes = [], 0
        self._changed = set()
        # Positions are not reused: after a failed sync it is unknown what the file holds.
        while self._backlog and self._backlog[-1][0] > self._durable_position:
            self._backlog_bytes -= self._backlog.pop()[1]
        for lane in self._lanes.values():
            if lane.taken != lane.durable.sequence:
                lane.take_back()
                if lane.holder is not None:
                    lane.holder.fail(error)
