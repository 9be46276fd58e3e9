"""Where the cloud is and how to be let in: endpoint, API token, trusted certificate.

There is no plaintext mode: a token that travels in the clear is a token given away.
"""

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from camsdk import __version__
from camsdk.errors import InvalidInput, Unauthenticated

DEFAULT_PORT = 8443

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.primary_user_agent", f"camsdk/{__version__}"),
    # A manifest or a page of 1,000 events is well below; more is not ours.
    ("grpc.max_receive_message_length", 32 << 20),
    # A dead connection under a quiet stream is noticed within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own pause between connection attempts would otherwise grow to 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3_000),
)


@dataclass(frozen=True)
class Credentials:
    """Who is asking, and whose certificate is trusted.

    Attributes:
        token: API token, sent with every call; kept out of ``repr``.
        ca_pem: CA certificate, PEM; None trusts the certificates of the operating system.
    """

    token: str = field(repr=False)
    ca_pem: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.token or not self.token.isascii() or not self.token.isprintable():
            raise InvalidInput("the API token is empty or not one line of ASCII text")
        if self.ca_pem is not None:
            _check_certificate(self.ca_pem)

    @staticmethod
    def from_files(
        token_file: Path | str, ca_file: Path | str | None = None, *, token: str = ""
    ) -> "Credentials":
        """Reads the token (blanks around it are ignored) and the CA certificate.

        Args:
            token_file: Not read if ``token`` is given.
            ca_file: None trusts the certificates of the operating system.
            token: The token itself, for who has it from elsewhere.

        Raises:
            Unauthenticated: A file is missing or unreadable.
            InvalidInput: The token file holds no token.
        """
        text = token or _read(Path(token_file), "the API token").decode("utf-8", "replace")
        ca_pem = None if ca_file is None else _read(Path(ca_file), "the CA certificate")
        return Credentials(text.strip(), ca_pem)

    def for_channel(self) -> grpc.ChannelCredentials:
        """TLS with the token in the metadata; gRPC sends it over verified connections only."""
        return grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(root_certificates=self.ca_pem),
            grpc.access_token_call_credentials(self.token),
        )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unauthenticated(
            f"{what} cannot be read from {path}: {error.strerror}",
            "name the right file, or start an embedded cloud with `camctl serve`",
        ) from error


def _check_certificate(pem: bytes) -> None:
    # gRPC would only say that the cloud is unavailable.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(
            "the CA certificate is not valid PEM", "give the ca.pem of the cloud's data folder"
        ) from error


_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?/?")


def parse_endpoint(text: str) -> str:
    """``host:port`` for gRPC from ``grpcs://host[:port]`` or ``host[:port]``.

    Raises:
        InvalidInput: Another scheme, a path, or no valid host and port.
    """
    scheme, separator, rest = text.strip().rpartition("://")
    if separator and scheme != "grpcs":
        raise InvalidInput(f"endpoint {text!r} has scheme {scheme!r}", "use grpcs://host:port")
    match = _HOST_PORT.fullmatch(rest)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise InvalidInput(f"{text!r} is not an endpoint", "use grpcs://host:port")
    return f"{match['host']}:{port}"
