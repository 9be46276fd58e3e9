"""Who may call what: API tokens against the real server, and leases of device calls."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest

from camcloud.api.guard import READ_METHODS, DeviceGuard
from camcloud.fleet import certificates
from camcloud.fleet.authority import CertificateAuthority
from camcloud.store.database import Database
from camproto.v1 import api_pb2
from camproto.v1.api_pb2_grpc import CloudApiStub
from camsdk.errors import Unauthenticated
from support.embedded_cloud import CloudHarness, make_csr, make_key
from support.store_rows import add_device, add_fleet, open_store

SERVICE = api_pb2.DESCRIPTOR.services_by_name["CloudApi"]
METHODS = {method.name: method for method in SERVICE.methods}
CHANGING = {
    "CreateFleet",
    "CreateBootstrapToken",
    "CreateApiToken",
    "LabelDevice",
    "RevokeDevice",
    "ApplyRules",
    "PushModel",
    "CreateRollout",
    "ControlRollout",
}


def test_every_method_is_known_to_read_or_to_change() -> None:
    reading = {name.rpartition("/")[2] for name in READ_METHODS}
    assert reading | CHANGING == set(METHODS)
    assert not reading & CHANGING


async def code_of(stub: CloudApiStub, name: str) -> grpc.StatusCode:
    """How a call of that method ends, with an empty request."""
    method = METHODS[name]
    request = getattr(api_pb2, method.input_type.name)()
    behaviour: Callable[..., Awaitable[object]] = getattr(stub, name)
    call = behaviour(iter([request])) if method.client_streaming else behaviour(request)
    if method.server_streaming:
        # A stream that is let in may wait for news: its headers say that it was.
        await asyncio.wait_for(call.initial_metadata(), 5)
        if not call.done():
            call.cancel()
    return await asyncio.wait_for(call.code(), 5)


async def test_every_method_wants_a_token_that_is_known(cloud: CloudHarness) -> None:
    for stub in (cloud.api_as(None), cloud.api_as("camapi1_guess")):
        codes = {name: await code_of(stub, name) for name in METHODS}
        assert codes == dict.fromkeys(METHODS, grpc.StatusCode.UNAUTHENTICATED)


async def test_a_read_only_token_reads_everything_and_changes_nothing(
    cloud: CloudHarness,
) -> None:
    made = await cloud.api.CreateApiToken(
        api_pb2.CreateApiTokenRequest(name="wall display", is_read_only=True)
    )
    stub = cloud.api_as(made.token)
    for name in METHODS:
        code = await code_of(stub, name)
        is_denied = code is grpc.StatusCode.PERMISSION_DENIED
        assert is_denied == (name in CHANGING), (name, code)
        assert code is not grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_ends_with_its_life(cloud: CloudHarness) -> None:
    made = await cloud.api.CreateApiToken(
        api_pb2.CreateApiTokenRequest(name="short", lifetime_s=0.3)
    )
    stub = cloud.api_as(made.token)
    assert (await stub.GetStatus(api_pb2.GetStatusRequest())).profile == "embedded"
    tail = stub.TailEvents(api_pb2.TailEventsRequest(from_now=True))
    assert await asyncio.wait_for(tail.code(), 5) is grpc.StatusCode.UNAUTHENTICATED
    assert "expired" in await tail.details()
    with pytest.raises(grpc.aio.AioRpcError, match="expired"):
        await stub.GetStatus(api_pb2.GetStatusRequest())


async def test_token_names_are_unique_and_lives_are_bounded(cloud: CloudHarness) -> None:
    request = api_pb2.CreateApiTokenRequest(name="twice")
    await cloud.api.CreateApiToken(request)
    for again, code in (
        (request, grpc.StatusCode.ALREADY_EXISTS),
        (api_pb2.CreateApiTokenRequest(name=""), grpc.StatusCode.INVALID_ARGUMENT),
        (
            api_pb2.CreateApiTokenRequest(name="long", lifetime_s=1e9),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            api_pb2.CreateApiTokenRequest(name="nan", lifetime_s=float("nan")),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cloud.api.CreateApiToken(again)
        assert caught.value.code() is code


async def test_the_wire_carries_reason_message_and_way_out(cloud: CloudHarness) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cloud.api.GetFleet(api_pb2.GetFleetRequest(name="nowhere"))
    metadata = dict(caught.value.trailing_metadata())
    assert metadata["cam-reason"] == "not-found"
    hint = b"camctl fleet list shows all; camctl fleet create nowhere makes it"
    assert metadata["cam-hint-bin"] == hint


async def test_an_unknown_method_is_unimplemented(cloud: CloudHarness) -> None:
    channel = cloud.dial(cloud.cloud.endpoints.api)
    call = channel.unary_unary("/camproto.v1.CloudApi/Nothing", None, None)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class FakeDeviceContext:
    """A call's context on the connection of a device."""

    def __init__(self, pem: bytes | None) -> None:
        self._properties = {} if pem is None else {"x509_pem_cert": [pem]}

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._properties


