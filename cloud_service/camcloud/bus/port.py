"""What a bus promises.

Invariants:
- A *lane* is one (device, epoch). Its batches are numbered 1, 2, 3, ...; the bus takes each number
  once and in order, refuses a gap, and recognises a repetition.
- A batch is acknowledged only when it is durable. Acknowledgements are cumulative per lane.
- Positions grow over all lanes. One consumer reads them in order and acknowledges cumulatively;
  what it has not acknowledged is delivered again after a restart.
- Drop rule: the bus drops nothing. When it is full it has no room, and devices keep their batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Delivery:
    """One batch on its way.

    Attributes:
        position: Place in the bus, from 1, growing.
        device_id: From the device's certificate.
        fleet: From the device's certificate.
        epoch: Life of the device's outbox.
        sequence: Number of the batch within (device, epoch).
        received_timestamp_s: When the gateway took it, seconds since the Unix epoch.
        payload: A serialized ``Batch``, as the device sent it.
    """

    position: int
    device_id: str
    fleet: str
    epoch: int
    sequence: int
    received_timestamp_s: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """What a lane has counted, over restarts.

    Attributes:
        sequence: Last batch that is durable.
        lost: Batches that the device's outbox had to drop before the bus saw them.
        duplicates: Batches that came again.
    """

    sequence: int = 0
    lost: int = 0
    duplicates: int = 0


class Publisher(Protocol):
    """The sending end of one lane; used by one stream at a time."""

    @property
    def acked(self) -> int:
        """Every batch up to this number is durable."""
        ...

    @property
    def taken(self) -> int:
        """Every batch up to this number has been taken, though perhaps not yet made durable."""
        ...

    def skip_to(self, next_sequence: int) -> int:
        """Accepts that the device no longer has the batches before ``next_sequence``.

        Returns:
            How many are lost; they are counted, durably, before the next acknowledgement.
        """
        ...

    def publish(self, sequence: int, payload: bytes) -> bool:
        """Takes a batch; durable later, see :meth:`progress`.

        Returns:
            Whether it was new; a repetition is counted and otherwise ignored.

        Raises:
            Conflict: A number is missing before it, or another stream has taken over the lane.
            ResourceExhausted: The bus has no room.
            Unavailable: The bus could not write; open the lane again and send from ``acked + 1``.
        """
        ...

    async def progress(self, beyond: int, timeout_s: float) -> int:
        """Waits until more than ``beyond`` is durable, or for ``timeout_s``; returns ``acked``.

        Raises:
            Conflict: Another stream has taken over the lane.
            Unavailable: The bus could not write.
        """
        ...

    def wake(self) -> None:
        """Has a waiting :meth:`progress` return at once."""
        ...

    def close(self) -> None:
        """Ends the use of the lane; what was taken still becomes durable."""
        ...


class Bus(Protocol):
    """See the module."""

    async def start(self) -> None:
        """Opens the bus on the running event loop."""
        ...

    async def stop(self) -> None:
        """Makes durable what was taken and closes."""
        ...

    async def failure(self) -> None:
        """Returns never, unless the bus stops working: then the error is raised."""
        ...

    def open_lane(self, device_id: str, fleet: str, epoch: int) -> Publisher:
        """The sending end of a lane; whoever held it before is refused from now on.

        Raises:
            ResourceExhausted: The device has begun too many epochs.
        """
        ...

    async def consume(self, after: int, limit: int) -> Sequence[Delivery]:
        """Up to ``limit`` deliveries after a position, in order; waits until there is one.

        Raises:
            Unavailable: The bus cannot be read now.
        """
        ...

    def ack(self, position: int) -> None:
        """Forgets every delivery up to ``position``: the consumer has stored it."""
        ...

    @property
    def depth(self) -> int:
        """Batches taken and not yet acknowledged by the consumer."""
        ...

    @property
    def room(self) -> int:
        """Further batches that fit."""
        ...

    def lanes(self) -> Mapping[tuple[str, int], LaneCounts]:
        """Counts by (device, epoch)."""
        ...

    async def restore(self, sequences: Mapping[tuple[str, int], int]) -> None:
        """Raises lanes to what the store already holds, for a bus whose file was lost."""
        ...
