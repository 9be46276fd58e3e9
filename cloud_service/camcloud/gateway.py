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
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc.aio

from camcloud.api.auth import DeviceIdentity, device_of
from camcloud.bus import Bus, Publisher
from camproto.v1 import device_pb2
from camsdk.errors import InvalidInput, ResourceExhausted
from camsdk.wire import MAX_PAYLOAD_BYTES

_LOG = logging.getLogger(__name__)

_MAX_INTEGER: Final = 2**63 - 1
_IDLE_S: Final = 60.0
_LAST_WRITE_S: Final = 1.0

Context: TypeAlias = "grpc.aio.ServicerContext[device_pb2.IngestRequest, device_pb2.IngestResponse]"

Identify: TypeAlias = "Callable[[Any], DeviceIdentity | Awaitable[DeviceIdentity]]"
"""Who is on the other end of a call; raises ``Unauthenticated``."""

SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_PAYLOAD_BYTES + (64 << 10)),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.server_handshake_timeout_ms", 5_000),  # silent connections would stay open for 40 s
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),  # devices ping every 5 s
    ("grpc.keepalive_permit_without_calls", 1),
)
"""For a server that devices call."""


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


class IngestServicer:
    """``DeviceGateway.Ingest``; mixed into the servicer that has the other methods.

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

    async def Ingest(  # noqa: N802 - named by the protocol
        self,
        request_iterator: AsyncIterator[device_pb2.IngestRequest],
        context: Context,
    ) -> None:
        """Takes one device's batches until it ends the stream.

        Raises:
            CamError: The stream breaks a rule, or the bus cannot write; mapped by the server.
        """
        identity = self._identify(context)
        if inspect.isawaitable(identity):
            identity = await identity
        hello = await _read_hello(context)
        publisher = self._bus.open_lane(identity.device_id, identity.fleet, hello.epoch)
        stream = _Stream(context, publisher, self._bus, self._limits, self._share)
        self._stream_count += 1
        try:
            lost = publisher.skip_to(hello.next_sequence)
            if lost:
                _LOG.warning("%s had to drop %d batches", identity.device_id, lost)
            await stream.run()
        finally:
            self._stream_count -= 1
            publisher.close()

    def _share(self) -> int:
        """Batches that one stream may have under way now."""
        room = self._bus.room
        return min(self._limits.window, room, max(1, room // max(1, self._stream_count)))


class _Stream:
    """One stream: a reader that publishes, and a writer that acknowledges and gives credits."""

    def __init__(
        self,
        context: Context,
        publisher: Publisher,
        bus: Bus,
        limits: GatewayLimits,
        share: Callable[[], int],
    ) -> None:
        self._context = context
        self._publisher = publisher
        self._bus = bus
        self._limits = limits
        self._share = share
        self._credits = 0
        self._is_ended = False
        self._write: asyncio.Future[None] | None = None

    async def run(self) -> None:
        reader = asyncio.create_task(self._read_batches())
        writer = asyncio.create_task(self._acknowledge())
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()  # the device has ended the stream: acknowledge the rest
                await writer
            else:
                writer.result()
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            if self._write is not None:
                # gRPC cannot end a call well while one of its writes is under way.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WRITE_S):
                        await asyncio.gather(self._write, return_exceptions=True)

    async def _read_batches(self) -> None:
        while True:
            request = await _read(self._context)
            if request is None:
                self._is_ended = True
                self._publisher.wake()
                return
            if request.WhichOneof("kind") != "batch":
                raise InvalidInput("a stream has one Hello, then batches")
            self._check(request.batch)
            while not self._bus.room:
                await asyncio.sleep(self._limits.starved_poll_s)
            self._credits -= 1
            self._publisher.publish(request.batch.sequence, request.batch.payload)

    def _check(self, batch: device_pb2.PackedBatch) -> None:
        if self._credits <= 0:
            raise ResourceExhausted("a batch came without credit", "wait for credits")
        if len(batch.payload) > self._limits.batch_bytes:
            raise ResourceExhausted(
                f"batch {batch.sequence} has {len(batch.payload)} bytes",
                f"at most {self._limits.batch_bytes} are taken",
            )

    async def _acknowledge(self) -> None:
        acked = -1
        while True:
            durable = self._publisher.acked
            under_way = self._credits + self._publisher.taken - durable
            more = max(0, self._share() - under_way)
            if durable > acked or more:
                acked = durable
                self._credits += more
                response = device_pb2.IngestResponse(acked_sequence=acked, credits=more)
                self._write = asyncio.ensure_future(self._context.write(response))
                await asyncio.shield(self._write)
            if self._is_ended and self._publisher.taken == acked:
                return
            await self._wait_for_progress(acked)

    async def _wait_for_progress(self, acked: int) -> None:
        # Room in a bus that was full shows only by looking.
        timeout_s = self._limits.starved_poll_s if self._credits <= 0 else _IDLE_S
        durable = await self._publisher.progress(acked, timeout_s)
        is_urgent = self._credits < self._limits.window // 2
        if durable > acked and not is_urgent and not self._is_ended:
            await asyncio.sleep(self._limits.ack_delay_s)


async def _read(context: Context) -> device_pb2.IngestRequest | None:
    message: object = await context.read()  # grpc.aio.EOF at the end, unknown to the stubs
    return message if isinstance(message, device_pb2.IngestRequest) else None


async def _read_hello(context: Context) -> device_pb2.Hello:
    request = await _read(context)
    if request is None or not request.HasField("hello"):
        raise InvalidInput("a stream starts with a Hello")
    hello = request.hello
    if not (0 < hello.epoch <= _MAX_INTEGER and 0 < hello.next_sequence <= _MAX_INTEGER):
        raise InvalidInput(
            f"epoch {hello.epoch} or next_sequence {hello.next_sequence} is out of range",
            "both run from 1 to 2^63 - 1",
        )
    return hello