@dataclass
class Leases:
    """A guard over rows of its own, with a clock to turn."""

    database: Database
    authority: CertificateAuthority
    now_s: float

    def guard(self) -> DeviceGuard:
        return DeviceGuard(self.database, clock=lambda: self.now_s)

    def issue(self, named: str, recorded_for: str) -> FakeDeviceContext:
        """A connection whose certificate names one device and was issued to another, or to it."""
        made = self.authority.issue_device(make_csr(make_key()[0]), fleet="park-a", device_id=named)
        self.database.run(lambda c: certificates.record(c, recorded_for, made, self.now_s))
        return FakeDeviceContext(made.pem)


@pytest.fixture
def leases() -> Iterator[Leases]:
    database = open_store()

    def fill(connection: object) -> None:
        add_fleet(connection, "park-a")
        for name in ("cam-1", "cam-2"):
            add_device(connection, name, "park-a")

    database.run(fill)
    yield Leases(database, CertificateAuthority.generate("test CA"), time.time())
    database.close()


async def hold(guard: DeviceGuard, context: FakeDeviceContext, entered: asyncio.Event) -> None:
    async with guard("/camproto.v1.DeviceGateway/Sync", context):
        entered.set()
        await asyncio.Event().wait()


async def test_an_open_call_ends_with_its_certificate(leases: Leases) -> None:
    guard, entered = leases.guard(), asyncio.Event()
    call = asyncio.create_task(hold(guard, leases.issue("cam-1", "cam-1"), entered))
    await asyncio.wait_for(entered.wait(), 5)
    await guard.recheck()
    assert not call.cancelling()
    leases.now_s += 86_401
    await guard.recheck()
    with pytest.raises(Unauthenticated, match="has expired"):
        await call
    assert call.cancelling() == 0, "the call ended by an error of its own"


async def test_only_the_calls_of_the_revoked_device_end(leases: Leases) -> None:
    guard = leases.guard()
    calls = {}
    for name in ("cam-1", "cam-2"):
        entered = asyncio.Event()
        calls[name] = asyncio.create_task(hold(guard, leases.issue(name, name), entered))
        await asyncio.wait_for(entered.wait(), 5)
    assert guard.close("cam-1") == 1
    with pytest.raises(Unauthenticated, match="not in force"):
        await calls["cam-1"]
    calls["cam-2"].cancel()
    with pytest.raises(asyncio.CancelledError):  # a cancellation that is not the guard's passes
        await calls["cam-2"]
    assert guard.close("cam-2") == 0


async def test_a_call_is_refused_before_it_begins(leases: Leases) -> None:
    guard, entered = leases.guard(), asyncio.Event()
    with pytest.raises(Unauthenticated, match="no device certificate"):
        await hold(guard, FakeDeviceContext(None), entered)
    with pytest.raises(Unauthenticated, match="not in force"):
        await hold(guard, leases.issue("cam-1", "cam-2"), entered)
    expired = leases.issue("cam-1", "cam-1")
    leases.now_s += 86_401
    with pytest.raises(Unauthenticated, match="has expired"):
        await hold(guard, expired, entered)
    assert not entered.is_set()
