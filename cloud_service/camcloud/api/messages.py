"""Builds the user API's messages from the control plane's values."""

from collections import Counter
from collections.abc import Mapping, Sequence

from camcloud.fleet.devices import DeviceRow, FleetRow
from camcloud.fleet.presence import Presence
from camcloud.registry import ModelRow
from camcloud.rollout.plan import ExecutionState, Plan, Rollout, RolloutState, Strategy
from camproto.v1 import api_pb2, device_pb2
from camsdk.errors import InvalidInput

DEFAULT_WAVE_COUNT = 3
DEFAULT_TIMEOUT_S = 300.0

STRATEGIES = {
    api_pb2.ROLLOUT_STRATEGY_UNSPECIFIED: Strategy.ALL_AT_ONCE,
    api_pb2.ROLLOUT_STRATEGY_ALL_AT_ONCE: Strategy.ALL_AT_ONCE,
    api_pb2.ROLLOUT_STRATEGY_CANARY: Strategy.CANARY,
    api_pb2.ROLLOUT_STRATEGY_WAVES: Strategy.WAVES,
}


def plan_of(request: api_pb2.CreateRolloutRequest) -> Plan:
    """The plan that a request asks for, its zeros replaced by the defaults.

    Raises:
        InvalidInput: A value is out of bounds, or the strategy is not known.
    """
    strategy = STRATEGIES.get(request.strategy)
    if strategy is None:
        raise InvalidInput(
            f"Strategy {request.strategy} is not known.", "all-at-once, canary or waves"
        )
    return Plan(
        strategy=strategy,
        canary_count=request.canary_count,
        canary_percent=request.canary_percent,
        wave_count=request.wave_count or DEFAULT_WAVE_COUNT,
        max_failures=request.max_failures,
        timeout_s=request.timeout_s or DEFAULT_TIMEOUT_S,
        needs_approval=request.needs_approval,
        is_rollback=request.is_rollback,
    )


def rollout_message(rollout: Rollout, references: Mapping[str, str]) -> api_pb2.Rollout:
    """A rollout; ``references`` gives the name of each digest."""
    return api_pb2.Rollout(
        rollout_id=rollout.rollout_id,
        fleet=rollout.fleet,
        model_name=references.get(rollout.digest, ""),
        model_digest=rollout.digest,
        strategy=api_pb2.RolloutStrategy.Value(_enum("ROLLOUT_STRATEGY", rollout.plan.strategy)),
        state=api_pb2.RolloutState.Value(_enum("ROLLOUT_STATE", rollout.state)),
        current_wave=max(rollout.waves_begun - 1, 0),
        wave_count=rollout.wave_count,
        executions=[
            api_pb2.RolloutExecution(
                device_id=item.device_id,
                wave=item.wave,
                state=api_pb2.ExecutionState.Value(_enum("EXECUTION_STATE", item.state)),
                from_digest=item.from_digest,
                detail=item.detail,
                changed_timestamp_s=item.changed_timestamp_s,
                has_failed=item.has_failed,
            )
            for item in rollout.executions
        ],
        detail=rollout.detail,
        created_timestamp_s=rollout.created_timestamp_s,
        ended_timestamp_s=rollout.ended_timestamp_s,
        max_failures=rollout.plan.max_failures,
        revision=rollout.revision,
    )


def _enum(prefix: str, value: Strategy | RolloutState | ExecutionState) -> str:
    return f"{prefix}_{value.name}"


def fleet_message(
    fleet: FleetRow,
    members: Sequence[DeviceRow],
    references: Mapping[str, str],
    presence: Presence,
) -> api_pb2.Fleet:
    """A fleet and the counts of its devices; revoked ones do not count."""
    active = [device for device in members if not device.is_revoked]
    by_artifact = Counter(
        references.get(device.running_digest, device.running_digest) or "none" for device in active
    )
    return api_pb2.Fleet(
        name=fleet.name,
        description=fleet.description,
        device_count=len(active),
        connected_count=sum(presence.is_connected(device.device_id) for device in active),
        devices_by_artifact=by_artifact,
        rules_digest=fleet.rules_digest,
        created_timestamp_s=fleet.created_timestamp_s,
    )


def last_report(device: DeviceRow, presence: Presence) -> device_pb2.DeviceReport:
    """What a device last said, empty before it did."""
    newest = presence.report_of(device.device_id)
    return device_pb2.DeviceReport.FromString(device.reported if newest is None else newest)


def device_message(
    device: DeviceRow,
    desired: device_pb2.DesiredState,
    certificate_expires_timestamp_s: float,
    presence: Presence,
) -> api_pb2.Device:
    """A device with both halves of its shadow."""
    return api_pb2.Device(
        device_id=device.device_id,
        fleet=device.fleet,
        hardware=device.hardware,
        labels=device.labels,
        is_connected=presence.is_connected(device.device_id),
        is_revoked=device.is_revoked,
        enrolled_timestamp_s=device.enrolled_timestamp_s,
        last_seen_timestamp_s=device.last_seen_timestamp_s,
        certificate_expires_timestamp_s=certificate_expires_timestamp_s,
        reported=last_report(device, presence),
        desired=desired,
    )


def model_message(model: ModelRow) -> api_pb2.Model:
    """A model of the registry."""
    return api_pb2.Model(
        name=model.name,
        version=str(model.version),
        digest=model.digest,
        hardware=",".join(model.hardware),
        size_bytes=model.size_bytes,
        manifest_json=model.manifest_json,
        pushed_timestamp_s=model.pushed_timestamp_s,
        is_approved=model.is_approved,
    )
