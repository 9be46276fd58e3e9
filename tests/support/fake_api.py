"""A small real cloud for tests of the client and of ``camctl``: the API over TLS, state in memory.

It is a real implementation of ``CloudApi``, not a recording: what is created can be listed, what is
pushed can be deployed. Faults are switched on by the test: answers that fail, answers that are
late, streams that break, a server that goes away and comes back.
"""
# ruff: noqa: N802 - the protocol names the methods

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc

from camproto.v1 import api_pb2, api_pb2_grpc, data_pb2, device_pb2
from camsdk.client import Client, Credentials
from camsdk.client.failures import HINT_KEY, MESSAGE_KEY, REASON_KEY
from camsdk.errors import (
    WIRE_ERRORS,
    AlreadyExists,
    ArtifactRefused,
    CamError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from support.tls import ServerTls, server_tls

ADMIN = "admin-token"
READER = "reader-token"
_READS = ("Get", "List", "Tail", "Search", "Watch")
START_S = 1_700_000_000.0


def _abort(context: grpc.ServicerContext, error: CamError) -> NoReturn:
    row = WIRE_ERRORS[type(error)]
    context.set_trailing_metadata(
        (
            (REASON_KEY, row.reason),
            (MESSAGE_KEY, error.message.encode()),
            (HINT_KEY, error.hint.encode()),
        )
    )
    context.abort(grpc.StatusCode[row.grpc_status], str(error))


@dataclass
class State:
    """All that the cloud knows; guarded by ``changed``."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    events: list[api_pb2.EventRecord] = field(default_factory=list)
    crops: dict[str, bytes] = field(default_factory=dict)
    fleets: dict[str, api_pb2.Fleet] = field(default_factory=dict)
    devices: dict[str, api_pb2.Device] = field(default_factory=dict)
    models: dict[str, api_pb2.Model] = field(default_factory=dict)
    rollouts: dict[str, api_pb2.Rollout] = field(default_factory=dict)
    rule_warnings: list[str] = field(default_factory=list)
    hits: list[api_pb2.AppearanceHit] = field(default_factory=list)
    tracks: list[api_pb2.TrackRecord] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[CamError | grpc.StatusCode]] = field(default_factory=dict)
    delays_s: dict[str, float] = field(default_factory=dict)
    clock_skew_s: float = 0.0
    breaks: int = 0
    break_error: CamError | None = None


class _Gate(grpc.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Lets calls in by token, counts them, and makes those fail that the test wants to fail."""

    def __init__(self, state: State) -> None:
        self._state = state

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        method = details.method.rpartition("/")[2]
        sent = dict(details.invocation_metadata)
        handler = continuation(details)
        error = self._refusal(method, str(sent.get("authorization", "")))

        def refuse(_request: Any, context: grpc.ServicerContext) -> NoReturn:
            if isinstance(error, CamError):
                _abort(context, error)
            assert error is not None
            context.abort(error, "made to fail")

        if error is None:
            time.sleep(self._state.delays_s.get(method, 0.0))
            return handler
        kind = (handler.request_streaming, handler.response_streaming)
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
        }[kind]
        return make(refuse, handler.request_deserializer, handler.response_serializer)

    def _refusal(self, method: str, authorization: str) -> CamError | grpc.StatusCode | None:
        with self._state.changed:
            self._state.calls[method] += 1
            if authorization not in (f"Bearer {ADMIN}", f"Bearer {READER}"):
                return Unauthenticated("the API token is not known", "make one")
            if authorization.endswith(READER) and not method.startswith(_READS):
                return PermissionDenied("this token may look, not change", "use another")
            pending = self._state.failures.get(method)
            return pending.pop(0) if pending else None


def _matches(wanted: api_pb2.EventFilter, record: api_pb2.EventRecord) -> bool:
    moment = record.event.timestamp_s
    return (
        wanted.fleet in ("", record.fleet)
        and wanted.device_id in ("", record.device_id)
        and wanted.camera_id in ("", record.event.camera_id)
        and (not wanted.kinds or record.event.kind in wanted.kinds)
        and wanted.since_s <= moment
        and (not wanted.until_s or moment < wanted.until_s)
    )


def _is_beyond(cursor: int, after: int, *, is_older: bool) -> bool:
    return cursor < after if is_older else cursor > after


