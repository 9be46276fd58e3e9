"""``Shadow``: the device's report and the cloud's wish, over one long-lived stream.

Reports go out at once when something has changed and otherwise every few seconds. Wishes come in
whenever the cloud has a new one; only the newest counts. Everything else of the agent sees the
values of this module, not the messages.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import grpc

from camagent.link import Backoff, CloudLink
from camproto.v1 import device_pb2
from camsdk.errors import CamError, Unauthenticated, Unavailable

_log = logging.getLogger(__name__)

_CAMERA_FIELDS: Final = tuple(device_pb2.CameraStatus.DESCRIPTOR.fields_by_name)
_FAREWELL_S: Final = 2.0  # how long a stop waits for the last report to leave

UpdateState = Literal[
    "idle", "downloading", "verifying", "canary", "trial", "good", "failed", "rolled_back"
]


@dataclass(frozen=True)
class Desired:
    """What the cloud wants of this device.

    Attributes:
        version: Grows with each change.
        digest: Artifact to run, empty for none.
        name: ``name:version`` of it.
        attempt: Number of the order, 0 before the first: a retry has a new one.
        is_rollback: Whether an older version is meant.
        rules_yaml, rules_digest: Rules of the fleet, empty without any.
        is_revoked: Whether the device is to be no more.
    """

    version: int = 0
    digest: str = ""
    name: str = ""
    attempt: int = 0
    is_rollback: bool = False
    rules_yaml: str = ""
    rules_digest: str = ""
    is_revoked: bool = False


@dataclass(frozen=True)
class UpdateReport:
    """Where the updater stands.

    Attributes:
        state: See ``UpdateState`` in ``device.proto``.
        digest: Artifact that ``state`` speaks of.
        detail: Why it failed, one sentence.
        attempt: Order that ``state`` speaks of.
        running_digest, running_name: Artifact in use, empty without one.
        previous_digest: Artifact in the other slot.
    """

    state: UpdateState = "idle"
    digest: str = ""
    detail: str = ""
    attempt: int = 0
    running_digest: str = ""
    running_name: str = ""
    previous_digest: str = ""


@dataclass(frozen=True)
class CameraReport:
    """Figures of one camera; units and meaning as in ``CameraStatus`` of ``device.proto``.

    Attributes:
        stage_cpu_s: CPU seconds of the agent by stage, for the status file; not sent.
        runtime_cpu_s: CPU seconds of the model's process for this camera; not sent.
    """

    camera_id: str
    is_online: bool = False
    frame_count: int = 0
    detector_calls: int = 0
    reconnects: int = 0
    last_frame_timestamp_s: float = 0.0
    cpu_ms_per_frame: float = 0.0
    detector_cpu_ms: float = 0.0
    dropped_frames: int = 0
    session: int = 0
    is_finished: bool = False
    stage_cpu_s: Mapping[str, float] = field(default_factory=dict)
    runtime_cpu_s: float = 0.0


@dataclass(frozen=True)
class Report:
    """All that the device says of itself."""

    update: UpdateReport
    cameras: tuple[CameraReport, ...]
    desired_version: int
    rules_digest: str
    hardware: str
    agent_version: str
    metrics: Mapping[str, float] = field(default_factory=dict)


class Shadow:
    """Keeps the Sync stream; :meth:`run` is the body of its thread.

    Args:
        link: The channel.
        make_report: The report of now; called from gRPC's thread.
        on_desired: Takes each wish; called from this object's thread, must not block.
        interval_s: Longest silence.
    """

    def __init__(
        self,
        link: CloudLink,
        make_report: Callable[[], Report],
        on_desired: Callable[[Desired], None],
        interval_s: float = 5.0,
    ) -> None:
        self._link = link
        self._make_report = make_report
        self._on_desired = on_desired
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._is_due = False
        self._is_stopping = False
        self._call: grpc.Call | None = None
        self._is_away = True  # until the log says otherwise
        self._is_refused = False
        self.is_connected = False
        self.reconnects = -1

    def run(self) -> None:
        """Streams, and after each break waits and streams again, until :meth:`stop`."""
        backoff = Backoff()
        while not self._is_stopping:
            try:
                self._run_stream(backoff)
            except CamError as error:
                self._log_break(error, is_news=backoff.is_news(error))
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopping, backoff.next_s())

    def poke(self) -> None:
        """Has a report leave now: something has changed, or the link has a new channel."""
        with self._changed:
            self._is_due = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Sends a last report and ends the stream."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._call is None, _FAREWELL_S)
            if self._call is not None:
                self._call.cancel()  # type: ignore[no-untyped-call] # so in grpc-stubs

    def _run_stream(self, backoff: Backoff) -> None:
        self.reconnects += 1
        ended = threading.Event()
        call = self._link.gateway().Sync(self._reports(self._link.generation, ended))
        with self._changed:
            self._call = call
        try:
            for message in call:
                backoff.reset()
                self._take(_desired(message))
        except grpc.RpcError as error:
            if not self._is_stopping:
                raise self._link.explain(error) from error
        else:
            if not (self.is_connected or self._is_stopping):
                raise Unavailable("the cloud ended the stream without a word")
        finally:
            self.is_connected = False
            ended.set()
            call.cancel()  # type: ignore[no-untyped-call] # so in grpc-stubs
            with self._changed:
                self._call = None
                self._changed.notify_all()

    def _take(self, desired: Desired) -> None:
        self.is_connected = True
        if self._is_away:
            _log.info("connected to the cloud at %s", self._link.identity.endpoint)
        self._is_away = False
        self._is_refused = desired.is_revoked
        self._on_desired(desired)

    def _log_break(self, error: CamError, *, is_news: bool) -> None:
        """One line a loss, whatever the attempts; a refused device is told so once, at its news."""
        if isinstance(error, Unauthenticated):
            _log.log(logging.DEBUG if self._is_refused else logging.ERROR, "%s", error)
            self._is_refused = True
        else:
            what = "the cloud is not in reach" if self._is_away else "lost the cloud"
            _log.log(logging.WARNING if is_news else logging.DEBUG, "%s: %s", what, error)
        self._is_away = True

    def _reports(
        self, generation: int, ended: threading.Event
    ) -> Iterator[device_pb2.DeviceReport]:
        """Reports of one stream; ends when the agent stops or the link has a newer channel."""

        def is_ready() -> bool:
            is_old = self._link.generation != generation
            return self._is_due or self._is_stopping or ended.is_set() or is_old

        while not ended.is_set():
            with self._changed:
                self._is_due = False
                is_last = self._is_stopping or self._link.generation != generation
            yield to_message(self._make_report())
            if is_last:
                return
            with self._changed:
                self._changed.wait_for(is_ready, self._interval_s)


def to_message(report: Report) -> device_pb2.DeviceReport:
    """The protocol's form of a report."""
    update = report.update
    return device_pb2.DeviceReport(
        desired_version=report.desired_version,
        running_digest=update.running_digest,
        running_name=update.running_name,
        previous_digest=update.previous_digest,
        update_state=device_pb2.UpdateState.Value(f"UPDATE_STATE_{update.state.upper()}"),
        update_digest=update.digest,
        detail=update.detail,
        rollout_attempt=update.attempt,
        cameras=[
            device_pb2.CameraStatus(**{name: getattr(camera, name) for name in _CAMERA_FIELDS})
            for camera in report.cameras
        ],
        rules_digest=report.rules_digest,
        hardware=report.hardware,
        agent_version=report.agent_version,
        metrics=dict(report.metrics),
    )


def _desired(message: device_pb2.DesiredState) -> Desired:
    return Desired(
        version=message.version,
        digest=message.artifact_digest,
        name=message.artifact_name,
        attempt=message.attempt,
        is_rollback=message.is_rollback,
        rules_yaml=message.rules_yaml,
        rules_digest=message.rules_digest,
        is_revoked=message.is_revoked,
    )
