"""The certificate matrix against the real device listener: one kind gets in, all others do not."""

import asyncio
import datetime
import socket
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from camcloud.api.auth import spiffe_uri
from camcloud.fleet.authority import CertificateAuthority
from camproto.v1 import api_pb2, device_pb2
from camproto.v1.device_pb2_grpc import DeviceGatewayStub
from support.embedded_cloud import FLEET, CloudHarness, make_csr, make_key

HOUR = datetime.timedelta(hours=1)
Issuer = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def issue(
    issuer: Issuer,
    *,
    uris: tuple[str, ...] = (spiffe_uri(FLEET, "cam-1"),),
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    begins: datetime.timedelta = -HOUR,
    ends: datetime.timedelta = HOUR,
    is_ca: bool = False,
) -> tuple[bytes, bytes, Issuer]:
    """A client certificate, as an attacker who has the issuer's key could make it."""
    key, key_pem = make_key()
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cam-1")]))
        .issuer_name(issuer[1].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    certificate = builder.sign(issuer[0], hashes.SHA256())
    return key_pem, certificate.public_bytes(serialization.Encoding.PEM), (key, certificate)


def issuer_of(authority: CertificateAuthority) -> Issuer:
    return authority._key, authority._certificate


def _chain_of(signer: Callable[[Issuer], tuple[bytes, bytes, Issuer]], issuer: Issuer):
    """A certificate signed by a leaf that the issuer signed, sent with that leaf."""
    _, leaf_pem, leaf = signer(issuer)
    key_pem, pem, _ = issue(leaf)
    return key_pem, pem + leaf_pem


async def refusal(
    cloud: CloudHarness, key_pem: bytes | None, chain_pem: bytes | None
) -> grpc.aio.AioRpcError:
    """How the gateway refuses a client with this certificate."""
    channel = cloud.dial(cloud.cloud.endpoints.device, key_pem, chain_pem)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await DeviceGatewayStub(channel).RenewCertificate(
            device_pb2.RenewCertificateRequest(csr_der=make_csr(make_key()[0])), timeout=10
        )
    return caught.value


HANDSHAKE = {
    "expired": lambda ours, other: issue(ours, begins=-3 * HOUR, ends=-HOUR)[:2],
    "not yet valid": lambda ours, other: issue(ours, begins=HOUR, ends=2 * HOUR)[:2],
    "of the server's kind": lambda ours, other: issue(ours, usage=ExtendedKeyUsageOID.SERVER_AUTH)[
        :2
    ],
    "of another CA with the same name": lambda ours, other: issue(other)[:2],
    "signed by a device": lambda ours, other: _chain_of(issue, ours),
    "signed by a CA below ours": lambda ours, other: _chain_of(
        lambda issuer: issue(issuer, is_ca=True), ours
    ),
}


GUARD = {
    "right in all, but never issued here": (spiffe_uri(FLEET, "cam-1"),),
    "no name": (),
    "two names": (spiffe_uri(FLEET, "cam-1"), spiffe_uri(FLEET, "cam-2")),
    "another trust domain": ("spiffe://elsewhere/fleet/park-a/device/cam-1",),
    "not the grammar": (spiffe_uri(FLEET, "cam-1") + "/..",),
}


async def test_what_the_handshake_refuses(cloud: CloudHarness) -> None:
    ours = issuer_of(cloud.cloud.control.authority)
    other = issuer_of(CertificateAuthority.generate("camplatform CA"))
    assert other[1].subject == ours[1].subject
    codes = {"none": (await refusal(cloud, None, None)).code()}
    for kind, make in HANDSHAKE.items():
        codes[kind] = (await refusal(cloud, *make(ours, other))).code()
    assert codes == dict.fromkeys(codes, grpc.StatusCode.UNAVAILABLE)


async def test_what_the_guard_refuses(cloud: CloudHarness) -> None:
    await cloud.enrol("cam-1")
    ours = issuer_of(cloud.cloud.control.authority)
    codes = {}
    for kind, uris in GUARD.items():
        key_pem, chain_pem, _ = issue(ours, uris=uris)
        codes[kind] = (await refusal(cloud, key_pem, chain_pem)).code()
    assert codes == dict.fromkeys(codes, grpc.StatusCode.UNAUTHENTICATED)


async def test_the_certificate_of_the_cloud_opens_no_device_call(cloud: CloudHarness) -> None:
    folder = cloud.cloud.workspace.pki_dir
    error = await refusal(
        cloud, (folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes()
    )
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_device_in_force_gets_in_and_a_revoked_one_at_once_no_more(
    cloud: CloudHarness,
) -> None:
    device = await cloud.enrol("cam-1")
    request = device_pb2.RenewCertificateRequest(csr_der=make_csr(make_key()[0]))
    assert (await device.gateway.RenewCertificate(request)).certificate_chain_pem
    await cloud.api.RevokeDevice(api_pb2.RevokeDeviceRequest(device_id="cam-1", reason="stolen"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # over the connection that is open
        await device.gateway.RenewCertificate(request)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    error = await refusal(cloud, device.key_pem, device.answer.certificate_chain_pem)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_renewed_certificate_works_and_so_does_the_old_one(cloud: CloudHarness) -> None:
    device = await cloud.enrol("cam-1")
    key, key_pem = make_key()
    request = device_pb2.RenewCertificateRequest(csr_der=make_csr(key))
    first = await device.gateway.RenewCertificate(request)
    renewed = DeviceGatewayStub(
        cloud.dial(cloud.cloud.endpoints.device, key_pem, first.certificate_chain_pem)
    )
    assert (await renewed.RenewCertificate(request)).ca_pem == cloud.ca_pem
    assert (await device.gateway.RenewCertificate(request)).ca_pem == cloud.ca_pem


@pytest.mark.slow
async def test_100_rotations_under_load_fail_no_call(cloud: CloudHarness) -> None:
    model = await cloud.push(cloud.signed_bundle())
    device = await cloud.enrol("cam-1")
    await cloud.api.CreateRollout(api_pb2.CreateRolloutRequest(fleet=FLEET))
    fetch = device_pb2.FetchArtifactRequest(digest=model.digest)

    async def load(stub: DeviceGatewayStub) -> int:
        return len([chunk async for chunk in stub.FetchArtifact(fetch)])

    gateway = device.gateway
    answered = 0
    for _ in range(100):
        key, key_pem = make_key()
        request = device_pb2.RenewCertificateRequest(csr_der=make_csr(key))
        # Calls are under way on the old connection while the new one is made and used.
        old = asyncio.gather(*(load(gateway) for _ in range(5)))
        answer = await gateway.RenewCertificate(request)
        channel = cloud.dial(cloud.cloud.endpoints.device, key_pem, answer.certificate_chain_pem)
        gateway = DeviceGatewayStub(channel)
        answered += await load(gateway) + sum(await old)
    assert answered == 600


async def test_old_versions_of_tls_are_refused(cloud: CloudHarness, tmp_path: Path) -> None:
    device = await cloud.enrol("cam-1")
    both = tmp_path / "device.pem"
    both.write_bytes(device.key_pem + device.answer.certificate_chain_pem)

    def shake_hands(endpoint: str, version: ssl.TLSVersion) -> str | None:
        host, _, number = endpoint.rpartition(":")
        context = ssl.create_default_context(cadata=cloud.ca_pem.decode())
        context.load_cert_chain(both)
        # OpenSSL offers TLS 1.0 and 1.1 at security level 0 only.
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions themselves
            context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection((host, int(number)), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname=host) as wrapped,
        ):
            return wrapped.version()

    ends = cloud.cloud.endpoints
    versions = ssl.TLSVersion
    for endpoint in (ends.api, ends.device, ends.enrolment):
        for old in (versions.TLSv1, versions.TLSv1_1):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(shake_hands, endpoint, old)
        assert await asyncio.to_thread(shake_hands, endpoint, versions.TLSv1_2) == "TLSv1.2"
        assert await asyncio.to_thread(shake_hands, endpoint, versions.TLSv1_3) == "TLSv1.3"


@pytest.mark.slow
async def test_a_silent_connection_is_closed_within_7_seconds(cloud: CloudHarness) -> None:
    host, _, number = cloud.cloud.endpoints.device.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    started = asyncio.get_running_loop().time()
    rest = await asyncio.wait_for(reader.read(), timeout=20)
    assert rest == b""
    assert asyncio.get_running_loop().time() - started < 7
    writer.close()


async def test_plaintext_gets_nowhere(cloud: CloudHarness) -> None:
    async with grpc.aio.insecure_channel(cloud.cloud.endpoints.device) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await DeviceGatewayStub(channel).RenewCertificate(
                device_pb2.RenewCertificateRequest(), timeout=5
            )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