class _Api(api_pb2_grpc.CloudApiServicer):
    """The calls themselves."""

    def __init__(self, state: State) -> None:
        self._state = state

    def _seen(self, request: Any) -> None:
        self._state.requests.append(request)

    def GetStatus(self, request: Any, context: Any) -> api_pb2.CloudStatus:
        return api_pb2.CloudStatus(
            version="fake",
            profile="embedded",
            device_count=len(self._state.devices),
            event_count=len(self._state.events),
            started_timestamp_s=START_S,
            now_timestamp_s=time.time() + self._state.clock_skew_s,
        )

    def ListEvents(self, request: api_pb2.ListEventsRequest, context: Any) -> Any:
        self._seen(request)
        found = [row for row in self._state.events if _matches(request.filter, row)]
        if request.newest_first:
            found.reverse()
        after = request.after_cursor
        if after:
            older = request.newest_first
            found = [row for row in found if _is_beyond(row.cursor, after, is_older=older)]
        limit = request.limit or 100
        page = found[:limit]
        next_cursor = page[-1].cursor if len(found) > limit else 0
        return api_pb2.ListEventsResponse(events=page, next_cursor=next_cursor)

    def TailEvents(
        self, request: api_pb2.TailEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[api_pb2.EventRecord]:
        self._seen(request)
        position, breaks = 0, self._state.breaks
        while context.is_active():
            with self._state.changed:
                if self._state.breaks != breaks:
                    break
                news = self._state.events[position:]
                position += len(news)
                if not news:
                    self._state.changed.wait(0.05)
            for record in news:
                if record.cursor > request.after_cursor and _matches(request.filter, record):
                    yield record
        if self._state.break_error is not None:
            _abort(context, self._state.break_error)
        context.abort(grpc.StatusCode.UNAVAILABLE, "stream broken by the test")

    def GetEvent(self, request: api_pb2.GetEventRequest, context: Any) -> api_pb2.EventRecord:
        for record in self._state.events:
            if record.event_id == request.event_id:
                return record
        _abort(context, NotFound(f"no event is called {request.event_id!r}", "list them"))

    def GetEventCrop(self, request: api_pb2.GetEventCropRequest, context: Any) -> api_pb2.EventCrop:
        if request.event_id not in self._state.crops:
            _abort(context, NotFound(f"event {request.event_id} has no crop", "ask for one"))
        return api_pb2.EventCrop(
            event_id=request.event_id, jpeg=self._state.crops[request.event_id]
        )

    def SearchAppearance(self, request: api_pb2.SearchAppearanceRequest, context: Any) -> Any:
        self._seen(request)
        hits = self._state.hits[: request.top_k or 10]
        return api_pb2.SearchAppearanceResponse(hits=hits, method="hsv-stripes-128")

    def GetIngestStats(self, request: Any, context: Any) -> api_pb2.IngestStats:
        self._seen(request)
        return api_pb2.IngestStats(
            bytes_by_kind={"tracks": 10, "events": 3}, batch_count=2, lost_event_count=5
        )

    def ListTracks(self, request: Any, context: Any) -> api_pb2.ListTracksResponse:
        self._seen(request)
        return api_pb2.ListTracksResponse(tracks=self._state.tracks)

    def CreateFleet(self, request: api_pb2.CreateFleetRequest, context: Any) -> api_pb2.Fleet:
        if request.name in self._state.fleets:
            _abort(context, AlreadyExists(f"a fleet is called {request.name!r}", "choose another"))
        fleet = api_pb2.Fleet(
            name=request.name, description=request.description, created_timestamp_s=START_S
        )
        self._state.fleets[request.name] = fleet
        return fleet

    def ListFleets(self, request: Any, context: Any) -> api_pb2.ListFleetsResponse:
        return api_pb2.ListFleetsResponse(fleets=self._state.fleets.values())

    def GetFleet(self, request: api_pb2.GetFleetRequest, context: Any) -> api_pb2.Fleet:
        return self._fleet(request.name, context)

    def _fleet(self, name: str, context: Any) -> api_pb2.Fleet:
        if name not in self._state.fleets:
            _abort(context, NotFound(f"no fleet is called {name!r}", "create it"))
        return self._state.fleets[name]

    def CreateBootstrapToken(
        self, request: api_pb2.CreateBootstrapTokenRequest, context: Any
    ) -> api_pb2.BootstrapToken:
        self._fleet(request.fleet, context)
        return api_pb2.BootstrapToken(
            tokens=[f"camtok1_{number}" for number in range(request.count)],
            expires_timestamp_s=START_S + request.lifetime_s,
            enrolment_endpoint="127.0.0.1:8445",
            ca_pem=server_tls().ca_pem,
        )

    def CreateApiToken(
        self, request: api_pb2.CreateApiTokenRequest, context: Any
    ) -> api_pb2.ApiToken:
        return api_pb2.ApiToken(
            token="camapi1_x", name=request.name, expires_timestamp_s=START_S + request.lifetime_s
        )

    def ListDevices(self, request: api_pb2.ListDevicesRequest, context: Any) -> Any:
        rows = self._state.devices.values()
        return api_pb2.ListDevicesResponse(
            devices=[row for row in rows if request.fleet in ("", row.fleet)]
        )

    def _device(self, device_id: str, context: Any) -> api_pb2.Device:
        if device_id not in self._state.devices:
            _abort(context, NotFound(f"no device is called {device_id!r}", "list them"))
        return self._state.devices[device_id]

    def GetDevice(self, request: api_pb2.GetDeviceRequest, context: Any) -> api_pb2.Device:
        return self._device(request.device_id, context)

    def LabelDevice(self, request: api_pb2.LabelDeviceRequest, context: Any) -> api_pb2.Device:
        device = self._device(request.device_id, context)
        device.labels.update(request.set)
        for name in request.remove:
            device.labels.pop(name, None)
        return device

    def RevokeDevice(self, request: api_pb2.RevokeDeviceRequest, context: Any) -> api_pb2.Device:
        self._seen(request)
        device = self._device(request.device_id, context)
        device.is_revoked = True
        return device

    def ApplyRules(self, request: api_pb2.ApplyRulesRequest, context: Any) -> Any:
        self._seen(request)
        self._fleet(request.fleet, context)
        if "lines" not in request.rules_yaml:
            _abort(context, InvalidInput("line 1: no lines", "write some"))
        count = sum(row.fleet == request.fleet for row in self._state.devices.values())
        return api_pb2.ApplyRulesResponse(
            rules_digest="d" * 64, device_count=count, warnings=self._state.rule_warnings
        )

    def PushModel(self, request_iterator: Any, context: Any) -> api_pb2.Model:
        data = b"".join(part.data for part in request_iterator)
        if not data.startswith(b"CAM"):
            _abort(context, ArtifactRefused("the bundle is not signed", "sign it"))
        version = str(1 + len(self._state.models))
        model = api_pb2.Model(
            name="detector",
            version=version,
            digest=f"{len(data):064x}",
            hardware="cpu-x86_64",
            size_bytes=len(data),
            manifest_json='{"precision": "int8"}',
            is_approved=True,
        )
        self._state.models[f"detector:{version}"] = model
        return model

    def ListModels(self, request: Any, context: Any) -> api_pb2.ListModelsResponse:
        return api_pb2.ListModelsResponse(models=self._state.models.values())

    def GetModel(self, request: api_pb2.GetModelRequest, context: Any) -> api_pb2.Model:
        if request.reference not in self._state.models:
            _abort(context, NotFound(f"no model is called {request.reference!r}", "push it"))
        return self._state.models[request.reference]

    def CreateRollout(self, request: api_pb2.CreateRolloutRequest, context: Any) -> api_pb2.Rollout:
        self._seen(request)
        self._fleet(request.fleet, context)
        ids = sorted(row.device_id for row in self._state.devices.values())
        pending = request.needs_approval
        rollout = api_pb2.Rollout(
            rollout_id=f"r{1 + len(self._state.rollouts)}",
            fleet=request.fleet,
            model_name=request.model or "detector:1",
            strategy=request.strategy,
            state=api_pb2.ROLLOUT_STATE_PENDING if pending else api_pb2.ROLLOUT_STATE_RUNNING,
            wave_count=2,
            executions=[
                api_pb2.RolloutExecution(
                    device_id=name, wave=min(number, 1), state=api_pb2.EXECUTION_STATE_QUEUED
                )
                for number, name in enumerate(ids)
            ],
            revision=1,
        )
        with self._state.changed:
            self._state.rollouts[rollout.rollout_id] = rollout
        return rollout

    def _rollout(self, rollout_id: str, context: Any) -> api_pb2.Rollout:
        if rollout_id not in self._state.rollouts:
            _abort(context, NotFound(f"no rollout is called {rollout_id!r}", "list them"))
        return self._state.rollouts[rollout_id]

    def GetRollout(self, request: api_pb2.GetRolloutRequest, context: Any) -> api_pb2.Rollout:
        return self._rollout(request.rollout_id, context)

    def ListRollouts(self, request: Any, context: Any) -> api_pb2.ListRolloutsResponse:
        return api_pb2.ListRolloutsResponse(rollouts=self._state.rollouts.values())

    def WatchRollout(
        self, request: api_pb2.GetRolloutRequest, context: grpc.ServicerContext
    ) -> Iterator[api_pb2.Rollout]:
        sent, breaks = 0, self._state.breaks
        ended = (api_pb2.ROLLOUT_STATE_COMPLETED, api_pb2.ROLLOUT_STATE_ABORTED)
        while context.is_active():
            with self._state.changed:
                if self._state.breaks != breaks:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "stream broken by the test")
                rollout = api_pb2.Rollout()
                rollout.CopyFrom(self._rollout(request.rollout_id, context))
                if rollout.revision == sent:
                    self._state.changed.wait(0.05)
                    continue
            sent = rollout.revision
            yield rollout
            if rollout.state in ended:
                return

    def ControlRollout(
        self, request: api_pb2.ControlRolloutRequest, context: Any
    ) -> api_pb2.Rollout:
        self._seen(request)
        rollout = self._rollout(request.rollout_id, context)
        rollout.state = {
            api_pb2.ROLLOUT_ACTION_APPROVE: api_pb2.ROLLOUT_STATE_RUNNING,
            api_pb2.ROLLOUT_ACTION_PAUSE: api_pb2.ROLLOUT_STATE_PAUSED,
            api_pb2.ROLLOUT_ACTION_RESUME: api_pb2.ROLLOUT_STATE_RUNNING,
            api_pb2.ROLLOUT_ACTION_ABORT: api_pb2.ROLLOUT_STATE_ABORTED,
        }[request.action]
        rollout.revision += 1
        return rollout


