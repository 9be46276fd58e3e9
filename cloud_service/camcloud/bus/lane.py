"""One lane of :class:`~camcloud.bus.log.LogBus`: what is durable, what is ahead, and who sends.

Touched on the event loop only.
"""

import asyncio
from typing import Protocol

from camcloud.bus.port import LaneCounts
from camsdk.errors import CamError, Conflict

Key = tuple[str, int]
"""(device, epoch)."""


class Intake(Protocol):
    """The bus, as its lanes see it."""

    def append(self, key: Key, fleet: str, sequence: int, payload: bytes) -> None:
        """Takes a batch for the next group.

        Raises:
            ResourceExhausted: There is no room.
        """
        ...

    def mark(self, key: Key) -> None:
        """Has a lane's counts written with the next group."""
        ...


class Lane:
    """One (device, epoch).

    Attributes:
        durable: What the journal holds.
        taken, lost, duplicates: The same, ahead of it by what the next groups will write.
        holder: Who sends now, if anybody.
    """

    def __init__(self, durable: LaneCounts) -> None:
        self.durable = durable
        self.holder: LanePublisher | None = None
        self.take_back()

    def take_back(self) -> None:
        """Forgets what is not durable."""
        self.taken = self.durable.sequence
        self.lost = self.durable.lost
        self.duplicates = self.durable.duplicates

    def counts(self) -> LaneCounts:
        """What the next group is to write."""
        return LaneCounts(self.taken, self.lost, self.duplicates)


class LanePublisher:
    """The :class:`~camcloud.bus.port.Publisher` of one stream."""

    def __init__(self, intake: Intake, key: Key, fleet: str, lane: Lane) -> None:
        self._intake = intake
        self._key = key
        self._fleet = fleet
        self._lane = lane
        self._moved = asyncio.Event()
        self._failure: CamError | None = None

    @property
    def acked(self) -> int:
        """See :attr:`Publisher.acked`."""
        return self._lane.durable.sequence

    @property
    def taken(self) -> int:
        """See :attr:`Publisher.taken`."""
        return self._lane.taken

    def skip_to(self, next_sequence: int) -> int:
        """See :meth:`Publisher.skip_to`."""
        self._check()
        lost = max(0, next_sequence - 1 - self._lane.taken)
        if lost:
            self._lane.lost += lost
            self._lane.taken += lost
            self._intake.mark(self._key)
        return lost

    def publish(self, sequence: int, payload: bytes) -> bool:
        """See :meth:`Publisher.publish`."""
        self._check()
        lane = self._lane
        if sequence <= lane.taken:
            lane.duplicates += 1
            self._intake.mark(self._key)
            return False
        if sequence != lane.taken + 1:
            raise Conflict(
                f"batch {sequence} came after batch {lane.taken}",
                f"send from batch {lane.durable.sequence + 1}",
            )
        self._intake.append(self._key, self._fleet, sequence, payload)
        lane.taken = sequence
        return True

    async def progress(self, beyond: int, timeout_s: float) -> int:
        """See :meth:`Publisher.progress`."""
        if self._lane.durable.sequence <= beyond and self._failure is None:
            self._moved.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._moved.wait()
            except TimeoutError:
                return self._lane.durable.sequence
        self._check()
        return self._lane.durable.sequence

    def close(self) -> None:
        """See :meth:`Publisher.close`."""
        if self._lane.holder is self:
            self._lane.holder = None
        self.fail(Conflict("the stream has ended"))

    def wake(self) -> None:
        """See :meth:`Publisher.wake`."""
        self._moved.set()

    def fail(self, error: CamError) -> None:
        """Has every use from now on raise ``error``; the first one stays."""
        self._failure = self._failure or error
        self._moved.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
