"""Messages of the protocol to result values. The only place of the client that reads them.

Every function is total over what a cloud may send: an enum number that is not known yet becomes
``UNKNOWN``, so that an older application keeps running against a newer cloud.
"""

import json
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.descriptor import EnumDescriptor

from camproto.v1 import api_pb2, device_pb2
from camsdk.client.results import (
    ApiToken,
    AppearanceHit,
    BootstrapTokens,
    CameraStatus,
    CloudStatus,
    DesiredState,
    Device,
    EventPage,
    EventRecord,
    Fleet,
    IngestStats,
    Model,
    ReportedState,
    SearchResult,
    TrackRecord,
    UpdateState,
)
from camsdk.client.rollouts import (
    ExecutionState,
    RolloutAction,
    RolloutExecution,
    RolloutState,
    RolloutStatus,
    Strategy,
)
from camsdk.errors import DataCorrupted, InvalidInput

E = TypeVar("E", bound=StrEnum)

_API = api_pb2.DESCRIPTOR.enum_types_by_name
_DEVICE = device_pb2.DESCRIPTOR.enum_types_by_name

ENUMS: dict[type[StrEnum], tuple[EnumDescriptor, str]] = {
    UpdateState: (_DEVICE["UpdateState"], "UPDATE_STATE_"),
    Strategy: (_API["RolloutStrategy"], "ROLLOUT_STRATEGY_"),
    RolloutState: (_API["RolloutState"], "ROLLOUT_STATE_"),
    ExecutionState: (_API["ExecutionState"], "EXECUTION_STATE_"),
    RolloutAction: (_API["RolloutAction"], "ROLLOUT_ACTION_"),
}
"""Each enum with its protocol twin and the prefix of that twin's names. A test compares them."""


def enum_from_number(kind: type[E], number: int) -> E:
    """The member for a protocol number; ``UNKNOWN`` for one that this SDK does not know."""
    twin, prefix = ENUMS[kind]
    value = twin.values_by_number.get(number)
    name = value.name.removeprefix(prefix) if value else ""
    return kind.__members__.get(name) or kind("unknown")


def enum_to_number(member: StrEnum) -> Any:
    """The protocol number of a member: an int, which the generated classes type more narrowly.

    Raises:
        InvalidInput: It is ``UNKNOWN``, which only an answer can be.
    """
    twin, prefix = ENUMS[type(member)]
    if member.name == "UNKNOWN":
        raise InvalidInput("'unknown' cannot be asked for", "choose one of the other values")
    return twin.values_by_name[prefix + member.name].number


def _box(values: Any) -> tuple[float, float, float, float] | None:
    box = tuple(float(value) for value in values)
    return (box[0], box[1], box[2], box[3]) if len(box) == 4 else None


def event_record(message: api_pb2.EventRecord) -> EventRecord:
    """An event of the log."""
    event = message.event
    return EventRecord(
        kind=event.kind,
        frame_index=event.frame_index,
        timestamp_s=event.timestamp_s,
        rule=event.rule,
        track_id=event.track_id,
        class_id=event.class_id,
        class_name=event.class_name,
        score=event.score,
        xyxy=_box(event.xyxy),
        attributes=MappingProxyType(dict(event.attributes)),
        event_id=message.event_id,
        device_id=message.device_id,
        fleet=message.fleet,
        camera_id=event.camera_id,
        session=event.session,
        epoch=event.epoch,
        sequence=event.sequence,
        received_timestamp_s=message.received_timestamp_s,
        cursor=message.cursor,
        model_digest=message.model_digest,
    )


def event_page(message: api_pb2.ListEventsResponse) -> EventPage:
    """One page of events."""
    return EventPage(tuple(event_record(row) for row in message.events), message.next_cursor)


def search_result(message: api_pb2.SearchAppearanceResponse) -> SearchResult:
    """Hits, in the cloud's order."""
    hits = tuple(
        AppearanceHit(
            device_id=hit.device_id,
            camera_id=hit.camera_id,
            session=hit.session,
            track_id=hit.track_id,
            class_id=hit.class_id,
            first_timestamp_s=hit.first_timestamp_s,
            last_timestamp_s=hit.last_timestamp_s,
            matched_timestamp_s=hit.matched_timestamp_s,
            similarity=hit.similarity,
        )
        for hit in message.hits
    )
    return SearchResult(hits, message.method)


def track_records(message: api_pb2.ListTracksResponse) -> tuple[TrackRecord, ...]:
    """Tracks, in the cloud's order."""
    return tuple(
        TrackRecord(
            device_id=row.device_id,
            camera_id=row.camera_id,
            session=row.session,
            track_id=row.track_id,
            class_id=row.class_id,
            first_timestamp_s=row.first_timestamp_s,
            last_timestamp_s=row.last_timestamp_s,
            frame_count=row.frame_count,
            last_xyxy=_box(row.last_xyxy),
        )
        for row in message.tracks
    )


def ingest_stats(message: api_pb2.IngestStats) -> IngestStats:
    """Counters of what was shipped."""
    return IngestStats(
        bytes_by_kind=MappingProxyType(dict(message.bytes_by_kind)),
        batch_count=message.batch_count,
        frame_count=message.frame_count,
        event_count=message.event_count,
        embedding_count=message.embedding_count,
        duplicate_batch_count=message.duplicate_batch_count,
        lost_batch_count=message.lost_batch_count,
        lost_event_count=message.lost_event_count,
        refused_row_count=message.refused_row_count,
    )


