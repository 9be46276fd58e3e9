"""What went wrong in a call, as a :class:`~camsdk.errors.CamError`, and whether to try again.

The cloud names its error in the trailing metadata: ``cam-reason``, and beside it the message and
the way out (``cam-message-bin``, ``cam-hint-bin``, UTF-8), so that the very same exception is
raised here. An error that gRPC itself made (no connection, no answer in time) has none of them and
is told apart by its status.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from camsdk.errors import (
    ERROR_BY_REASON,
    AlreadyExists,
    CamError,
    Conflict,
    DataCorrupted,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

REASON_KEY = "cam-reason"
MESSAGE_KEY = "cam-message-bin"
HINT_KEY = "cam-hint-bin"

_BY_STATUS: dict[grpc.StatusCode, type[CamError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.DATA_LOSS: DataCorrupted,
}

_CLUES = {
    "DNS resolution failed": ": its name is not known",
    "Connection refused": ": nothing listens there",
}
"""What gRPC's wordy details mean, where they mean one thing."""


def error_of(
    status: grpc.StatusCode,
    details: str,
    trailing: Iterable[tuple[str, str | bytes]],
    target: str,
) -> CamError:
    """The error that a failed call means.

    Args:
        status: gRPC status of the call.
        details: Its message.
        trailing: Its trailing metadata.
        target: ``host:port`` of the cloud, for the message.
    """
    fields = dict(trailing)
    reason = fields.get(REASON_KEY, "")
    if reason:
        kind = ERROR_BY_REASON.get(str(reason)) or _BY_STATUS.get(status, InternalError)
        return kind(_text(fields.get(MESSAGE_KEY, details)), _text(fields.get(HINT_KEY, "")))
    return _transport_error(status, details, target)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _transport_error(status: grpc.StatusCode, details: str, target: str) -> CamError:
    """An error that the cloud did not word."""
    if status is grpc.StatusCode.UNAVAILABLE:
        if "CERTIFICATE_VERIFY_FAILED" in details or "Peer name" in details:
            return Unauthenticated(
                f"the certificate of {target} is not trusted or is for another name",
                "give this cloud's CA certificate (camctl: --ca) and the name it was made for",
            )
        why = next((words for clue, words in _CLUES.items() if clue in details), "")
        return Unavailable(
            f"the cloud at {target} cannot be reached{why}",
            "check the address, and that `camctl serve` runs there",
        )
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"the cloud at {target} did not answer in time", "try again, or allow more time"
        )
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return Conflict(
            f"the cloud at {target} does not know this call", "bring cloud and SDK to one version"
        )
    kind = _BY_STATUS.get(status, InternalError)
    return kind(details or f"the call to {target} failed: {status.name}")


@dataclass(frozen=True)
class RetryPolicy:
    """When a call is sent again: only if it is idempotent and the cloud could not be reached.

    Attributes:
        max_attempts: Calls in all; 4 bridge the second that a cloud needs to restart.
        first_delay_s: Pause before the second call; doubles from call to call.
        max_delay_s: Longest pause.
    """

    max_attempts: int = 4
    first_delay_s: float = 0.1
    max_delay_s: float = 3.0

    def delay_s(
        self, attempt: int, error: CamError, *, is_idempotent: bool, remaining_s: float
    ) -> float | None:
        """Seconds to wait before the next call, or None to give up.

        Args:
            attempt: Number of calls made so far, from 1.
            error: How the last one failed.
            is_idempotent: Whether a second call does no harm.
            remaining_s: Until the deadline of the whole.
        """
        if not is_idempotent or not isinstance(error, Unavailable) or attempt >= self.max_attempts:
            return None
        delay = self.pause_s(attempt)
        return delay if delay < remaining_s else None

    def pause_s(self, attempt: int) -> float:
        """Pause after the given number of failures, with jitter so that clients spread out."""
        longest = min(self.first_delay_s * 2.0 ** min(attempt - 1, 16), self.max_delay_s)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter needs no secrecy
