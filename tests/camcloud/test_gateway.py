"""The gateway over real gRPC on loopback: acks, credits, refusals, back-pressure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest

from camcloud.api.auth import DeviceIdentity
from camcloud.bus import BusLimits, LaneCounts, LogBus, MemoryJournal
from camcloud.bus.journals import Group
from camcloud.gateway import GatewayLimits, IngestServicer
from camcloud.listeners import DEVICE_OPTIONS, make_server
from camproto.v1 import device_pb2, device_pb2_grpc
from camsdk.errors import Unauthenticated, Unavailable

EPOCH = 11


def identify(context: grpc.aio.ServicerContext) -> DeviceIdentity:
    """Stands in for the certificate: the device says its name in the metadata."""
    metadata = dict(context.invocation_metadata())
    if "device" not in metadata:
        raise Unauthenticated("no device")
    return DeviceIdentity(str(metadata["device"]), "park-a")


@dataclass
class Gateway:
    bus: LogBus
    servicer: IngestServicer
    stub: device_pb2_grpc.DeviceGatewayStub

    async def stream(self, device: str = "cam-1") -> grpc.aio.StreamStreamCall:
        return self.stub.Ingest(metadata=(("device", device),))


@asynccontextmanager
async def gateway(
    bus_limits: BusLimits | None = None,
    limits: GatewayLimits | None = None,
    journal: MemoryJournal | None = None,
) -> AsyncIterator[Gateway]:
    bus = LogBus(journal or MemoryJournal(), bus_limits)
    await bus.start()
    servicer = IngestServicer(bus, identify, limits)
    server = make_server(None, DEVICE_OPTIONS)
    device_pb2_grpc.add_DeviceGatewayServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield Gateway(bus, servicer, device_pb2_grpc.DeviceGatewayStub(channel))
        finally:
            await server.stop(0)
            await bus.stop()


def hello(next_sequence: int = 1, epoch: int = EPOCH) -> device_pb2.IngestRequest:
    return device_pb2.IngestRequest(
        hello=device_pb2.Hello(epoch=epoch, next_sequence=next_sequence)
    )


def batch(sequence: int, payload: bytes = b"x" * 50) -> device_pb2.IngestRequest:
    return device_pb2.IngestRequest(
        batch=device_pb2.PackedBatch(sequence=sequence, payload=payload)
    )


async def acked_until(call: grpc.aio.StreamStreamCall, sequence: int) -> int:
    """Reads answers until ``sequence`` is durable; returns the credits that came along."""
    granted = 0
    while True:
        response = await asyncio.wait_for(call.read(), 5)
        assert response is not grpc.aio.EOF
        granted += response.credits
        if response.acked_sequence >= sequence:
            return granted


async def refusal(call: grpc.aio.StreamStreamCall) -> grpc.aio.AioRpcError:
    """Reads until the stream breaks, which it must."""
    try:
        while await asyncio.wait_for(call.read(), 5) is not grpc.aio.EOF:
            continue
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the stream ended well")


async def answers_until_end(call: grpc.aio.StreamStreamCall) -> list[device_pb2.IngestResponse]:
    found = []
    while (answer := await asyncio.wait_for(call.read(), 5)) is not grpc.aio.EOF:
        found.append(answer)
    return found


async def test_batches_become_durable_and_are_acknowledged() -> None:
    async with gateway() as cloud:
        call = await cloud.stream()
        await call.write(hello())
        first = await call.read()
        assert (first.acked_sequence, first.credits) == (0, 64)
        for sequence in (1, 2, 3):
            await call.write(batch(sequence, b"payload %d" % sequence))
        await acked_until(call, 3)
        deliveries = await cloud.bus.consume(0, 10)
    assert [(d.device_id, d.fleet, d.epoch) for d in deliveries] == [("cam-1", "park-a", EPOCH)] * 3
    assert [d.payload for d in deliveries] == [b"payload 1", b"payload 2", b"payload 3"]


async def test_the_end_of_a_stream_waits_for_the_last_acknowledgement() -> None:
    async with gateway() as cloud:
        call = await cloud.stream()
        await call.write(hello())
        for sequence in range(1, 21):
            await call.write(batch(sequence))
        await call.done_writing()
        answers = await answers_until_end(call)
        assert answers[-1].acked_sequence == 20
        assert await call.code() is grpc.StatusCode.OK
        assert cloud.servicer.stream_count == 0


async def test_a_long_stream_never_runs_out_of_credits() -> None:
    async with gateway(limits=GatewayLimits(window=8)) as cloud:
        call = await cloud.stream()
        await call.write(hello())
        granted, sent, acked = 0, 0, 0
        while acked < 100:
            response = await asyncio.wait_for(call.read(), 5)
            granted, acked = granted + response.credits, response.acked_sequence
            assert sent - acked + granted <= 8
            while granted and sent < 100:
                sent, granted = sent + 1, granted - 1
                await call.write(batch(sent))


async def test_a_new_stream_resumes_and_repetitions_are_counted() -> None:
    async with gateway() as cloud:
        first = await cloud.stream()
        await first.write(hello())
        await first.write(batch(1))
        await first.write(batch(2))
        await acked_until(first, 2)
        first.cancel()
        second = await cloud.stream()
        await second.write(hello())
        assert (await second.read()).acked_sequence == 2
        await second.write(batch(2))
        await second.write(batch(3))
        await acked_until(second, 3)
        assert cloud.bus.lanes()["cam-1", EPOCH] == LaneCounts(sequence=3, duplicates=1)


async def test_a_stated_loss_is_counted() -> None:
    async with gateway() as cloud:
        call = await cloud.stream()
        await call.write(hello(next_sequence=6))
        await acked_until(call, 5)
        assert cloud.bus.lanes()["cam-1", EPOCH] == LaneCounts(sequence=5, lost=5)


@pytest.mark.parametrize(
    ("messages", "code", "reason"),
    [
        ([batch(1)], grpc.StatusCode.INVALID_ARGUMENT, "starts with a Hello"),
        ([hello(), hello()], grpc.StatusCode.INVALID_ARGUMENT, "one Hello"),
        ([hello(epoch=2**63)], grpc.StatusCode.INVALID_ARGUMENT, "out of range"),
        ([hello(next_sequence=0)], grpc.StatusCode.INVALID_ARGUMENT, "out of range"),
        ([hello(), device_pb2.IngestRequest()], grpc.StatusCode.INVALID_ARGUMENT, "one Hello"),
        ([hello(), batch(1), batch(3)], grpc.StatusCode.ABORTED, "came after batch 1"),
        ([hello(), batch(1, b"x" * 301)], grpc.StatusCode.RESOURCE_EXHAUSTED, "at most 300"),
        ([hello(), *map(batch, range(1, 4))], grpc.StatusCode.RESOURCE_EXHAUSTED, "credit"),
    ],
)
async def test_a_stream_that_breaks_a_rule_is_ended(
    messages: list[device_pb2.IngestRequest], code: grpc.StatusCode, reason: str
) -> None:
    limits = GatewayLimits(batch_bytes=300, window=2, ack_delay_s=5)
    async with gateway(BusLimits(batches=2), limits) as cloud:
        call = await cloud.stream()
        for message in messages:
            await call.write(message)
        error = await refusal(call)
        assert error.code() is code
        assert reason in error.details()


async def test_a_message_beyond_the_transport_limit_is_refused() -> None:
    async with gateway() as cloud:
        call = await cloud.stream()
        await call.write(hello())
        await call.write(batch(1, b"x" * (5 << 20)))
        assert (await refusal(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_device_without_identity_is_refused() -> None:
    async with gateway() as cloud:
        call = cloud.stub.Ingest()
        assert (await refusal(call)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_newer_stream_of_the_same_device_ends_the_older() -> None:
    async with gateway() as cloud:
        old = await cloud.stream()
        await old.write(hello())
        await old.read()
        new = await cloud.stream()
        await new.write(hello())
        await new.read()
        assert (await refusal(old)).code() is grpc.StatusCode.ABORTED
        await new.write(batch(1))
        await acked_until(new, 1)


async def test_a_full_bus_gives_no_credits_until_the_analysis_has_caught_up() -> None:
    async with gateway(BusLimits(batches=4)) as cloud:
        call = await cloud.stream()
        await call.write(hello())
        assert (await call.read()).credits == 4
        for sequence in range(1, 5):
            await call.write(batch(sequence))
        assert await acked_until(call, 4) == 0
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(
                asyncio.shield(waiting := asyncio.ensure_future(call.read())), 0.2
            )
        cloud.bus.ack(3)
        assert (await asyncio.wait_for(waiting, 5)).credits == 3


class FullDisk(MemoryJournal):
    def write(self, group: Group) -> None:
        raise Unavailable("the bus cannot be written: disk full")


async def test_what_cannot_be_written_is_not_acknowledged() -> None:
    async with gateway(journal=FullDisk()) as cloud:
        call = await cloud.stream()
        await call.write(hello())
        await call.write(batch(1))
        error = await refusal(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "disk full" in error.details()


async def test_many_devices_at_once() -> None:
    async with gateway() as cloud:

        async def ship(device: str) -> None:
            call = await cloud.stream(device)
            await call.write(hello())
            await call.read()
            for sequence in range(1, 31):
                await call.write(batch(sequence))
            await call.done_writing()
            assert (await answers_until_end(call))[-1].acked_sequence == 30

        await asyncio.gather(*(ship(f"cam-{n}") for n in range(20)))
        assert cloud.bus.depth == 600
