"""A real embedded cloud within the test's own event loop, and devices and users that call it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID

from camcloud.serve import Cloud, ServeSettings, serving
from camproto.v1 import api_pb2, device_pb2
from camproto.v1.api_pb2_grpc import CloudApiStub
from camproto.v1.device_pb2_grpc import DeviceGatewayStub, EnrolmentStub
from camsdk.artifact import keys
from camsdk.wire.tokens import decode_token
from support.artifacts import make_bundle

FLEET = "park-a"
HARDWARE = "cpu-x86_64"


def make_key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """An ECDSA key and its PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key, pem


def make_csr(key: ec.EllipticCurvePrivateKey, name: str = "whoever") -> bytes:
    """A signing request, DER; its subject is meant to be ignored."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass
class TestDevice:
    """An enrolled device: what it keeps, and a channel with its certificate."""

    __test__ = False

    answer: device_pb2.EnrollResponse
    key_pem: bytes
    sealing_key: X25519PrivateKey
    channel: grpc.aio.Channel

    @property
    def device_id(self) -> str:
        return self.answer.device_id

    @property
    def gateway(self) -> DeviceGatewayStub:
        return DeviceGatewayStub(self.channel)

    def report(self, **fields: object) -> device_pb2.DeviceReport:
        return device_pb2.DeviceReport(hardware=HARDWARE, agent_version="test", **fields)


class CloudHarness:
    """A running cloud and its administrator."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.ca_pem = cloud.control.authority.ca_pem
        self.admin_token = cloud.workspace.admin_token_path.read_text().strip()
        self.channels: list[grpc.aio.Channel] = []
        self.api = self.api_as(self.admin_token)

    def dial(
        self, endpoint: str, key_pem: bytes | None = None, chain_pem: bytes | None = None
    ) -> grpc.aio.Channel:
        """A TLS channel; closed with the cloud."""
        credentials = grpc.ssl_channel_credentials(self.ca_pem, key_pem, chain_pem)
        channel = grpc.aio.secure_channel(endpoint, credentials)
        self.channels.append(channel)
        return channel

    def api_as(self, token: str | None) -> CloudApiStub:
        """The user API with this token."""
        credentials = grpc.ssl_channel_credentials(self.ca_pem)
        if token is not None:
            call = grpc.access_token_call_credentials(token)
            credentials = grpc.composite_channel_credentials(credentials, call)
        channel = grpc.aio.secure_channel(self.cloud.endpoints.api, credentials)
        self.channels.append(channel)
        return CloudApiStub(channel)

    async def have_fleet(self, fleet: str = FLEET) -> None:
        """Makes the fleet unless it is there."""
        listed = await self.api.ListFleets(api_pb2.ListFleetsRequest())
        if fleet not in {item.name for item in listed.fleets}:
            await self.api.CreateFleet(api_pb2.CreateFleetRequest(name=fleet))

    async def bootstrap_secret(self, fleet: str = FLEET) -> str:
        """The secret of a new bootstrap token; the fleet is made unless it is there."""
        await self.have_fleet(fleet)
        answer = await self.api.CreateBootstrapToken(
            api_pb2.CreateBootstrapTokenRequest(fleet=fleet)
        )
        return decode_token(answer.tokens[0]).secret

    def enrolment(self) -> EnrolmentStub:
        """The enrolment service, over a channel of its own."""
        return EnrolmentStub(self.dial(self.cloud.endpoints.enrolment))

    async def enrol(self, name: str = "cam-1", fleet: str = FLEET) -> TestDevice:
        """A new device."""
        key, key_pem = make_key()
        sealing_key = keys.generate_sealing_key()
        request = device_pb2.EnrollRequest(
            token=await self.bootstrap_secret(fleet),
            csr_der=make_csr(key),
            sealing_key=keys.public_bytes(sealing_key),
            proposed_name=name,
            hardware=HARDWARE,
        )
        answer = await self.enrolment().Enroll(request)
        channel = self.dial(answer.device_endpoint, key_pem, answer.certificate_chain_pem)
        return TestDevice(answer, key_pem, sealing_key, channel)

    def signed_bundle(self, **changes: object) -> bytes:
        """A model signed with the cloud's own key."""
        path = self.cloud.workspace.keys_dir / "signing.key"
        return make_bundle(keys.load_signing_key(path), **changes)

    async def push(self, bundle: bytes) -> api_pb2.Model:
        """Pushes a bundle in chunks."""
        step = max(100, len(bundle) // 50)
        chunks = (bundle[start : start + step] for start in range(0, len(bundle), step))
        return await self.api.PushModel(api_pb2.PushModelRequest(data=chunk) for chunk in chunks)


@asynccontextmanager
async def embedded_cloud(folder: Path) -> AsyncIterator[CloudHarness]:
    """A cloud on free ports over a data folder."""
    async with serving(ServeSettings(folder, "127.0.0.1:0")) as cloud:
        harness = CloudHarness(cloud)
        try:
            yield harness
        finally:
            for channel in harness.channels:
                await channel.close()