def cloud_status(message: api_pb2.CloudStatus) -> CloudStatus:
    """The cloud at a glance."""
    return CloudStatus(
        version=message.version,
        profile=message.profile,
        data_dir=message.data_dir,
        started_timestamp_s=message.started_timestamp_s,
        now_timestamp_s=message.now_timestamp_s,
        device_count=message.device_count,
        connected_device_count=message.connected_device_count,
        event_count=message.event_count,
        embedding_count=message.embedding_count,
        bus_depth=message.bus_depth,
        rejected_batch_count=message.rejected_batch_count,
    )


def fleet(message: api_pb2.Fleet) -> Fleet:
    """A fleet with its counts."""
    return Fleet(
        name=message.name,
        description=message.description,
        device_count=message.device_count,
        connected_count=message.connected_count,
        devices_by_artifact=MappingProxyType(dict(message.devices_by_artifact)),
        rules_digest=message.rules_digest,
        created_timestamp_s=message.created_timestamp_s,
    )


def _camera(message: device_pb2.CameraStatus) -> CameraStatus:
    return CameraStatus(
        camera_id=message.camera_id,
        session=message.session,
        is_online=message.is_online,
        is_finished=message.is_finished,
        frame_count=message.frame_count,
        dropped_frames=message.dropped_frames,
        detector_calls=message.detector_calls,
        reconnects=message.reconnects,
        last_frame_timestamp_s=message.last_frame_timestamp_s,
        cpu_ms_per_frame=message.cpu_ms_per_frame,
        detector_cpu_ms=message.detector_cpu_ms,
    )


def _reported(message: device_pb2.DeviceReport) -> ReportedState:
    return ReportedState(
        running_name=message.running_name,
        running_digest=message.running_digest,
        previous_digest=message.previous_digest,
        update_state=enum_from_number(UpdateState, message.update_state),
        update_digest=message.update_digest,
        detail=message.detail,
        desired_version=message.desired_version,
        rules_digest=message.rules_digest,
        agent_version=message.agent_version,
        cameras=tuple(_camera(row) for row in message.cameras),
        metrics=MappingProxyType(dict(message.metrics)),
    )


def device(message: api_pb2.Device) -> Device:
    """A device with both halves of its shadow."""
    desired = message.desired
    return Device(
        device_id=message.device_id,
        fleet=message.fleet,
        hardware=message.hardware,
        labels=MappingProxyType(dict(message.labels)),
        is_connected=message.is_connected,
        is_revoked=message.is_revoked,
        enrolled_timestamp_s=message.enrolled_timestamp_s,
        last_seen_timestamp_s=message.last_seen_timestamp_s,
        certificate_expires_timestamp_s=message.certificate_expires_timestamp_s,
        reported=_reported(message.reported),
        desired=DesiredState(
            version=desired.version,
            artifact_name=desired.artifact_name,
            artifact_digest=desired.artifact_digest,
            is_rollback=desired.is_rollback,
            rules_digest=desired.rules_digest,
        ),
    )


def bootstrap_tokens(message: api_pb2.BootstrapToken, fleet_name: str) -> BootstrapTokens:
    """Tokens for one fleet, which the message does not repeat."""
    return BootstrapTokens(
        tokens=tuple(message.tokens),
        fleet=fleet_name,
        expires_timestamp_s=message.expires_timestamp_s,
        enrolment_endpoint=message.enrolment_endpoint,
        ca_pem=message.ca_pem,
    )


def api_token(message: api_pb2.ApiToken, is_read_only: bool) -> ApiToken:
    """A user's token; the message does not repeat what it may do."""
    return ApiToken(message.name, message.token, is_read_only, message.expires_timestamp_s)


def model(message: api_pb2.Model) -> Model:
    """A release.

    Raises:
        DataCorrupted: Its manifest is not a JSON object.
    """
    try:
        manifest = json.loads(message.manifest_json or "{}")
    except ValueError as error:
        raise DataCorrupted(f"the manifest of {message.name} does not decode") from error
    if not isinstance(manifest, dict):
        raise DataCorrupted(f"the manifest of {message.name} is not an object")
    return Model(
        name=message.name,
        version=message.version,
        digest=message.digest,
        hardware=message.hardware,
        size_bytes=message.size_bytes,
        manifest=MappingProxyType(manifest),
        pushed_timestamp_s=message.pushed_timestamp_s,
        is_approved=message.is_approved,
    )


def rollout_status(message: api_pb2.Rollout) -> RolloutStatus:
    """A rollout at one moment."""
    executions = tuple(
        RolloutExecution(
            device_id=row.device_id,
            wave=row.wave,
            state=enum_from_number(ExecutionState, row.state),
            from_digest=row.from_digest,
            detail=row.detail,
            changed_timestamp_s=row.changed_timestamp_s,
            has_failed=row.has_failed,
        )
        for row in message.executions
    )
    return RolloutStatus(
        rollout_id=message.rollout_id,
        fleet=message.fleet,
        model_name=message.model_name,
        model_digest=message.model_digest,
        strategy=enum_from_number(Strategy, message.strategy),
        state=enum_from_number(RolloutState, message.state),
        current_wave=message.current_wave,
        wave_count=message.wave_count,
        executions=executions,
        detail=message.detail,
        created_timestamp_s=message.created_timestamp_s,
        ended_timestamp_s=message.ended_timestamp_s,
        max_failures=message.max_failures,
        revision=message.revision,
    )
