"""A small real cloud for the agent's tests: grpc servers with mTLS, in memory, faulty on demand.

It implements enrolment and the device gateway as the protocol says, with nothing behind: batches
and reports are kept in lists. What it refuses and forgets is steered by ``Faults``.
"""

import datetime
import hashlib
import ipaddress
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from camproto.v1 import data_pb2, device_pb2, device_pb2_grpc
from camsdk.artifact import envelope
from camsdk.artifact.keys import generate_signing_key, public_bytes
from camsdk.wire.tokens import encode_token

LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Authority:
    """A certificate authority, ECDSA P-256."""

    def __init__(self, name: str = "test ca") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self.name, self.key.public_key(), 0.0, 86_400.0)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        common_name: str,
        names: list[x509.GeneralName],
        *,
        is_server: bool,
        age_s: float = 0.0,
        life_s: float = 86_400.0,
    ) -> bytes:
        """A leaf that began ``age_s`` ago and lasts ``life_s``, PEM."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            self._builder(subject, public_key, age_s, life_s)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .add_extension(x509.ExtendedKeyUsage([usage]), False)
        )
        certificate = builder.sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        age_s: float,
        life_s: float,
    ) -> x509.CertificateBuilder:
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
        # A machine's clock may step back while a test runs; short lives are measured by tests.
        skew = datetime.timedelta(seconds=60 if life_s >= 3600 else 0)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - skew)
            .not_valid_after(start + datetime.timedelta(seconds=life_s))
        )


@dataclass
class Faults:
    """What goes wrong; change it at any time.

    Attributes:
        is_refusing: Every call ends with UNAVAILABLE.
        is_rejecting: Every call ends with UNAUTHENTICATED, as for a revoked device.
        is_silent: Streams end at once and well, without an answer.
        is_not_acking: Batches are taken and never acknowledged.
        is_forgetting: Batches are refused with UNAVAILABLE, as by a cloud that dies on each.
        credits: First grant of a stream; each ack grants as many as it takes.
        cut_fetch_after: Bytes after which an artifact's stream breaks, once.
        flip_artifact: Whether one bit of each artifact is wrong.
        fetch_lie: ``hole`` leaves out a chunk, ``endless`` sends more than it said.
        seal_for: Another device's name and key to seal for, or None.
        certificate_life_s: Of renewed and new certificates.
    """

    is_refusing: bool = False
    is_rejecting: bool = False
    is_silent: bool = False
    is_not_acking: bool = False
    is_forgetting: bool = False
    credits: int = 8
    cut_fetch_after: int = 0
    flip_artifact: bool = False
    fetch_lie: str = ""
    seal_for: tuple[str, bytes] | None = None
    certificate_life_s: float = 86_400.0


@dataclass
class Cursor:
    """What is kept of one (device, epoch)."""

    acked: int = 0
    payloads: dict[int, bytes] = field(default_factory=dict)
    lost: int = 0
    duplicates: int = 0


class FakeCloud(device_pb2_grpc.DeviceGatewayServicer, device_pb2_grpc.EnrolmentServicer):
    """Both services, their servers, and what arrived.

    Attributes:
        cursors: By (device, epoch).
        reports: All reports in order, by device.
        fetches: (digest, offset) of each FetchArtifact.
        enrolments: Requests in order.
        renewals, stream_count: How many there were.
    """

    def __init__(self) -> None:
        self.authority = Authority()
        self.signing_key: Ed25519PrivateKey = generate_signing_key()
        self.faults = Faults()
        self.cursors: dict[tuple[str, int], Cursor] = {}
        self.reports: dict[str, list[device_pb2.DeviceReport]] = {}
        self.fetches: list[tuple[str, int]] = []
        self.enrolments: list[device_pb2.EnrollRequest] = []
        self.renewals = 0
        self.stream_count = 0
        self.arrivals: list[tuple[float, int]] = []
        self._changed = threading.Condition()
        self._desired: dict[str, device_pb2.DesiredState] = {}
        self._bundles: dict[str, bytes] = {}
        self._sealed: dict[tuple[str, str], bytes] = {}
        self._sealing_keys: dict[str, bytes] = {}
        self._tokens = {"secret-1", "secret-2", "secret-3"}
        self._is_closing = False
        self._server_key = ec.generate_private_key(ec.SECP256R1())
        self._start(0)
        self._enrolment = grpc.server(futures.ThreadPoolExecutor(2))
        device_pb2_grpc.add_EnrolmentServicer_to_server(self, self._enrolment)
        self.enrolment_port = self._enrolment.add_secure_port("127.0.0.1:0", self._tls(False))
        self._enrolment.start()

    # Servers.

    def _start(self, port: int) -> None:
        options = (
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
        )
        self._is_closing = False
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
        device_pb2_grpc.add_DeviceGatewayServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{port}", self._tls(True))
        self._server.start()

    def _tls(self, is_mutual: bool) -> grpc.ServerCredentials:
        names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(LOOPBACK)]
        chain = self.authority.issue(self._server_key.public_key(), "cloud", names, is_server=True)
        key = self._server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return grpc.ssl_server_credentials(
            [(key, chain)],
            root_certificates=self.authority.pem if is_mutual else None,
            require_client_auth=is_mutual,
        )

    def stop_gateway(self) -> None:
        """The gateway dies; its port is free."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._server.stop(0).wait()

    def start_gateway(self) -> None:
        """It comes back on the same port with all that it had."""
        self._start(self.port)

    def close(self) -> None:
        """Stops everything."""
        self.stop_gateway()
        self._enrolment.stop(0).wait()

    # What a test does.

    @property
    def token(self) -> str:
        """A bootstrap token for fleet ``park-a``."""
        secret = sorted(self._tokens)[0]
        endpoint = f"127.0.0.1:{self.enrolment_port}"
        return encode_token(endpoint, secret, "park-a", self.authority.pem)

    def add_bundle(self, bundle: bytes) -> str:
        """Makes a bundle fetchable; returns its digest."""
        digest = hashlib.sha256(bundle).hexdigest()
        self._bundles[digest] = bundle
        return digest

    def want(self, device_id: str, **fields: object) -> None:
        """Changes the device's desired state; its version grows by itself."""
        with self._changed:
            desired = device_pb2.DesiredState()
            if device_id in self._desired:
                desired.CopyFrom(self._desired[device_id])
            for name, value in fields.items():
                setattr(desired, name, value)
            desired.version += 1
            self._desired[device_id] = desired
            self._changed.notify_all()

    def last_report(self, device_id: str) -> device_pb2.DeviceReport:
        """Newest report, empty before the first."""
        with self._changed:
            reports = self.reports.get(device_id)
            return reports[-1] if reports else device_pb2.DeviceReport()

    def events(self, device_id: str) -> list[data_pb2.Event]:
        """All events that are durable, in order of batches."""
        with self._changed:
            return [
                event
                for (device, _), cursor in self.cursors.items()
                if device == device_id
                for sequence in sorted(cursor.payloads)
                for event in data_pb2.Batch.FromString(cursor.payloads[sequence]).events
            ]

    # Services.

    def Enroll(  # noqa: N802 # named by the protocol
        self, request: device_pb2.EnrollRequest, context: grpc.ServicerContext
    ) -> device_pb2.EnrollResponse:
        with self._changed:
            self.enrolments.append(request)
            if request.token not in self._tokens:
                message, hint = "this token is not valid", "make a new one"
                context.set_trailing_metadata(
                    (
                        ("cam-reason", "unauthenticated"),
                        ("cam-message-bin", message.encode()),
                        ("cam-hint-bin", hint.encode()),
                    )
                )
                context.abort(grpc.StatusCode.UNAUTHENTICATED, f"{message} ({hint})")
            self._tokens.discard(request.token)
            device_id = request.proposed_name or f"camera-{len(self.enrolments)}"
            self._sealing_keys[device_id] = request.sealing_key
        return device_pb2.EnrollResponse(
            device_id=device_id,
            fleet="park-a",
            certificate_chain_pem=self._certify(request.csr_der, device_id),
            ca_pem=self.authority.pem,
            artifact_trust_keys=public_bytes(self.signing_key),
            device_endpoint=f"127.0.0.1:{self.port}",
        )

    def _certify(self, csr_der: bytes, device_id: str) -> bytes:
        key = x509.load_der_x509_csr(csr_der).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        uri = f"spiffe://camplatform/fleet/park-a/device/{device_id}"
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        life_s = self.faults.certificate_life_s
        return self.authority.issue(key, device_id, names, is_server=False, life_s=life_s)

    def RenewCertificate(  # noqa: N802 # named by the protocol
        self, request: device_pb2.RenewCertificateRequest, context: grpc.ServicerContext
    ) -> device_pb2.RenewCertificateResponse:
        self._refuse_if_told(context)
        self.renewals += 1
        return device_pb2.RenewCertificateResponse(
            certificate_chain_pem=self._certify(request.csr_der, _device(context)),
            ca_pem=self.authority.pem,
        )

    def Ingest(  # noqa: N802 # named by the protocol
        self,
        requests: Iterator[device_pb2.IngestRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[device_pb2.IngestResponse]:
        self._refuse_if_told(context)
        self.stream_count += 1
        if self.faults.is_silent:
            return
        hello = next(requests).hello
        with self._changed:
            cursor = self.cursors.setdefault((_device(context), hello.epoch), Cursor())
            if hello.next_sequence > cursor.acked + 1:
                cursor.lost += hello.next_sequence - 1 - cursor.acked
                cursor.acked = hello.next_sequence - 1
            answer = device_pb2.IngestResponse(
                acked_sequence=cursor.acked, credits=self.faults.credits
            )
        yield answer
        for request in requests:
            self._refuse_if_told(context)
            if self.faults.is_forgetting:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the cloud dies with this batch")
            with self._changed:
                self._keep(cursor, request.batch, context)
                acked = cursor.acked
                self._changed.notify_all()
            if not self.faults.is_not_acking:
                yield device_pb2.IngestResponse(acked_sequence=acked, credits=1)

    def _keep(
        self, cursor: Cursor, batch: device_pb2.PackedBatch, context: grpc.ServicerContext
    ) -> None:
        self.arrivals.append((time.monotonic(), batch.sequence))
        if batch.sequence <= cursor.acked:
            cursor.duplicates += 1
        elif batch.sequence == cursor.acked + 1:
            cursor.payloads[batch.sequence] = batch.payload
            cursor.acked = batch.sequence
        else:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a batch is missing")

    def Sync(  # noqa: N802 # named by the protocol
        self,
        requests: Iterator[device_pb2.DeviceReport],
        context: grpc.ServicerContext,
    ) -> Iterator[device_pb2.DesiredState]:
        self._refuse_if_told(context)
        self.stream_count += 1
        if self.faults.is_silent:
            return
        device_id = _device(context)
        done = threading.Event()

        def listen() -> None:
            try:
                for report in requests:
                    with self._changed:
                        self.reports.setdefault(device_id, []).append(report)
                        self._changed.notify_all()
            except grpc.RpcError:
                pass  # the device went away
            done.set()
            with self._changed:
                self._changed.notify_all()

        threading.Thread(target=listen, daemon=True).start()
        seen = -1
        while seen < 0 or not (done.is_set() or self._is_closing or not context.is_active()):
            with self._changed:
                desired = self._desired.setdefault(device_id, device_pb2.DesiredState(version=0))
                if desired.version == seen:
                    self._changed.wait(0.2)
                    continue
                seen = desired.version
                answer = device_pb2.DesiredState()
                answer.CopyFrom(desired)
            yield answer

    def FetchArtifact(  # noqa: N802 # named by the protocol
        self, request: device_pb2.FetchArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[device_pb2.ArtifactChunk]:
        self._refuse_if_told(context)
        device_id = _device(context)
        self.fetches.append((request.digest, request.offset))
        if request.digest not in self._bundles:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such artifact")
        sealed = self._sealed_for(device_id, request.digest)
        for offset in range(request.offset, len(sealed), 4096):
            if 0 < self.faults.cut_fetch_after <= offset:
                self.faults.cut_fetch_after = 0
                context.abort(grpc.StatusCode.UNAVAILABLE, "the line broke")
            if self.faults.fetch_lie == "hole" and offset == 4096:
                continue
            total_size = 8192 if self.faults.fetch_lie == "endless" else len(sealed)
            yield device_pb2.ArtifactChunk(
                total_size=total_size, offset=offset, data=sealed[offset : offset + 4096]
            )

    def _sealed_for(self, device_id: str, digest: str) -> bytes:
        if (device_id, digest) not in self._sealed:
            name, key = self.faults.seal_for or (device_id, self._sealing_keys[device_id])
            sealed = envelope.seal(self._bundles[digest], key, device_id=name, digest=digest)
            self._sealed[device_id, digest] = sealed
        sealed = self._sealed[device_id, digest]
        if self.faults.flip_artifact:
            sealed = sealed[:-20] + bytes([sealed[-20] ^ 1]) + sealed[-19:]
        return sealed

    def _refuse_if_told(self, context: grpc.ServicerContext) -> None:
        if self.faults.is_refusing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the cloud is away")
        if self.faults.is_rejecting:
            context.set_trailing_metadata((("cam-reason", "unauthenticated"),))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "its certificate is not in force")


def _device(context: grpc.ServicerContext) -> str:
    return context.auth_context()["x509_common_name"][0].decode()
