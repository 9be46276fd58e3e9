"""Every call of the API as a value: method, request, how to read the answer, whether to repeat it.

The synchronous and the asynchronous client are two ways of sending these; neither knows a message.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from camproto.v1 import api_pb2
from camsdk.client import messages
from camsdk.client.moments import Moment, seconds
from camsdk.client.results import (
    ApiToken,
    AppliedRules,
    BootstrapTokens,
    CloudStatus,
    Device,
    EventPage,
    EventRecord,
    Fleet,
    IngestStats,
    Model,
    SearchResult,
    TrackRecord,
)
from camsdk.client.rollouts import RolloutAction, RolloutStatus, Strategy
from camsdk.errors import InvalidInput

T = TypeVar("T")

Image = bytes | str | Path | NDArray[np.uint8]
"""A picture to search for: JPEG or PNG bytes, a path to such a file, or RGB (height, width, 3)."""

PUSH_CHUNK_BYTES = 256 << 10
PUSH_TIMEOUT_S = 300.0
MAX_IMAGE_BYTES = 3 << 20
"""Below gRPC's limit of 4 MiB a message; a crop of one person has some 20 kB."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call.

    Attributes:
        method: Name in the service.
        request: The message, or for an upload a function that gives the messages anew.
        parse: Answer to result.
        is_idempotent: Whether sending it twice does no harm: only then is it sent again.
        timeout_s: Longer deadline than the client's own, or None.
    """

    method: str
    request: Message | Callable[[], Iterator[Message]]
    parse: Callable[[Any], T]
    is_idempotent: bool = True
    timeout_s: float | None = None


@dataclass(frozen=True)
class EventFilter:
    """Which events: an empty field means any.

    Attributes:
        since, until: Capture time, inclusive and exclusive.
    """

    fleet: str = ""
    device: str = ""
    camera: str = ""
    kinds: Sequence[str] = field(default=())
    since: Moment | None = None
    until: Moment | None = None

    def to_message(self) -> api_pb2.EventFilter:
        """As the protocol has it.

        Raises:
            InvalidInput: ``kinds`` is one text instead of several, or a time is no time.
        """
        if isinstance(self.kinds, str):
            raise InvalidInput(f"kinds is {self.kinds!r}", f"give a list: [{self.kinds!r}]")
        return api_pb2.EventFilter(
            fleet=self.fleet,
            device_id=self.device,
            camera_id=self.camera,
            kinds=list(self.kinds),
            since_s=seconds(self.since),
            until_s=seconds(self.until),
        )


def get_status() -> Call[CloudStatus]:
    """The cloud at a glance."""
    return Call("GetStatus", api_pb2.GetStatusRequest(), messages.cloud_status)


def list_events(
    where: EventFilter, limit: int, after_cursor: int, newest_first: bool
) -> Call[EventPage]:
    """One page of stored events."""
    request = api_pb2.ListEventsRequest(
        filter=where.to_message(),
        limit=_count(limit, "limit", 1000),
        after_cursor=after_cursor,
        newest_first=newest_first,
    )
    return Call("ListEvents", request, messages.event_page)


def get_event(event_id: str) -> Call[EventRecord]:
    """One event."""
    return Call("GetEvent", api_pb2.GetEventRequest(event_id=event_id), messages.event_record)


def event_crop(event: str | EventRecord) -> Call[bytes]:
    """The JPEG that came with an event."""
    request = api_pb2.GetEventCropRequest(event_id=_event_id(event))

    def parse(answer: api_pb2.EventCrop) -> bytes:
        return answer.jpeg

    return Call("GetEventCrop", request, parse)


def search(
    image: Image | None,
    event: str | EventRecord | None,
    code: bytes | NDArray[np.int8] | None,
    top_k: int,
    fleet: str,
    since: Moment | None,
    until: Moment | None,
) -> Call[SearchResult]:
    """Tracks that look like the query, which is exactly one of image, event and code."""
    if sum(query is not None for query in (image, event, code)) != 1:
        raise InvalidInput("a search needs exactly one of image, event and code")
    request = api_pb2.SearchAppearanceRequest(
        top_k=_count(top_k, "top_k", 200),
        fleet=fleet,
        since_s=seconds(since),
        until_s=seconds(until),
    )
    if image is not None:
        request.image = _image_bytes(image)
    elif event is not None:
        request.event_id = _event_id(event)
    elif isinstance(code, bytes):
        request.code = code
    else:
        request.code = np.asarray(code, np.int8).tobytes()
    return Call("SearchAppearance", request, messages.search_result)


def ingest_stats(device: str, camera: str) -> Call[IngestStats]:
    """What was shipped, by all or by one."""
    request = api_pb2.GetIngestStatsRequest(device_id=device, camera_id=camera)
    return Call("GetIngestStats", request, messages.ingest_stats)


def list_tracks(
    device: str, camera: str, since: Moment | None, until: Moment | None, limit: int
) -> Call[tuple[TrackRecord, ...]]:
    """Tracks seen in a span of time."""
    request = api_pb2.ListTracksRequest(
        device_id=device,
        camera_id=camera,
        since_s=seconds(since),
        until_s=seconds(until),
        limit=_count(limit, "limit", 1000),
    )
    return Call("ListTracks", request, messages.track_records)


def create_fleet(name: str, description: str) -> Call[Fleet]:
    """A new fleet; a repetition would answer that it exists."""
    request = api_pb2.CreateFleetRequest(name=name, description=description)
    return Call("CreateFleet", request, messages.fleet, is_idempotent=False)


def list_fleets() -> Call[tuple[Fleet, ...]]:
    """All fleets."""

    def parse(answer: api_pb2.ListFleetsResponse) -> tuple[Fleet, ...]:
        return tuple(messages.fleet(row) for row in answer.fleets)

    return Call("ListFleets", api_pb2.ListFleetsRequest(), parse)


def get_fleet(name: str) -> Call[Fleet]:
    """One fleet."""
    return Call("GetFleet", api_pb2.GetFleetRequest(name=name), messages.fleet)


def create_bootstrap_token(fleet: str, lifetime_s: float, count: int) -> Call[BootstrapTokens]:
    """Tokens for new devices; a repetition would make more of them."""
    request = api_pb2.CreateBootstrapTokenRequest(
        fleet=fleet, lifetime_s=lifetime_s, count=_count(count, "count", 1000)
    )

    def parse(answer: api_pb2.BootstrapToken) -> BootstrapTokens:
        return messages.bootstrap_tokens(answer, fleet)

    return Call("CreateBootstrapToken", request, parse, is_idempotent=False)


def create_api_token(name: str, lifetime_s: float, is_read_only: bool) -> Call[ApiToken]:
    """A token for a person or an application."""
    request = api_pb2.CreateApiTokenRequest(
        name=name, lifetime_s=lifetime_s, is_read_only=is_read_only
    )

    def parse(answer: api_pb2.ApiToken) -> ApiToken:
        return messages.api_token(answer, is_read_only)

    return Call("CreateApiToken", request, parse, is_idempotent=False)


def list_devices(fleet: str) -> Call[tuple[Device, ...]]:
    """Devices, of one fleet or of all."""

    def parse(answer: api_pb2.ListDevicesResponse) -> tuple[Device, ...]:
        return tuple(messages.device(row) for row in answer.devices)

    return Call("ListDevices", api_pb2.ListDevicesRequest(fleet=fleet), parse)


def get_device(device_id: str) -> Call[Device]:
    """One device."""
    return Call("GetDevice", api_pb2.GetDeviceRequest(device_id=device_id), messages.device)


def label_device(device_id: str, labels: Mapping[str, str], remove: Iterable[str]) -> Call[Device]:
    """Sets and removes labels."""
    request = api_pb2.LabelDeviceRequest(
        device_id=device_id, set=dict(labels), remove=sorted(remove)
    )
    return Call("LabelDevice", request, messages.device)


def revoke_device(device_id: str, reason: str) -> Call[Device]:
    """Shuts a device out for good."""
    request = api_pb2.RevokeDeviceRequest(device_id=device_id, reason=reason)
    return Call("RevokeDevice", request, messages.device)


def apply_rules(fleet: str, rules_yaml: str, is_dry_run: bool) -> Call[AppliedRules]:
    """Puts rules in force; the same rules twice are the same state."""
    request = api_pb2.ApplyRulesRequest(fleet=fleet, rules_yaml=rules_yaml, is_dry_run=is_dry_run)

    def parse(answer: api_pb2.ApplyRulesResponse) -> AppliedRules:
        warnings = tuple(answer.warnings)
        return AppliedRules(answer.rules_digest, answer.device_count, is_dry_run, warnings)

    return Call("ApplyRules", request, parse)


def push_model(bundle: bytes | Path) -> Call[Model]:
    """Uploads a signed bundle in chunks; the same bundle twice is one release."""
    data = bundle if isinstance(bundle, bytes) else _file_bytes(bundle, "bundle")
    if not data:
        raise InvalidInput("the bundle is empty", "give a .cam file made by `camctl model sign`")

    def chunks() -> Iterator[Message]:
        for start in range(0, len(data), PUSH_CHUNK_BYTES):
            yield api_pb2.PushModelRequest(data=data[start : start + PUSH_CHUNK_BYTES])

    return Call("PushModel", chunks, messages.model, timeout_s=PUSH_TIMEOUT_S)


def list_models(name: str) -> Call[tuple[Model, ...]]:
    """Releases, of one name or all."""

    def parse(answer: api_pb2.ListModelsResponse) -> tuple[Model, ...]:
        return tuple(messages.model(row) for row in answer.models)

    return Call("ListModels", api_pb2.ListModelsRequest(name=name), parse)


def get_model(reference: str) -> Call[Model]:
    """One release."""
    return Call("GetModel", api_pb2.GetModelRequest(reference=reference), messages.model)


@dataclass(frozen=True)
class DeployOptions:
    """How a model reaches a fleet.

    Attributes:
        strategy: ``all-at-once``, ``canary`` (default: a fault costs one device) or ``waves``.
        canary_count, canary_percent: Size of the first wave; both 0 mean one device.
        wave_count: With ``waves``: equal waves after the first; 0 means 3.
        max_failures: Abort and roll back when more devices than this have failed.
        device_timeout_s: How long one device may take; 0 means 300.
        needs_approval: Start only once it is approved.
        is_rollback: Allow an older version than the one that runs.
    """

    strategy: Strategy | str = Strategy.CANARY
    canary_count: int = 0
    canary_percent: float = 0.0
    wave_count: int = 0
    max_failures: int = 0
    device_timeout_s: float = 0.0
    needs_approval: bool = False
    is_rollback: bool = False


def create_rollout(model: str, fleet: str, options: DeployOptions) -> Call[RolloutStatus]:
    """Starts a rollout; a repetition might start a second one."""
    if options.strategy not in list(Strategy):
        raise InvalidInput(
            f"no rollout strategy is called {options.strategy!r}",
            "choose all-at-once, canary or waves",
        )
    request = api_pb2.CreateRolloutRequest(
        model=model,
        fleet=fleet,
        canary_count=_count(options.canary_count, "canary_count", 1 << 31),
        canary_percent=options.canary_percent,
        wave_count=_count(options.wave_count, "wave_count", 1000),
        max_failures=_count(options.max_failures, "max_failures", 1 << 31),
        timeout_s=options.device_timeout_s,
        needs_approval=options.needs_approval,
        is_rollback=options.is_rollback,
    )
    request.strategy = messages.enum_to_number(Strategy(options.strategy))
    return Call("CreateRollout", request, messages.rollout_status, is_idempotent=False)


def get_rollout(rollout_id: str) -> Call[RolloutStatus]:
    """Where a rollout stands."""
    request = api_pb2.GetRolloutRequest(rollout_id=rollout_id)
    return Call("GetRollout", request, messages.rollout_status)


def list_rollouts(fleet: str) -> Call[tuple[RolloutStatus, ...]]:
    """Rollouts, newest first."""

    def parse(answer: api_pb2.ListRolloutsResponse) -> tuple[RolloutStatus, ...]:
        return tuple(messages.rollout_status(row) for row in answer.rollouts)

    return Call("ListRollouts", api_pb2.ListRolloutsRequest(fleet=fleet), parse)


def control_rollout(rollout_id: str, action: RolloutAction) -> Call[RolloutStatus]:
    """Steers a rollout; whoever repeats ``resume`` may undo another's ``pause``."""
    request = api_pb2.ControlRolloutRequest(rollout_id=rollout_id)
    request.action = messages.enum_to_number(action)
    return Call("ControlRollout", request, messages.rollout_status, is_idempotent=False)


