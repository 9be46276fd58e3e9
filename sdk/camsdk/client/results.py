"""What the cloud answers, as frozen values: events, tracks, search hits, fleets, devices, models.

Times are float seconds since the Unix epoch, sizes bytes. An unset time is 0.0, an unset text "".
Values that an older SDK does not know yet become ``UNKNOWN`` instead of an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from camsdk.vision.results import Event


class UpdateState(StrEnum):
    """What a device does with the artifact that it was told to run."""

    UNKNOWN = "unknown"
    IDLE = "idle"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    CANARY = "canary"
    TRIAL = "trial"
    GOOD = "good"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, kw_only=True)
class EventRecord(Event):
    """An event as the cloud stored it: what a rule saw, and who saw it.

    Attributes:
        event_id: ``DEVICE/EPOCH/SEQUENCE``; stored once, whatever was resent. Use it to
            recognise a repetition in what your application hands on.
        device_id: Device that shipped it, proved by its certificate.
        fleet: Fleet of that device.
        camera_id: Camera that saw it.
        session: Opening of the camera's source; ``track_id`` is unique within it.
        epoch: Life of the device's outbox.
        sequence: 1, 2, 3, ... without a gap within (device, epoch).
        received_timestamp_s: When the cloud had stored it.
        cursor: Position in the cloud's event log: give it to ``events(after_cursor=...)``.
        model_digest: Artifact that saw it, empty without one.
    """

    event_id: str
    device_id: str
    fleet: str
    camera_id: str
    session: int
    epoch: int
    sequence: int
    received_timestamp_s: float
    cursor: int
    model_digest: str


@dataclass(frozen=True)
class EventPage:
    """One page of stored events.

    Attributes:
        events: In the order asked for.
        next_cursor: Give it as ``after_cursor`` for the next page; 0 at the end.
    """

    events: tuple[EventRecord, ...]
    next_cursor: int

    def __iter__(self) -> Iterator[EventRecord]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


@dataclass(frozen=True)
class AppearanceHit:
    """A track that looks like the query.

    Attributes:
        matched_timestamp_s: When the matching code was taken; the track lasted from
            ``first_timestamp_s`` to ``last_timestamp_s``.
        similarity: Cosine of the codes, -1 to 1.
    """

    device_id: str
    camera_id: str
    session: int
    track_id: int
    class_id: int
    first_timestamp_s: float
    last_timestamp_s: float
    matched_timestamp_s: float
    similarity: float


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first.

    Attributes:
        method: Which appearance code was compared, e.g. ``hsv-stripes-128`` (a baseline).
    """

    hits: tuple[AppearanceHit, ...]
    method: str

    def __iter__(self) -> Iterator[AppearanceHit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True)
class TrackRecord:
    """One object on its way through one camera's picture.

    Attributes:
        last_xyxy: Last box, pixels of the camera's frame, or None.
    """

    device_id: str
    camera_id: str
    session: int
    track_id: int
    class_id: int
    first_timestamp_s: float
    last_timestamp_s: float
    frame_count: int
    last_xyxy: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class IngestStats:
    """What devices have shipped.

    Attributes:
        bytes_by_kind: ``tracks``, ``embeddings``, ``events``, ``crops``, ``envelope`` (the rest).
        duplicate_batch_count: Batches that were resent and recognised.
        lost_batch_count: Batches that devices had to drop before they could be sent.
        lost_event_count: Events that never came, or came in a batch that was set aside.
        refused_row_count: Codes and stills left out of batches that were stored.
    """

    bytes_by_kind: Mapping[str, int]
    batch_count: int
    frame_count: int
    event_count: int
    embedding_count: int
    duplicate_batch_count: int
    lost_batch_count: int
    lost_event_count: int
    refused_row_count: int


@dataclass(frozen=True)
class CloudStatus:
    """The cloud at a glance.

    Attributes:
        bus_depth: Batches taken but not yet analysed.
        rejected_batch_count: Batches set aside because they did not decode.
        profile: ``embedded`` or ``cluster``.
        data_dir: Embedded profile only.
        now_timestamp_s: The cloud's clock when it answered.
    """

    version: str
    profile: str
    data_dir: str
    started_timestamp_s: float
    now_timestamp_s: float
    device_count: int
    connected_device_count: int
    event_count: int
    embedding_count: int
    bus_depth: int
    rejected_batch_count: int


