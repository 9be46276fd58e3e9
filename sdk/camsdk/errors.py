"""Every error that the platform raises on purpose, and what each means on the wire.

    CamError
    ├── InvalidInput            the caller's value is wrong: says which and what to give instead
    │   └── UnsupportedModel    a model file uses what cannot be imported or run
    ├── NotFound                nothing has that name
    ├── AlreadyExists           that name is taken
    ├── Conflict                the state has moved on (stale version, wrong phase)
    ├── Unauthenticated         no, expired, revoked or unknown credentials
    ├── PermissionDenied        known, but not allowed
    ├── ArtifactRefused         signature, digest, hardware, version or recipient do not fit
    ├── ResourceExhausted       a stated limit (size, rate, disk) was reached
    ├── Unavailable             the other side cannot be reached now; a retry may help
    ├── DeadlineExceeded        no answer in time
    ├── SourceError             a camera or recording cannot be opened or read
    ├── RuntimeFailure          a model could not be loaded or run on the device
    ├── AssetError              an asset cannot be fetched or does not match its pin
    ├── DataCorrupted           stored or received bytes do not decode
    └── InternalError           our own mistake

The message is one sentence for the person at the keyboard; ``hint`` says the way out.
"""

from dataclasses import dataclass


class CamError(Exception):
    """Root of every deliberate error.

    Args:
        message: One sentence that says what is wrong.
        hint: What to do about it, or empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInput(CamError):
    """The caller's value is wrong."""


class UnsupportedModel(InvalidInput):
    """A model file uses something that cannot be imported or run."""


class NotFound(CamError):
    """Nothing has that name."""


class AlreadyExists(CamError):
    """That name is taken."""


class Conflict(CamError):
    """The state has moved on."""


class Unauthenticated(CamError):
    """No, expired, revoked or unknown credentials."""


class PermissionDenied(CamError):
    """Known, but not allowed."""


class ArtifactRefused(CamError):
    """An artifact's signature, digest, hardware, version or recipient does not fit."""


class ResourceExhausted(CamError):
    """A stated limit was reached."""


class Unavailable(CamError):
    """The other side cannot be reached now."""


class DeadlineExceeded(CamError):
    """No answer in time."""


class SourceError(CamError):
    """A camera or recording cannot be opened or read."""


class RuntimeFailure(CamError):
    """A model could not be loaded or run on the device."""


class AssetError(CamError):
    """An asset cannot be fetched or does not match its pin."""


class DataCorrupted(CamError):
    """Stored or received bytes do not decode."""


class InternalError(CamError):
    """Our own mistake."""


@dataclass(frozen=True)
class WireError:
    """How one error class travels.

    Attributes:
        grpc_status: Name of the ``grpc.StatusCode`` member.
        reason: Stable code sent in the trailing metadata key ``cam-reason``.
        is_message_public: Whether the message may reach the caller; if not, ``public`` does.
        public: Sentence for a caller who must not see details.
    """

    grpc_status: str
    reason: str
    is_message_public: bool
    public: str


WIRE_ERRORS: dict[type[CamError], WireError] = {
    InvalidInput: WireError("INVALID_ARGUMENT", "invalid-input", True, "The request is not valid."),
    UnsupportedModel: WireError(
        "INVALID_ARGUMENT", "unsupported-model", True, "This model cannot be used."
    ),
    NotFound: WireError("NOT_FOUND", "not-found", True, "Nothing has that name."),
    AlreadyExists: WireError("ALREADY_EXISTS", "already-exists", True, "That name is taken."),
    Conflict: WireError("ABORTED", "conflict", True, "The state has changed; read it again."),
    Unauthenticated: WireError(
        "UNAUTHENTICATED", "unauthenticated", True, "Valid credentials are needed."
    ),
    PermissionDenied: WireError("PERMISSION_DENIED", "permission-denied", True, "Not allowed."),
    ArtifactRefused: WireError(
        "FAILED_PRECONDITION", "artifact-refused", True, "The artifact was refused."
    ),
    ResourceExhausted: WireError(
        "RESOURCE_EXHAUSTED", "resource-exhausted", True, "A limit was reached."
    ),
    Unavailable: WireError("UNAVAILABLE", "unavailable", True, "Not available now; try again."),
    DeadlineExceeded: WireError(
        "DEADLINE_EXCEEDED", "deadline-exceeded", True, "No answer in time."
    ),
    SourceError: WireError("FAILED_PRECONDITION", "source", True, "The camera cannot be read."),
    RuntimeFailure: WireError(
        "FAILED_PRECONDITION", "runtime", True, "The model could not be run."
    ),
    AssetError: WireError("FAILED_PRECONDITION", "asset", True, "The asset is not available."),
    DataCorrupted: WireError("DATA_LOSS", "data-corrupted", True, "The data does not decode."),
    InternalError: WireError(
        "INTERNAL", "internal", False, "Something went wrong in the cloud; its log says more."
    ),
}
"""One row a class; ``CamError`` travels as ``InternalError``. A test demands completeness."""

ERROR_BY_REASON: dict[str, type[CamError]] = {row.reason: cls for cls, row in WIRE_ERRORS.items()}
