"""``Client``: the cloud for threads and scripts. ``AsyncClient`` in ``aio`` mirrors it.

    with Client("grpcs://cloud:8443", credentials=credentials) as client:
        for event in client.events(fleet="park-a", kinds=["line_crossed"]):
            print(event.camera_id, event.attributes["direction"])

Every call has a deadline; only what is idempotent is sent again; errors are ``CamError``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from camsdk.client import calls
from camsdk.client.calls import DeployOptions, EventFilter, Image
from camsdk.client.connection import Connection, Stop
from camsdk.client.credentials import Credentials
from camsdk.client.failures import RetryPolicy
from camsdk.client.moments import Moment
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
from camsdk.client.resume import RolloutWatch, Tail
from camsdk.client.rollouts import RolloutAction, RolloutStatus, Strategy


class Client:
    """A connection to the cloud. Safe to share among threads; close it when done.

    Args:
        endpoint: ``grpcs://host[:port]`` or ``host[:port]``; the port defaults to 8443.
        credentials: API token, and the CA certificate of an embedded cloud.
        timeout_s: Deadline of each call, retries included.
        retry: When to send an idempotent call again.

    Raises:
        InvalidInput: The endpoint or an argument is no such thing. Nothing is sent yet.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        credentials: Credentials,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._connection = Connection(endpoint, credentials, timeout_s, retry or RetryPolicy())

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call under way; streams end as if there was nothing more."""
        self._connection.close()

    def status(self) -> CloudStatus:
        """The cloud at a glance."""
        return self._connection.send(calls.get_status())

    def events(
        self,
        *,
        fleet: str = "",
        device: str = "",
        camera: str = "",
        kinds: Sequence[str] = (),
        since: Moment | None = None,
        until: Moment | None = None,
        after_cursor: int | None = None,
        timeout_s: float | None = None,
    ) -> "EventStream":
        """Events as they happen, each once, across lost connections and restarts of the cloud.

        It starts with the next event after this call. With ``since`` or ``after_cursor``, what
        the cloud has stored comes first. To go on after a restart of your own, keep the
        ``cursor`` of the last event that you have dealt with.

        Args:
            fleet, device, camera, kinds: Which events; empty means any.
            since, until: Capture time, inclusive and exclusive.
            after_cursor: Position in the event log; 0 for everything there is.
            timeout_s: Ends the stream; None waits for ever.

        Raises:
            CamError: The cloud cannot be reached or refuses: at once, not at the first event.
        """
        where = EventFilter(fleet, device, camera, kinds, since, until)
        start = 0 if after_cursor is None and since is not None else after_cursor
        tail = Tail(where, start, self._connection.retry)
        tail.started(self._connection.send(tail.start_call()))
        return EventStream(self._connection, tail, timeout_s)

    def list_events(
        self,
        *,
        fleet: str = "",
        device: str = "",
        camera: str = "",
        kinds: Sequence[str] = (),
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 100,
        after_cursor: int = 0,
        newest_first: bool = False,
    ) -> EventPage:
        """One page of stored events, at most 1,000.

        Args:
            after_cursor: ``next_cursor`` of the page before.
            newest_first: Backwards; ``after_cursor`` then means before it.
        """
        where = EventFilter(fleet, device, camera, kinds, since, until)
        return self._connection.send(calls.list_events(where, limit, after_cursor, newest_first))

    def get_event(self, event_id: str) -> EventRecord:
        """One event by its ``DEVICE/EPOCH/SEQUENCE``."""
        return self._connection.send(calls.get_event(event_id))

    def event_crop(self, event: str | EventRecord) -> bytes:
        """JPEG of the object that an event is about, in the frame that decided the event.

        Args:
            event: The event, or its id.

        Raises:
            NotFound: There is none: its rule does not say ``crops: true``.
        """
        return self._connection.send(calls.event_crop(event))

    def search(
        self,
        *,
        image: Image | None = None,
        event: str | EventRecord | None = None,
        code: bytes | NDArray[np.int8] | None = None,
        top_k: int = 10,
        fleet: str = "",
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> SearchResult:
        """Tracks, of all cameras, that look like one person or object.

        Args:
            image: A crop of it: JPEG or PNG bytes, a path, or uint8 RGB (height, width, 3).
            event: An event, or its id, about it.
            code: Its int8 appearance code.
            top_k: Number of hits, at most 200.
            fleet, since, until: Where and when to look.

        Raises:
            InvalidInput: Not exactly one of ``image``, ``event`` and ``code``.
        """
        return self._connection.send(calls.search(image, event, code, top_k, fleet, since, until))

    def ingest_stats(self, *, device: str = "", camera: str = "") -> IngestStats:
        """What was shipped, by all devices or by one."""
        return self._connection.send(calls.ingest_stats(device, camera))

    def list_tracks(
        self,
        *,
        device: str = "",
        camera: str = "",
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 100,
    ) -> tuple[TrackRecord, ...]:
        """Tracks seen in a span of time, at most 1,000."""
        return self._connection.send(calls.list_tracks(device, camera, since, until, limit))

    def create_fleet(self, name: str, *, description: str = "") -> Fleet:
        """A new fleet.

        Raises:
            AlreadyExists: The name is taken.
        """
        return self._connection.send(calls.create_fleet(name, description))

    def list_fleets(self) -> tuple[Fleet, ...]:
        """All fleets."""
        return self._connection.send(calls.list_fleets())

    def get_fleet(self, name: str) -> Fleet:
        """One fleet."""
        return self._connection.send(calls.get_fleet(name))

    def create_bootstrap_token(
        self, fleet: str, *, lifetime_s: float = 3600.0, count: int = 1
    ) -> BootstrapTokens:
        """Tokens with which new devices enrol into a fleet; each works once."""
        return self._connection.send(calls.create_bootstrap_token(fleet, lifetime_s, count))

    def create_api_token(
        self, name: str, *, lifetime_s: float = 30 * 86400.0, is_read_only: bool = False
    ) -> ApiToken:
        """A token for a person or an application."""
        return self._connection.send(calls.create_api_token(name, lifetime_s, is_read_only))

    def list_devices(self, *, fleet: str = "") -> tuple[Device, ...]:
        """Devices, of one fleet or of all."""
        return self._connection.send(calls.list_devices(fleet))

    def get_device(self, device_id: str) -> Device:
        """One device."""
        return self._connection.send(calls.get_device(device_id))

    def label_device(
        self,
        device_id: str,
        labels: Mapping[str, str] | None = None,
        *,
        remove: Iterable[str] = (),
    ) -> Device:
        """Sets the given labels and removes the named ones."""
        return self._connection.send(calls.label_device(device_id, labels or {}, remove))

    def revoke_device(self, device_id: str, *, reason: str = "") -> Device:
        """Shuts a device out for good; to come back it must enrol anew."""
        return self._connection.send(calls.revoke_device(device_id, reason))

    def apply_rules(self, fleet: str, rules_yaml: str, *, is_dry_run: bool = False) -> AppliedRules:
        """Puts rules in force on every camera of a fleet.

        Raises:
            InvalidInput: The rules are not valid; the message names the line and the field.
        """
        return self._connection.send(calls.apply_rules(fleet, rules_yaml, is_dry_run))

    def push_model(self, bundle: bytes | Path) -> Model:
        """Uploads a signed bundle (``.cam``), given as bytes or path.

        Raises:
            ArtifactRefused: The signature is missing, unknown or does not fit.
            AlreadyExists: That version exists with other contents.
        """
        return self._connection.send(calls.push_model(bundle))

    def list_models(self, *, name: str = "") -> tuple[Model, ...]:
        """Releases, of one name or all."""
        return self._connection.send(calls.list_models(name))

    def get_model(self, reference: str) -> Model:
        """One release by ``NAME`` (its newest), ``NAME:VERSION`` or digest."""
        return self._connection.send(calls.get_model(reference))

    def deploy(
        self,
        model: str = "",
        *,
        fleet: str,
        strategy: Strategy | str = Strategy.CANARY,
        canary_count: int = 0,
        canary_percent: float = 0.0,
        wave_count: int = 0,
        max_failures: int = 0,
        device_timeout_s: float = 0.0,
        needs_approval: bool = False,
        is_rollback: bool = False,
    ) -> "Rollout":
        """Starts a rollout and returns at once.

        Args:
            model: ``NAME``, ``NAME:VERSION`` or digest; empty for the newest approved version
                of the detector that the fleet runs, on the fleet's hardware.
            fleet: Where to.
            strategy, canary_count, canary_percent, wave_count, max_failures, device_timeout_s,
                needs_approval, is_rollback: See ``DeployOptions``.

        Raises:
            NotFound: No such model or fleet.
            Conflict: Another rollout to this fleet is under way.
        """
        options = DeployOptions(
            strategy=strategy,
            canary_count=canary_count,
            canary_percent=canary_percent,
            wave_count=wave_count,
            max_failures=max_failures,
            device_timeout_s=device_timeout_s,
            needs_approval=needs_approval,
            is_rollback=is_rollback,
        )
        status = self._connection.send(calls.create_rollout(model, fleet, options))
        return Rollout(self._connection, status)

    def rollout(self, rollout_id: str) -> "Rollout":
        """A rollout by its id."""
        return Rollout(self._connection, self._connection.send(calls.get_rollout(rollout_id)))

    def list_rollouts(self, *, fleet: str = "") -> tuple[RolloutStatus, ...]:
        """Rollouts, of one fleet or of all, newest first."""
        return self._connection.send(calls.list_rollouts(fleet))


class EventStream(Iterator[EventRecord]):
    """Events as they happen. Iterate over it; ``close`` ends it, also from another thread."""

    def __init__(self, connection: Connection, tail: Tail, timeout_s: float | None) -> None:
        self._tail = tail
        self._stop = Stop()
        self._events = connection.stream(tail, self._stop, timeout_s)

    def __next__(self) -> EventRecord:
        return next(self._events)

    @property
    def cursor(self) -> int:
        """Position of the last event that was handed on, or of the start."""
        return self._tail.cursor

    def close(self) -> None:
        """Ends the stream at once."""
        self._stop.set()


class Rollout:
    """A handle on one rollout.

    Attributes:
        status: Where it stood when last heard of.
    """

    def __init__(self, connection: Connection, status: RolloutStatus) -> None:
        self._connection = connection
        self.status = status

    @property
    def rollout_id(self) -> str:
        """Its id."""
        return self.status.rollout_id

    def refresh(self) -> RolloutStatus:
        """Where it stands now."""
        return self._update(calls.get_rollout(self.rollout_id))

    def watch(self, *, timeout_s: float | None = None) -> Iterator[RolloutStatus]:
        """Its state now and at every change, until it has ended or the time is up."""
        watch = RolloutWatch(self.rollout_id, self._connection.retry)
        for status in self._connection.stream(watch, Stop(), timeout_s):
            self.status = status
            yield status

    def wait(
        self,
        on_progress: Callable[[RolloutStatus], object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> RolloutStatus:
        """Waits until it has ended. An aborted rollout is a result, not an error: see ``state``.

        Args:
            on_progress: Called with each state, from this thread; ``print`` will do.
            timeout_s: None waits for ever.

        Raises:
            DeadlineExceeded: It is still under way; waiting again does no harm.
        """
        for status in self.watch(timeout_s=timeout_s):
            if on_progress is not None:
                on_progress(status)
        return self.status.ended()

    def approve(self) -> RolloutStatus:
        """Lets a pending rollout start."""
        return self._update(calls.control_rollout(self.rollout_id, RolloutAction.APPROVE))

    def pause(self) -> RolloutStatus:
        """Tells no further device."""
        return self._update(calls.control_rollout(self.rollout_id, RolloutAction.PAUSE))

    def resume(self) -> RolloutStatus:
        """Goes on after a pause."""
        return self._update(calls.control_rollout(self.rollout_id, RolloutAction.RESUME))

    def abort(self) -> RolloutStatus:
        """Stops it and brings its devices back to the old model."""
        return self._update(calls.control_rollout(self.rollout_id, RolloutAction.ABORT))

    def _update(self, call: calls.Call[RolloutStatus]) -> RolloutStatus:
        self.status = self._connection.send(call)
        return self.status