@dataclass(frozen=True)
class Fleet:
    """Cameras that are treated alike.

    Attributes:
        devices_by_artifact: ``name:version`` (or ``none``) to the number of devices that run it.
        rules_digest: Of the rules in force, empty without.
    """

    name: str
    description: str
    device_count: int
    connected_count: int
    devices_by_artifact: Mapping[str, int]
    rules_digest: str
    created_timestamp_s: float


@dataclass(frozen=True)
class CameraStatus:
    """One camera of a device, as last reported.

    Attributes:
        cpu_ms_per_frame: Of the pipeline without the detector.
        detector_cpu_ms: Per detector call.
        is_finished: A recording that has been read to its end.
    """

    camera_id: str
    session: int
    is_online: bool
    is_finished: bool
    frame_count: int
    dropped_frames: int
    detector_calls: int
    reconnects: int
    last_frame_timestamp_s: float
    cpu_ms_per_frame: float
    detector_cpu_ms: float


@dataclass(frozen=True)
class ReportedState:
    """What a device last said of itself.

    Attributes:
        running_name: ``name:version`` of the artifact in use, empty without one.
        previous_digest: Artifact in the other slot.
        update_digest: Artifact that ``update_state`` speaks of.
        detail: Why the update failed, one sentence.
        desired_version: Last desired state that the device has acted on.
        metrics: ``rss_bytes``, ``outbox_depth``, ...
    """

    running_name: str
    running_digest: str
    previous_digest: str
    update_state: UpdateState
    update_digest: str
    detail: str
    desired_version: int
    rules_digest: str
    agent_version: str
    cameras: tuple[CameraStatus, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class DesiredState:
    """What the cloud wants a device to run."""

    version: int
    artifact_name: str
    artifact_digest: str
    is_rollback: bool
    rules_digest: str


@dataclass(frozen=True)
class Device:
    """One enrolled camera box.

    Attributes:
        hardware: E.g. ``cpu-x86_64``; decides which artifacts it can run.
        last_seen_timestamp_s: When it last reported, 0 while it has never connected.
        reported, desired: The two halves of its shadow.
    """

    device_id: str
    fleet: str
    hardware: str
    labels: Mapping[str, str]
    is_connected: bool
    is_revoked: bool
    enrolled_timestamp_s: float
    last_seen_timestamp_s: float
    certificate_expires_timestamp_s: float
    reported: ReportedState
    desired: DesiredState


@dataclass(frozen=True)
class BootstrapTokens:
    """Tokens for new devices: single use, shown once.

    Attributes:
        tokens: Text for ``camctl agent enroll --token``.
        ca_pem: The cloud's CA certificate; the tokens contain it too.
    """

    tokens: tuple[str, ...]
    fleet: str
    expires_timestamp_s: float
    enrolment_endpoint: str
    ca_pem: bytes


@dataclass(frozen=True)
class ApiToken:
    """A token for a person or an application, shown once."""

    name: str
    token: str
    is_read_only: bool
    expires_timestamp_s: float


@dataclass(frozen=True)
class AppliedRules:
    """What applying a rules file did, or would do.

    Attributes:
        device_count: Devices of the fleet that the rules reach.
        warnings: What the rules name that the fleet does not know, a sentence each: cameras that
            none of its devices has reported, classes that its released model does not have.
    """

    rules_digest: str
    device_count: int
    is_dry_run: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """A release in the registry. Versions never change once pushed.

    Attributes:
        digest: sha256 of the signed bundle, hex.
        manifest: The bundle's manifest as JSON values.
    """

    name: str
    version: str
    digest: str
    hardware: str
    size_bytes: int
    manifest: Mapping[str, Any]
    pushed_timestamp_s: float
    is_approved: bool

    @property
    def reference(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"