class FakeCloud:
    """The server, and the switches that a test turns.

    Attributes:
        state: What the cloud knows; tests may read and set it.
        port: On loopback; kept over :meth:`stop` and :meth:`start`.
    """

    def __init__(self, tls: ServerTls | None = None) -> None:
        self.tls = tls or server_tls()
        self.state = State()
        self.port = 0
        self.start()

    @property
    def endpoint(self) -> str:
        """For clients."""
        return f"grpcs://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> Credentials:
        """An administrator's."""
        return Credentials(ADMIN, self.tls.ca_pem)

    def client(self, **settings: Any) -> Client:
        """A connected client."""
        return Client(self.endpoint, credentials=self.credentials, **settings)

    def start(self) -> None:
        """Listens, on the port of the last time if there was one."""
        self._server = grpc.server(
            ThreadPoolExecutor(32),
            interceptors=[_Gate(self.state)],
            options=[("grpc.so_reuseport", 0)],
        )
        api_pb2_grpc.add_CloudApiServicer_to_server(_Api(self.state), self._server)
        identity = [(self.tls.key_pem, self.tls.certificate_pem)]
        credentials = grpc.ssl_server_credentials(identity)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        assert self.port, "the port is taken"
        self._server.start()

    def stop(self) -> None:
        """Goes away as a killed process does: connections break."""
        self._server.stop(None).wait()

    def break_streams(self, error: CamError | None = None) -> None:
        """Every open stream ends, with UNAVAILABLE or ``error``; the next may be opened at once."""
        with self.state.changed:
            self.state.break_error = error
            self.state.breaks += 1
            self.state.changed.notify_all()

    def fail(self, method: str, *errors: CamError | grpc.StatusCode) -> None:
        """The next calls of a method fail like this, one after the other."""
        self.state.failures.setdefault(method, []).extend(errors)

    def add_event(
        self, kind: str = "line_crossed", fleet: str = "park-a", **fields: Any
    ) -> api_pb2.EventRecord:
        """An event happens; ``fields`` are those of the message ``Event``."""
        with self.state.changed:
            number = len(self.state.events) + 1
            event = data_pb2.Event(
                epoch=7,
                sequence=number,
                kind=kind,
                camera_id=fields.pop("camera_id", "gate"),
                timestamp_s=fields.pop("timestamp_s", START_S + number),
                track_id=fields.pop("track_id", -1),
                class_id=fields.pop("class_id", -1),
                **fields,
            )
            record = api_pb2.EventRecord(
                event_id=f"cam-1/7/{number}",
                device_id="cam-1",
                fleet=fleet,
                event=event,
                received_timestamp_s=event.timestamp_s + 0.05,
                cursor=10 * number,
            )
            self.state.events.append(record)
            self.state.changed.notify_all()
            return record

    def add_device(self, device_id: str, fleet: str = "park-a", **fields: Any) -> api_pb2.Device:
        """A device enrols."""
        device = api_pb2.Device(
            device_id=device_id,
            fleet=fleet,
            hardware="cpu-x86_64",
            is_connected=fields.pop("is_connected", True),
            reported=device_pb2.DeviceReport(
                running_name="detector:1",
                update_state=device_pb2.UPDATE_STATE_GOOD,
                cameras=[device_pb2.CameraStatus(camera_id="gate", is_online=True)],
            ),
            **fields,
        )
        self.state.devices[device_id] = device
        return device

    def change_rollout(self, rollout_id: str, change: Callable[[api_pb2.Rollout], None]) -> None:
        """A rollout moves on; whoever watches it hears of it."""
        with self.state.changed:
            rollout = self.state.rollouts[rollout_id]
            change(rollout)
            rollout.revision += 1
            self.state.changed.notify_all()
