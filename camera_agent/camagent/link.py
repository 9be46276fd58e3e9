"""``CloudLink``: the one mTLS channel that upload, shadow and updater share, and its renewal.

Facts that shaped it (design: security): a refused handshake looks like an outage, so expiry is read
from the own certificate; open streams outlive a renewed certificate, so each renewal makes a new
channel and counts ``generation`` up, and streams move over by themselves while the old channel
still carries them. With keepalive 5 s and back-off capped at 3 s a link is back within a second or
two of the network.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc

from camagent.identity import (
    Identity,
    expiry_text,
    load_identity,
    new_key,
    save_identity,
    signing_request,
)
from camproto.v1 import device_pb2, device_pb2_grpc
from camsdk.errors import (
    ERROR_BY_REASON,
    WIRE_ERRORS,
    CamError,
    Unauthenticated,
    Unavailable,
)

_log = logging.getLogger(__name__)

UNARY_TIMEOUT_S: Final = 10.0
_CHANNEL_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.max_receive_message_length", 5 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # a renewed certificate must not reuse the connection
)
_RENEWAL_RETRY_S: Final = 60.0


class Backoff:
    """Pauses between attempts: doubling from ``first_s`` to ``cap_s``, with jitter.

    It also knows whether a failure is news: an outage of a night is one line in the log.
    """

    def __init__(self, first_s: float = 0.1, cap_s: float = 3.0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._pause_s = first_s
        self._last: type[CamError] | None = None

    def is_news(self, error: CamError) -> bool:
        """Whether the attempts have not failed in this way since the last success."""
        is_news = type(error) is not self._last
        self._last = type(error)
        return is_news

    def next_s(self) -> float:
        """The next pause, seconds."""
        pause_s = self._pause_s
        self._pause_s = min(self._cap_s, 2 * pause_s)
        return pause_s * random.uniform(0.75, 1.0)  # noqa: S311 # spreads load, no secret

    def reset(self) -> None:
        """After a success."""
        self._pause_s = self._first_s
        self._last = None


def cam_error(
    error: grpc.RpcError, endpoint: str, identity: Identity | None, now_s: float
) -> CamError:
    """Our error for one of gRPC's; an expired certificate explains an unreachable cloud."""
    code = error.code().name
    metadata = {item.key: item.value for item in error.trailing_metadata() or ()}
    cls = ERROR_BY_REASON.get(str(metadata.get("cam-reason", "")))
    is_answer = cls is not None
    if cls is None:
        names = {wire.grpc_status: cls for cls, wire in reversed(WIRE_ERRORS.items())}
        cls = names.get(code, Unavailable)
    if cls is Unavailable and identity is not None and identity.has_expired(now_s):
        return Unauthenticated(
            f"this device's certificate expired at {expiry_text(identity)}",
            "enrol it again with a new token and --replace; what it has seen waits in its outbox",
        )
    details = error.details() or f"it answered {code}"
    message = _text(metadata.get("cam-message-bin", details))  # without it, both stand in details
    if is_answer and cls is Unauthenticated and identity is not None:
        return Unauthenticated(
            f"the cloud no longer accepts this device: {message}",
            "enrol it again with a new token and --replace",
        )
    if is_answer or cls is not Unavailable:
        return cls(message, _text(metadata.get("cam-hint-bin", "")))
    return Unavailable(
        f"the cloud at {endpoint} cannot be reached",
        f"check the address, the network, and that the cloud runs; gRPC says: {details:.160}",
    )


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class CloudLink:
    """Channel of an enrolled device. Safe to use from several threads.

    Args:
        identity: Who this device is.
        data_dir: Where a renewed identity is kept.
        clock: Wall clock, seconds since the Unix epoch: only certificates are judged by it.
    """

    def __init__(
        self, identity: Identity, data_dir: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._data_dir = data_dir
        self._clock = clock
        self._lock = threading.Lock()
        self._identity = identity
        self._channel = _open_channel(identity)
        self._old_channel: grpc.Channel | None = None
        self._generation = 1
        self._next_attempt_s = float("-inf")

    @property
    def identity(self) -> Identity:
        """Of now: renewal changes its certificate."""
        return self._identity

    @property
    def generation(self) -> int:
        """Counts the channels; a stream on an older one should move to the newest."""
        return self._generation

    def gateway(self) -> device_pb2_grpc.DeviceGatewayStub:
        """Stub on the newest channel."""
        with self._lock:
            return device_pb2_grpc.DeviceGatewayStub(self._channel)

    def explain(self, error: grpc.RpcError) -> CamError:
        """Our error for one of gRPC's, in view of the own certificate."""
        return cam_error(error, self._identity.endpoint, self._identity, self._clock())

    def renew_if_due(self) -> bool:
        """Renews the certificate when its time has come; True if there is a new one.

        A failure is logged and tried again a minute later: a third of the life is left for that.
        Once expired, only a new enrolment helps: its file is taken over without a restart.
        """
        now_s = self._clock()
        if self._identity.has_expired(now_s):
            return self._take_over(now_s)
        # A pause that is longer than any means that the clock was set back since.
        is_resting = now_s < self._next_attempt_s <= now_s + _RENEWAL_RETRY_S
        if is_resting or now_s < self._identity.renewal_due_s():
            return False
        self._next_attempt_s = now_s + _RENEWAL_RETRY_S
        try:
            self.renew()
        except CamError as error:
            _log.warning("the certificate was not renewed: %s", error)
            return False
        _log.info("the certificate was renewed until %s", expiry_text(self._identity))
        return True

    def renew(self) -> None:
        """Gets a certificate for a new key, keeps it, and opens a channel with it.

        Raises:
            CamError: the cloud cannot be reached, refuses, or answers nonsense.
        """
        key_pem = new_key()
        request = device_pb2.RenewCertificateRequest(
            csr_der=signing_request(key_pem, self._identity.device_id)
        )
        try:
            answer = self.gateway().RenewCertificate(request, timeout=UNARY_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self.explain(error) from error
        following = self._identity.renewed(key_pem, answer.certificate_chain_pem, answer.ca_pem)
        self.adopt(following)

    def _take_over(self, now_s: float) -> bool:
        """Takes the identity on disk if somebody has enrolled this device again."""
        try:
            found = load_identity(self._data_dir)
        except CamError as error:
            _log.debug("no other identity: %s", error)
            return False
        if found.has_expired(now_s):
            return False
        self._move_to(found)
        _log.info("enrolled again as %s", found.device_id)
        return True

    def adopt(self, identity: Identity) -> None:
        """Keeps an identity and moves to a channel with it; the old one lives until the next.

        Raises:
            ResourceExhausted: the disk takes no identity; this one stays as it is.
        """
        save_identity(identity, self._data_dir)
        self._move_to(identity)

    def _move_to(self, identity: Identity) -> None:
        with self._lock:
            if self._old_channel is not None:
                self._old_channel.close()
            self._old_channel, self._channel = self._channel, _open_channel(identity)
            self._identity = identity
            self._generation += 1

    def close(self) -> None:
        """Ends everything that is under way on it."""
        with self._lock:
            self._channel.close()
            if self._old_channel is not None:
                self._old_channel.close()


def _open_channel(identity: Identity) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.ca_pem,
        private_key=identity.key_pem,
        certificate_chain=identity.chain_pem,
    )
    return grpc.secure_channel(identity.endpoint, credentials, options=_CHANNEL_OPTIONS)
