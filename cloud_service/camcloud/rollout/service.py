"""Drives rollouts: one transaction for a decision and its orders, then the news of it.

The engine decides; this service feeds it the devices' reports and the passing of time, and keeps
what it says. A rollout and the desired state of its devices change in the same transaction, so the
process may die between any two and go on from the rows.

There is one driver: all decisions are serialised by a lock, and active rollouts are kept in memory
as the rows hold them.

Besides, every device that no active rollout holds *converges* to its fleet's last completed
release: one that enrolled later, was offline, or whose own rollout was aborted. What a device has
refused is not ordered again until a rollout says so.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from camcloud.fleet import devices
from camcloud.fleet.devices import DeviceRow, FleetRow
from camcloud.fleet.presence import Presence
from camcloud.registry import ModelRow, find_model, newest_model
from camcloud.rollout import engine, store
from camcloud.rollout.engine import Observation, Progress, Step
from camcloud.rollout.plan import Candidate, Plan, Rollout, RolloutState
from camcloud.store.database import Database
from camsdk.errors import Conflict

TICK_INTERVAL_S = 0.5
T = TypeVar("T")
_LOG = logging.getLogger(__name__)


def steady_clock() -> Callable[[], float]:
    """The wall clock of now, moved on by the monotonic one; seconds since the Unix epoch.

    Timeouts need it: a wall clock that is set would end them all at once, or delay them.
    """
    offset_s = time.time() - time.monotonic()
    return lambda: offset_s + time.monotonic()


@dataclass
class _News:
    """What a transaction changed, told once it is durable."""

    rollouts: dict[str, Rollout] = field(default_factory=dict)
    device_ids: set[str] = field(default_factory=set)


class RolloutService:
    """Rollouts of all fleets.

    Args:
        presence: Woken when a device has a new order; prefers connected devices as canaries.
        clock: Seconds since the Unix epoch; :func:`steady_clock` without one.
    """

    def __init__(
        self,
        database: Database,
        presence: Presence,
        *,
        clock: Callable[[], float] | None = None,
        tick_interval_s: float = TICK_INTERVAL_S,
    ) -> None:
        self._database = database
        self._presence = presence
        self._clock = clock or steady_clock()
        self._tick_interval_s = tick_interval_s
        self._lock = asyncio.Lock()
        self._active: dict[str, Rollout] = {}
        self._watchers: dict[str, set[asyncio.Event]] = {}

    async def start(self) -> None:
        """Picks up what was under way."""
        for rollout in await self._database.arun(store.load_active):
            self._active[rollout.rollout_id] = rollout
            _LOG.info("rollout %s goes on, %s", rollout.rollout_id, rollout.state.value)

    async def drive(self) -> None:
        """Lets time pass, until cancelled; a store that cannot be written is tried again."""
        while True:
            await asyncio.sleep(self._tick_interval_s)
            try:
                await self.tick()
            except SQLAlchemyError:
                _LOG.exception("timeouts could not be stored")

    async def tick(self) -> None:
        """Times out what is overdue."""
        now_s = self._clock()
        for rollout in tuple(self._active.values()):
            if engine.tick(rollout, now_s).rollout is not rollout:
                await self._change(rollout.rollout_id, lambda value: engine.tick(value, now_s))

    async def create(self, reference: str, fleet: str, plan: Plan) -> Rollout:
        """Begins to bring a model to a fleet.

        Args:
            reference: ``NAME``, ``NAME:VERSION``, a digest, or ``""`` for the highest approved
                version of the detector that the fleet runs which fits all of its hardware.

        Raises:
            InvalidInput: Without a reference, the fleet runs nothing and several names fit it.
            NotFound: No such fleet or model.
            Conflict: The fleet has a rollout under way, or a newer release, or has devices of which
                none has hardware that the model was made for.
        """
        return await self._transact(
            lambda connection, news: self._create(connection, news, reference, fleet, plan)
        )

    async def approve(self, rollout_id: str) -> Rollout:
        """See :func:`engine.approve`; raises NotFound or Conflict."""
        return await self._change(rollout_id, lambda value: engine.approve(value, self._clock()))

    async def pause(self, rollout_id: str) -> Rollout:
        """See :func:`engine.pause`; raises NotFound or Conflict."""
        return await self._change(rollout_id, lambda value: engine.pause(value, self._clock()))

    async def resume(self, rollout_id: str) -> Rollout:
        """See :func:`engine.resume`; raises NotFound or Conflict."""
        return await self._change(rollout_id, lambda value: engine.resume(value, self._clock()))

    async def abort(self, rollout_id: str, reason: str) -> Rollout:
        """See :func:`engine.abort`; raises NotFound or Conflict."""
        return await self._change(
            rollout_id, lambda value: engine.abort(value, reason, self._clock())
        )

    async def observe(self, observation: Observation, reported: bytes) -> None:
        """Takes in a device's report and keeps it; the device converges if it should.

        Args:
            reported: The whole report, serialized, for the shadow.
        """
        await self._transact(
            lambda connection, news: self._observe(connection, news, observation, reported)
        )

    async def revoke(self, device_id: str, reason: str) -> None:
        """Revokes a device and takes it out of its rollout.

        Raises:
            NotFound: No such device.
            Conflict: It is revoked already.
        """
        await self._transact(
            lambda connection, news: self._revoke(connection, news, device_id, reason)
        )

    async def get(self, rollout_id: str) -> Rollout:
        """One rollout; raises NotFound."""
        active = self._active.get(rollout_id)
        if active is not None:
            return active
        return await self._database.arun(lambda connection: store.load(connection, rollout_id))

    async def watch(self, rollout_id: str) -> AsyncGenerator[Rollout, None]:
        """The rollout now and after every change, until it has ended. Fast changes may merge.

        Raises:
            NotFound: No such rollout.
        """
        changed = asyncio.Event()
        watchers = self._watchers.setdefault(rollout_id, set())
        watchers.add(changed)
        revision = 0
        try:
            while True:
                changed.clear()
                rollout = await self.get(rollout_id)
                if rollout.revision != revision:
                    revision = rollout.revision
                    yield rollout
                if rollout.state.has_ended:
                    return
                await changed.wait()
        finally:
            watchers.discard(changed)
            if not watchers:
                self._watchers.pop(rollout_id, None)

    async def _transact(self, work: Callable[[Connection, _News], T]) -> T:
        # Shielded: a caller that goes away must not part the rows from what is in memory.
        return await asyncio.shield(self._locked(work))

    async def _locked(self, work: Callable[[Connection, _News], T]) -> T:
        async with self._lock:
            news = _News()
            result = await self._database.arun(lambda connection: work(connection, news))
            self._publish(news)
            return result

    def _publish(self, news: _News) -> None:
        for rollout_id, rollout in news.rollouts.items():
            if rollout.state.has_ended:
                self._active.pop(rollout_id, None)
            else:
                self._active[rollout_id] = rollout
            for changed in self._watchers.get(rollout_id, ()):
                changed.set()
        self._presence.wake(news.device_ids)

    async def _change(self, rollout_id: str, decide: Callable[[Rollout], Step]) -> Rollout:
        def work(connection: Connection, news: _News) -> Rollout:
            before = self._load(connection, rollout_id)
            step = decide(before)
            self._apply(connection, news, before, step)
            return step.rollout

        return await self._transact(work)

    def _load(self, connection: Connection, rollout_id: str) -> Rollout:
        return self._active.get(rollout_id) or store.load(connection, rollout_id)

    def _apply(
        self, connection: Connection, news: _News, before: Rollout | None, step: Step
    ) -> None:
        """Keeps a step: the rollout, its orders, and what its end means for the fleet."""
        after = step.rollout
        if after is before:
            return
        store.save(connection, before, after)
        news.rollouts[after.rollout_id] = after
        for order in step.orders:
            devices.give_order(
                connection,
                order.device_id,
                order.digest,
                order.attempt,
                is_rollback=order.is_rollback,
            )
            news.device_ids.add(order.device_id)
        if before is None or before.state is not after.state:
            _LOG.info(
                "rollout %s of %s to %s is %s %s",
                after.rollout_id,
                after.digest[:12],
                after.fleet,
                after.state.value,
                after.detail,
            )
            if after.state.has_ended:
                self._settle_fleet(connection, news, after)

    def _settle_fleet(self, connection: Connection, news: _News, ended: Rollout) -> None:
        if ended.state is RolloutState.COMPLETED:
            devices.set_release(
                connection, ended.fleet, ended.digest, is_rollback=ended.plan.is_rollback
            )
        fleet = devices.find_fleet(connection, ended.fleet)
        for device in devices.list_devices(connection, ended.fleet):
            self._converge(connection, news, fleet, device)

    def _converge(
        self, connection: Connection, news: _News, fleet: FleetRow, device: DeviceRow
    ) -> None:
        """Orders the fleet's release to a device that no active rollout holds, if it lacks it."""
        digest = fleet.release_digest
        is_settled = digest in ("", device.desired_digest, device.refused_digest)
        if is_settled or device.is_revoked:
            return
        fits = find_model(connection, digest).fits(device.hardware)
        if not fits or store.is_reverting(connection, device.device_id, device.attempt):
            return
        devices.give_order(
            connection,
            device.device_id,
            digest,
            device.attempt + 1,
            is_rollback=fleet.release_is_rollback,
        )
        news.device_ids.add(device.device_id)

    def _create(
        self, connection: Connection, news: _News, reference: str, fleet: str, plan: Plan
    ) -> Rollout:
        fleet_row = devices.find_fleet(connection, fleet)
        for rollout in self._active.values():
            if rollout.fleet == fleet:
                raise Conflict(
                    f"Fleet {fleet} has rollout {rollout.rollout_id} under way.",
                    "wait for its end, or abort it with camctl rollout abort",
                )
        members = [row for row in devices.list_devices(connection, fleet) if not row.is_revoked]
        digest = fleet_row.release_digest
        released = find_model(connection, digest) if digest else None
        model = (
            find_model(connection, reference)
            if reference
            else newest_model(
                connection,
                (row.hardware for row in members),
                released.name if released is not None else "",
            )
        )
        if released is not None and not plan.is_rollback:
            _refuse_older(model, released)
        _refuse_misfit(model, fleet, members)
        # Connected devices first: a canary should answer.
        members.sort(
            key=lambda row: (not self._presence.is_connected(row.device_id), row.device_id)
        )
        step = engine.create(
            secrets.token_hex(6),
            fleet,
            model.digest,
            plan,
            [_candidate(row, model) for row in members],
            self._clock(),
        )
        self._apply(connection, news, None, step)
        return step.rollout

    def _observe(
        self, connection: Connection, news: _News, seen: Observation, reported: bytes
    ) -> None:
        now_s = self._clock()
        devices.record_report(connection, seen.device_id, seen.running_digest, reported, now_s)
        if seen.has_refused:
            devices.record_refusal(connection, seen.device_id, seen.update_digest)
        elif seen.progress is Progress.GOOD:
            devices.forget_refusal(connection, seen.device_id, seen.update_digest)
        rollout_id = store.find_ordering(connection, seen.device_id, seen.attempt)
        if rollout_id is not None:
            before = self._load(connection, rollout_id)
            self._apply(connection, news, before, engine.observe(before, seen, now_s))
        active = {**self._active, **news.rollouts}.values()
        is_held = any(
            execution.device_id == seen.device_id
            for rollout in active
            if not rollout.state.has_ended
            for execution in rollout.executions
        )
        if not is_held:
            device = devices.find_device(connection, seen.device_id)
            fleet = devices.find_fleet(connection, device.fleet)
            self._converge(connection, news, fleet, device)

    def _revoke(self, connection: Connection, news: _News, device_id: str, reason: str) -> None:
        devices.revoke_device(connection, device_id, reason)
        news.device_ids.add(device_id)
        for rollout in tuple(self._active.values()):
            step = engine.drop(rollout, device_id, self._clock())
            self._apply(connection, news, rollout, step)


def _candidate(row: DeviceRow, model: ModelRow) -> Candidate:
    return Candidate(
        row.device_id,
        model.fits(row.hardware),
        row.running_digest,
        row.desired_digest,
        row.refused_digest,
        row.attempt,
    )


def _refuse_older(model: ModelRow, release: ModelRow) -> None:
    if model.name == release.name and model.version < release.version:
        raise Conflict(
            f"The fleet runs {release.reference}, which is newer than {model.reference}.",
            "say that a rollback is meant (--rollback)",
        )


def _refuse_misfit(model: ModelRow, fleet: str, members: Sequence[DeviceRow]) -> None:
    """A fleet without devices may get a release that those which enrol take."""
    if members and not any(model.fits(row.hardware) for row in members):
        theirs = ", ".join(sorted({row.hardware for row in members}))
        raise Conflict(
            f"No device of fleet {fleet} can run {model.reference}: it was made for "
            f"{', '.join(model.hardware)}, and they have {theirs}.",
            "compress the model for their hardware (camctl model compress --device), or name "
            "another; camctl model list shows what each was made for",
        )
