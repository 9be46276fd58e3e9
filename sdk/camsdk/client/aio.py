"""``AsyncClient``: the cloud for asyncio. It mirrors ``Client``, name by name (a test compares).

    async with AsyncClient("grpcs://cloud:8443", credentials=credentials) as client:
        async for event in client.events(fleet="park-a", kinds=["line_crossed"]):
            print(event.camera_id, event.attributes["direction"])

Arguments and errors are described where they are shared: in ``Client``.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from camsdk.client import calls
from camsdk.client.calls import DeployOptions, EventFilter, Image
from camsdk.client.connection import AsyncConnection
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


class AsyncClient:
    """A connection to the cloud, to be used from the event loop that made it.

    Arguments and errors are those of ``Client``.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        credentials: Credentials,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._connection = AsyncConnection(endpoint, credentials, timeout_s, retry or RetryPolicy())

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call under way; streams end as if there was nothing more."""
        await self._connection.close()

    async def status(self) -> CloudStatus:
        """The cloud at a glance."""
        return await self._connection.send(calls.get_status())

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
    ) -> "AsyncEventStream":
        """Events as they happen, each once, across lost connections and restarts of the cloud.

        As ``Client.events``, but what needs the cloud needs ``await``: the stream starts, and a
        refusal shows, at the first step of the loop, or at ``await stream.start()``.
        """
        where = EventFilter(fleet, device, camera, kinds, since, until)
        start = 0 if after_cursor is None and since is not None else after_cursor
        tail = Tail(where, start, self._connection.retry)
        return AsyncEventStream(self._connection, tail, timeout_s)

    async def list_events(
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
        """One page of stored events, at most 1,000."""
        where = EventFilter(fleet, device, camera, kinds, since, until)
        return await self._connection.send(
            calls.list_events(where, limit, after_cursor, newest_first)
        )

    async def get_event(self, event_id: str) -> EventRecord:
        """One event by its ``DEVICE/EPOCH/SEQUENCE``."""
        return await self._connection.send(calls.get_event(event_id))

    async def event_crop(self, event: str | EventRecord) -> bytes:
        """JPEG of the object that an event is about, if its rule says ``crops: true``."""
        return await self._connection.send(calls.event_crop(event))

    async def search(
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
        """Tracks, of all cameras, that look like one person or object."""
        return await self._connection.send(
            calls.search(image, event, code, top_k, fleet, since, until)
        )

    async def ingest_stats(self, *, device: str = "", camera: str = "") -> IngestStats:
        """What was shipped, by all devices or by one."""
        return await self._connection.send(calls.ingest_stats(device, camera))

    async def list_tracks(
        self,
        *,
        device: str = "",
        camera: str = "",
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 100,
    ) -> tuple[TrackRecord, ...]:
        """Tracks seen in a span of time, at most 1,000."""
        return await self._connection.send(calls.list_tracks(device, camera, since, until, limit))

    async def create_fleet(self, name: str, *, description: str = "") -> Fleet:
        """A new fleet."""
        return await self._connection.send(calls.create_fleet(name, description))

    async def list_fleets(self) -> tuple[Fleet, ...]:
        """All fleets."""
        return await self._connection.send(calls.list_fleets())

    async def get_fleet(self, name: str) -> Fleet:
        """One fleet."""
        return await self._connection.send(calls.get_fleet(name))

    async def create_bootstrap_token(
        self, fleet: str, *, lifetime_s: float = 3600.0, count: int = 1
    ) -> BootstrapTokens:
        """Tokens with which new devices enrol into a fleet; each works once."""
        return await self._connection.send(calls.create_bootstrap_token(fleet, lifetime_s, count))

    async def create_api_token(
        self, name: str, *, lifetime_s: float = 30 * 86400.0, is_read_only: bool = False
    ) -> ApiToken:
        """A token for a person or an application."""
        return await self._connection.send(calls.create_api_token(name, lifetime_s, is_read_only))

    async def list_devices(self, *, fleet: str = "") -> tuple[Device, ...]:
        """Devices, of one fleet or of all."""
        return await self._connection.send(calls.list_devices(fleet))

    async def get_device(self, device_id: str) -> Device:
        """One device."""
        return await self._connection.send(calls.get_device(device_id))

    async def label_device(
        self,
        device_id: str,
        labels: Mapping[str, str] | None = None,
        *,
        remove: Iterable[str] = (),
    ) -> Device:
        """Sets the given labels and removes the named ones."""
        return await self._connection.send(calls.label_device(device_id, labels or {}, remove))

    async def revoke_device(self, device_id: str, *, reason: str = "") -> Device:
        """Shuts a device out for good; to come back it must enrol anew."""
        return await self._connection.send(calls.revoke_device(device_id, reason))

    async def apply_rules(
        self, fleet: str, rules_yaml: str, *, is_dry_run: bool = False
    ) -> AppliedRules:
        """Puts rules in force on every camera of a fleet."""
        return await self._connection.send(calls.apply_rules(fleet, rules_yaml, is_dry_run))

    async def push_model(self, bundle: bytes | Path) -> Model:
        """Uploads a signed bundle (``.cam``), given as bytes or path."""
        return await self._connection.send(calls.push_model(bundle))

    async def list_models(self, *, name: str = "") -> tuple[Model, ...]:
        """Releases, of one name or all."""
        return await self._connection.send(calls.list_models(name))

    async def get_model(self, reference: str) -> Model:
        """One release by ``NAME`` (its newest), ``NAME:VERSION`` or digest."""
        return await self._connection.send(calls.get_model(reference))

    async def deploy(
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
    ) -> "AsyncRollout":
        """Starts a rollout and returns at once."""
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
        status = await self._connection.send(calls.create_rollout(model, fleet, options))
        return AsyncRollout(self._connection, status)

    async def rollout(self, rollout_id: str) -> "AsyncRollout":
        """A rollout by its id."""
        return AsyncRollout(
            self._connection, await self._connection.send(calls.get_rollout(rollout_id))
        )

    async def list_rollouts(self, *, fleet: str = "") -> tuple[RolloutStatus, ...]:
        """Rollouts, of one fleet or of all, newest first."""
        return await self._connection.send(calls.list_rollouts(fleet))


class AsyncEventStream(AsyncIterator[EventRecord]):
    """Events as they happen. Iterate over it; ``aclose`` or leaving the loop's task ends it."""

    def __init__(self, connection: AsyncConnection, tail: Tail, timeout_s: float | None) -> None:
        self._connection = connection
        self._tail = tail
        self._is_started = False
        self._events = connection.stream(tail, timeout_s)

    async def start(self) -> "AsyncEventStream":
        """Fixes where "from now on" begins, and proves address and credentials."""
        if not self._is_started:
            self._tail.started(await self._connection.send(self._tail.start_call()))
            self._is_started = True
        return self

    async def __anext__(self) -> EventRecord:
        await self.start()
        return await anext(self._events)

    @property
    def cursor(self) -> int:
        """Position of the last event that was handed on, or of the start."""
        return self._tail.cursor

    async def aclose(self) -> None:
        """Ends the stream. Not while another task waits for its next event: cancel that one."""
        await self._events.aclose()