def _event_id(event: str | EventRecord) -> str:
    return event.event_id if isinstance(event, EventRecord) else event


def _count(value: int, name: str, highest: int) -> int:
    if not 0 <= value <= highest:
        raise InvalidInput(f"{name} is {value}", f"give 0 to {highest}")
    return value


def _image_bytes(image: Image) -> bytes:
    """JPEG or PNG bytes; an array is sent as PNG, which loses nothing."""
    if isinstance(image, str | Path):
        data = _file_bytes(Path(image), "image")
    elif isinstance(image, bytes):
        data = image
    else:
        data = _png(image)
    if not 0 < len(data) <= MAX_IMAGE_BYTES:
        raise InvalidInput(
            f"the image has {len(data)} bytes, not 1 to {MAX_IMAGE_BYTES}",
            "crop it to one person or object",
        )
    return data


def _file_bytes(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the {what} {path} cannot be read: {error.strerror}") from error


def _png(rgb: NDArray[np.uint8]) -> bytes:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise InvalidInput(
            f"the image is {rgb.dtype} {rgb.shape}", "give uint8 RGB of shape (height, width, 3)"
        )
    import cv2  # heavy, and only wanted for arrays

    _, encoded = cv2.imencode(".png", rgb[:, :, ::-1])
    return bytes(encoded)
