"""The three gRPC listeners: their credentials, limits and guards.

| listener  | who calls            | TLS                    | then                            |
|-----------|----------------------|------------------------|---------------------------------|
| api       | people, applications | server certificate     | API token, read-only or full    |
| device    | enrolled devices     | certificates both ways | certificate in force, each call |
| enrolment | devices to be        | server certificate     | bootstrap token, single use     |

Every listener refuses TLS below 1.2: gRPC's core offers no older version, and its cipher suites
exist in TLS 1.2 and 1.3 alone. Python has no switch for it, so a test shakes hands with older
versions and must be refused.
"""

import datetime
import ipaddress
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
from cryptography import x509

from camcloud.analysis.images import MAX_BYTES as MAX_PICTURE_BYTES
from camcloud.api.errors import map_errors
from camcloud.api.interception import Admission, GuardInterceptor, admit_all
from camcloud.fleet.authority import CertificateAuthority, ServerCertificate
from camcloud.fleet.files import write_file
from camsdk.errors import InvalidInput, Unavailable
from camsdk.wire import MAX_PAYLOAD_BYTES

_LOG = logging.getLogger(__name__)

Options = Sequence[tuple[str, int]]

_COMMON: Final[tuple[tuple[str, int], ...]] = (
    # Two processes must not share a port by accident: the second is to fail.
    ("grpc.so_reuseport", 0),
    ("grpc.max_metadata_size", 16 << 10),
    # A silent connection would stay open for 40 s.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every 5 s, to notice a dead link early.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
)
_HOUR_MS: Final = 3_600_000
API_OPTIONS: Final[Options] = (
    *_COMMON,
    # The largest is a picture to search with.
    ("grpc.max_receive_message_length", MAX_PICTURE_BYTES + (64 << 10)),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_connection_age_ms", _HOUR_MS),
    ("grpc.max_connection_age_grace_ms", 30_000),
)
DEVICE_OPTIONS: Final[Options] = (
    *_COMMON,
    ("grpc.max_receive_message_length", MAX_PAYLOAD_BYTES + (64 << 10)),
    # A connection outlives its certificate; this bounds by how much, whatever else fails.
    ("grpc.max_connection_age_ms", _HOUR_MS),
    ("grpc.max_connection_age_grace_ms", 10_000),
    ("grpc.max_concurrent_streams", 32),
)
ENROLMENT_OPTIONS: Final[Options] = (
    *_COMMON,
    ("grpc.max_receive_message_length", 64 << 10),
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.max_concurrent_streams", 64),
)


@dataclass(frozen=True)
class Address:
    """Where a listener binds; port 0 takes a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """``HOST:PORT``; an IPv6 host stands in brackets.

        Raises:
            InvalidInput: Not of that form.
        """
        host, separator, port = text.rpartition(":")
        if not separator or not host or not port.isdecimal() or int(port) > 65_535:
            raise InvalidInput(f"{text!r} is no address.", "give HOST:PORT, such as 127.0.0.1:8443")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def above(self, count: int) -> "Address":
        """The address ``count`` ports higher, or any free port if this one is free to choose."""
        return Address(self.host, self.port + count if self.port else 0)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ServerIdentity:
    """The certificate of all listeners, renewed in time without a restart.

    Args:
        authority: Signs it.
        hosts: Names and addresses that clients may use.
        folder: Keeps ``server.key`` and ``server.pem``.
        now: The present, with its time zone.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        hosts: Sequence[str],
        folder: Path,
        *,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._authority = authority
        self._hosts = tuple(hosts)
        self._folder = folder
        self._now = now
        self._lock = threading.Lock()  # handshakes ask from gRPC's threads
        self._current = self._issue()

    @property
    def current(self) -> ServerCertificate:
        """The certificate that the next handshake shows, a new one if it is about to expire."""
        with self._lock:
            certificate = self._current.certificate
            if self._now() >= _renewal(certificate):
                self._current = self._issue()
            return self._current

    def credentials(self, *, wants_client: bool) -> grpc.ServerCredentials:
        """TLS credentials for one listener (gRPC keeps the state of the renewal in them).

        Args:
            wants_client: A client must show a certificate of the authority.
        """
        shown = self.current

        def configuration() -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(shown.key_pem, shown.chain_pem)], self._authority.ca_pem if wants_client else None
            )

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            newest = self.current
            if newest is shown:
                return None
            shown = newest
            return configuration()

        return grpc.dynamic_ssl_server_credentials(
            configuration(),
            fetch,  # type: ignore[arg-type] # the stubs omit None, "nothing new"
            wants_client,
        )

    def _issue(self) -> ServerCertificate:
        made = self._authority.issue_server(self._hosts)
        write_file(self._folder / "server.key", made.key_pem, is_private=True)
        write_file(self._folder / "server.pem", made.chain_pem, is_private=False)
        _LOG.info("server certificate for %s issued", ", ".join(self._hosts))
        return made


def make_server(admit: Admission | None, options: Options) -> grpc.aio.Server:
    """A server whose calls run if and as ``admit`` says, and whose errors travel by their table."""
    errors = admit_all(map_errors)
    admissions = [errors] if admit is None else [errors, admit]
    return grpc.aio.server(
        interceptors=[GuardInterceptor(item) for item in admissions], options=list(options)
    )


def bind(server: grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials) -> Address:
    """Binds and says where.

    Raises:
        Unavailable: The port is taken or not ours to take.
    """
    try:
        port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        port = 0
        cause: Exception | None = error
    else:
        cause = None
    if port == 0:
        raise Unavailable(
            f"{address} cannot be bound.",
            "another process has the port: the cloud needs three ports in a row, from that of "
            "--grpc on; choose others, or port 0 for free ones",
        ) from cause
    return Address(address.host, port)


def _renewal(certificate: x509.Certificate) -> datetime.datetime:
    """When two thirds of its life are over."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3
