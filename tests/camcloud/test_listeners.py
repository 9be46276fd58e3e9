"""Addresses, ports and the renewal of the server's certificate."""

import datetime
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from camcloud.fleet.authority import CertificateAuthority
from camcloud.listeners import API_OPTIONS, Address, ServerIdentity, bind, make_server
from camcloud.serve import ServeSettings
from camproto.v1 import device_pb2
from camproto.v1.device_pb2_grpc import EnrolmentStub
from camsdk.errors import InvalidInput, Unavailable


@pytest.fixture
async def stopped_in_the_end() -> AsyncIterator[Callable[..., None]]:
    """Stops the servers that it is given."""
    servers: list[grpc.aio.Server] = []
    yield lambda *more: servers.extend(more)
    for server in servers:
        await server.stop(0)


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:8443", "127.0.0.1", 8443, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:8443", "::1", 8443, True),
        ("0.0.0.0:8443", "0.0.0.0", 8443, False),
        ("cloud.example:443", "cloud.example", 443, False),
    ],
)
def test_addresses(text: str, host: str, port: int, is_loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, is_loopback)
    assert str(address) == text
    assert address.above(2).port == (port + 2 if port else 0)


@pytest.mark.parametrize("text", ["", "8443", ":8443", "host:", "host:https", "host:70000", "h:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput):
        Address.parse(text)


def test_more_than_loopback_must_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--advertise"):
        ServeSettings(tmp_path, "0.0.0.0:8443").bind_address()
    asked = ServeSettings(tmp_path, "0.0.0.0:8443", advertise="cloud.example")
    assert asked.bind_address().port == 8443


async def test_a_port_is_not_shared(tmp_path: Path, stopped_in_the_end) -> None:
    authority = CertificateAuthority.generate("test CA")
    identity = ServerIdentity(authority, ["127.0.0.1"], tmp_path)
    first, second = (make_server(None, API_OPTIONS) for _ in range(2))
    taken = bind(first, Address("127.0.0.1", 0), identity.credentials(wants_client=False))
    stopped_in_the_end(first, second)
    await first.start()
    with pytest.raises(Unavailable, match="cannot be bound") as caught:
        bind(second, taken, identity.credentials(wants_client=False))
    assert "three ports in a row" in caught.value.hint


async def test_the_servers_certificate_is_renewed_while_it_serves(
    tmp_path: Path, stopped_in_the_end
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    offset = datetime.timedelta()
    authority = CertificateAuthority.generate("test CA")
    identity = ServerIdentity(authority, ["127.0.0.1"], tmp_path, now=lambda: now + offset)
    server = make_server(None, API_OPTIONS)
    stopped_in_the_end(server)
    address = bind(server, Address("127.0.0.1", 0), identity.credentials(wants_client=False))
    await server.start()

    async def call() -> grpc.StatusCode:
        credentials = grpc.ssl_channel_credentials(authority.ca_pem)
        # A channel of its own shakes hands anew.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(str(address), credentials, options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await EnrolmentStub(channel).Enroll(device_pb2.EnrollRequest(), timeout=10)
        return caught.value.code()

    first = identity.current
    assert await call() is grpc.StatusCode.UNIMPLEMENTED  # shook hands; no service is there
    offset = datetime.timedelta(days=15)
    assert identity.current is first
    offset = datetime.timedelta(days=21)
    assert await call() is grpc.StatusCode.UNIMPLEMENTED
    shown = identity.current
    assert shown.chain_pem != first.chain_pem
    assert (tmp_path / "server.pem").read_bytes() == shown.chain_pem
