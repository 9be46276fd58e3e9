"""The gateway: devices' streams of batches into the bus, unparsed.

A stream starts with a Hello; the answer says what is already durable and gives credits. Each
further answer acknowledges cumulatively and adds credits to those given before. Rules:

- The device's name comes from its certificate. Epochs and numbers come from the device, and concern
  nobody but the device itself.
- A batch is acknowledged once the bus holds it durably; acknowledgements of one stream are joined.
- A stream has at most ``window`` batches under way. A bus without room gives no credits, so
  batches wait in the devices' outboxes, where their drop rule is stated.
- A gap, a batch too many or too large, or a message out of place ends the stream; the device
  resumes behind the last acknowledgement.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from typing_extensions import override

from camcloud.api.auth import DeviceIdentity, device_of
from camcloud.api.errors import Context
from camcloud.bus import Bus, Publisher
from camproto.v1 import device_pb2
from camproto.v1.device_pb2_grpc import DeviceGatewayServicer
from camsdk.errors import InvalidInput, ResourceExhausted
from camsdk.wire import MAX_PAYLOAD_BYTES

_LOG = logging.getLogger(__name__)

_MAX_INTEGER: Final = 2**63 - 1
_IDLE_S: Final = 60.0

Identify: TypeAlias = "Callable[[Any], DeviceIdentity | Awaitable[DeviceIdentity]]"
"""Who is on the other end of a call; raises ``Unauthenticated``."""


@dataclass(frozen=True)
class GatewayLimits:
    """What one stream may do.

    Attributes:
        window: Batches under way; 64 of 32 frames keep a 100 ms link busy with 20,000 frames/s.
        batch_bytes: Largest payload.
        ack_delay_s: Acknowledgements that come closer together are joined; the device only keeps
            its copy that much longer.
        starved_poll_s: How often a stream without credits looks for room.
    """

    window: int = 64
    batch_bytes: int = MAX_PAYLOAD_BYTES
    ack_delay_s: float = 0.01
    starved_poll_s: float = 0.05


class IngestServicer(DeviceGatewayServicer):
    """``DeviceGateway.Ingest``; inherited by the servicer that has the other methods.

    Args:
        bus: Where batches go.
        identify: Names the device of a call.
        limits: What one stream may do.
    """

    def __init__(
        self, bus: Bus, identify: Identify = device_of, limits: GatewayLimits | None = None
    ) -> None:
        self._bus = bus
        self._identify = identify
        self._limits = limits or GatewayLimits()
        self._stream_count = 0

    @property
    def stream_count(self) -> int:
        """Streams that are open."""
        return self._stream_count

    @override
    async def Ingest(
        self, request_iterator: AsyncIterator[device_pb2.IngestRequest], context: Context
    ) -> AsyncIterator[device_pb2.IngestResponse]:
        """Takes one device's batches until it ends the stream.

        Raises:
            CamError: The stream breaks a rule, or the bus cannot write; mapped by the server.
        """
        identity = self._identify(context)
        if inspect.isawaitable(identity):
            identity = await identity
        requests = aiter(request_iterator)
        hello = await _read_hello(requests)
        publisher = self._bus.open_lane(identity.device_id, identity.fleet, hello.epoch)
        self._stream_count += 1
        try:
            lost = publisher.skip_to(hello.next_sequence)
            if lost:
                _LOG.warning("%s had to drop %d batches", identity.device_id, lost)
            stream = _Stream(requests, publisher, self._bus, self._limits, self._share)
            async with aclosing(stream.answers()) as answers:
                async for answer in answers:
                    yield answer
        finally:
            self._stream_count -= 1
            publisher.close()

    def _share(self) -> int:
        """Batches that one stream may have under way now."""
        room = self._bus.room
        return min(self._limits.window, room, max(1, room // max(1, self._stream_count)))


class _Stream:
    """One stream: a task reads and publishes, answers acknowledge and give credits."""

    def __init__(
        self,
        requests: AsyncIterator[device_pb2.IngestRequest],
        publisher: Publisher,
        bus: Bus,
        limits: GatewayLimits,
        share: Callable[[], int],
    ) -> None:
        self._requests = requests
        self._publisher = publisher
        self._bus = bus
        self._limits = limits
        self._share = share
        self._credits = 0

    async def answers(self) -> AsyncGenerator[device_pb2.IngestResponse]:
        """Acknowledgements and credits, until the device has ended and all is durable."""
        reader = asyncio.create_task(self._read_batches())
        reader.add_done_callback(lambda _: self._publisher.wake())
        acked = -1
        try:
            while True:
                durable = self._publisher.acked
                under_way = self._credits + self._publisher.taken - durable
                more = max(0, self._share() - under_way)
                if durable > acked or more:
                    acked = durable
                    self._credits += more
                    yield device_pb2.IngestResponse(acked_sequence=acked, credits=more)
                if reader.done():
                    reader.result()  # raises what the device did wrong
                    if self._publisher.taken == acked:
                        return
                await self._wait_for_progress(acked, reader)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read_batches(self) -> None:
        async for request in self._requests:
            if request.WhichOneof("kind") != "batch":
                raise InvalidInput("a stream has one Hello, then batches")
            batch = request.batch
            if self._credits <= 0:
                raise ResourceExhausted("a batch came without credit", "wait for credits")
            if len(batch.payload) > self._limits.batch_bytes:
                raise ResourceExhausted(
                    f"batch {batch.sequence} has {len(batch.payload)} bytes",
                    f"at most {self._limits.batch_bytes} are taken",
                )
            while not self._bus.room:
                await asyncio.sleep(self._limits.starved_poll_s)
            self._credits -= 1
            self._publisher.publish(batch.sequence, batch.payload)

    async def _wait_for_progress(self, acked: int, reader: "asyncio.Task[None]") -> None:
        # Room in a bus that was full shows only by looking.
        timeout_s = self._limits.starved_poll_s if self._credits <= 0 else _IDLE_S
        durable = await self._publisher.progress(acked, timeout_s)
        has_credit = self._credits >= self._limits.window // 2
        if durable > acked and has_credit and not reader.done():
            await asyncio.sleep(self._limits.ack_delay_s)


async def _read_hello(requests: AsyncIterator[device_pb2.IngestRequest]) -> device_pb2.Hello:
    request = await anext(requests, None)
    if request is None or not request.HasField("hello"):
        raise InvalidInput("a stream starts with a Hello")
    hello = request.hello
    if not (0 < hello.epoch <= _MAX_INTEGER and 0 < hello.next_sequence <= _MAX_INTEGER):
        raise InvalidInput(
            f"epoch {hello.epoch} or next_sequence {hello.next_sequence} is out of range",
            "both run from 1 to 2^63 - 1",
        )
    return hello