class AsyncRollout:
    """A handle on one rollout. Mirrors ``Rollout``.

    Attributes:
        status: Where it stood when last heard of.
    """

    def __init__(self, connection: AsyncConnection, status: RolloutStatus) -> None:
        self._connection = connection
        self.status = status

    @property
    def rollout_id(self) -> str:
        """Its id."""
        return self.status.rollout_id

    async def refresh(self) -> RolloutStatus:
        """Where it stands now."""
        return await self._update(calls.get_rollout(self.rollout_id))

    async def watch(self, *, timeout_s: float | None = None) -> AsyncIterator[RolloutStatus]:
        """Its state now and at every change, until it has ended or the time is up."""
        watch = RolloutWatch(self.rollout_id, self._connection.retry)
        async for status in self._connection.stream(watch, timeout_s):
            self.status = status
            yield status

    async def wait(
        self,
        on_progress: Callable[[RolloutStatus], object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> RolloutStatus:
        """Waits until it has ended. An aborted rollout is a result, not an error: see ``state``."""
        async for status in self.watch(timeout_s=timeout_s):
            if on_progress is not None:
                on_progress(status)
        return self.status.ended()

    async def approve(self) -> RolloutStatus:
        """Lets a pending rollout start."""
        return await self._update(calls.control_rollout(self.rollout_id, RolloutAction.APPROVE))

    async def pause(self) -> RolloutStatus:
        """Tells no further device."""
        return await self._update(calls.control_rollout(self.rollout_id, RolloutAction.PAUSE))

    async def resume(self) -> RolloutStatus:
        """Goes on after a pause."""
        return await self._update(calls.control_rollout(self.rollout_id, RolloutAction.RESUME))

    async def abort(self) -> RolloutStatus:
        """Stops it and brings its devices back to the old model."""
        return await self._update(calls.control_rollout(self.rollout_id, RolloutAction.ABORT))

    async def _update(self, call: calls.Call[RolloutStatus]) -> RolloutStatus:
        self.status = await self._connection.send(call)
        return self.status
