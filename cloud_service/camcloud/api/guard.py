"""Lets calls in: devices by a certificate that still holds, people by a token.

A TLS connection outlives the expiry and the revocation of its certificate, and a stream may stay
open for days. So a device's certificate is looked up at the start of each call, and every open call
holds a lease that ends when the certificate is revoked (at once, see :meth:`DeviceGuard.close`), or
is found expired or revoked by the periodic check (another process may have revoked it).
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from camcloud.api.auth import DeviceIdentity, device_of
from camcloud.api.errors import Context
from camcloud.api.interception import Guard, Metadata
from camcloud.fleet import certificates, tokens
from camcloud.store.database import Database
from camsdk.errors import PermissionDenied, Unauthenticated, Unavailable

RECHECK_INTERVAL_S = 2.0
"""Well within the 5 s that a revocation may take on open streams."""

READ_METHODS = frozenset(
    f"/camproto.v1.CloudApi/{name}"
    for name in (
        "GetStatus",
        "ListEvents",
        "TailEvents",
        "GetEvent",
        "GetEventCrop",
        "SearchAppearance",
        "GetIngestStats",
        "ListTracks",
        "ListFleets",
        "GetFleet",
        "ListDevices",
        "GetDevice",
        "ListModels",
        "GetModel",
        "GetRollout",
        "ListRollouts",
        "WatchRollout",
    )
)
"""What a read-only token may call. A method that is not listed needs a full one."""

_BEARER = "bearer "
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Lease:
    """One open call of a device."""

    identity: DeviceIdentity
    task: asyncio.Task[object]
    refusal: Unauthenticated | None = None

    def end(self, refusal: Unauthenticated) -> None:
        if self.refusal is None:
            self.refusal = refusal
            self.task.cancel()


class DeviceGuard:
    """Guards the servers that devices call.

    Args:
        database: Holds the certificates in force.
        clock: Seconds since the Unix epoch.
        recheck_interval_s: Between two checks of the open calls.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        recheck_interval_s: float = RECHECK_INTERVAL_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recheck_interval_s = recheck_interval_s
        self._leases: set[_Lease] = set()

    @asynccontextmanager
    async def __call__(self, method: str, context: Context) -> AsyncIterator[None]:
        """Runs a call under a lease.

        Raises:
            Unauthenticated: The certificate is not in force, or ceased to be.
        """
        identity = device_of(context)
        # The lease comes before the look-up: a revocation in between finds it.
        with self._lease(identity) as lease:
            try:
                await self._admit(identity)
                yield
            except asyncio.CancelledError:
                if lease.refusal is None:
                    raise
                lease.task.uncancel()
                _LOG.info("%s of %s ended: %s", method, identity.device_id, lease.refusal.message)
                raise lease.refusal from None

    @contextmanager
    def _lease(self, identity: DeviceIdentity) -> Iterator[_Lease]:
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task of its own"
        lease = _Lease(identity, task)
        self._leases.add(lease)
        try:
            yield lease
        finally:
            self._leases.discard(lease)

    async def _admit(self, identity: DeviceIdentity) -> None:
        in_force = await self._database.arun(
            lambda connection: certificates.in_force(connection, [identity.serial])
        )
        if refusal := self._refusal(identity, in_force):
            raise refusal

    def _refusal(
        self, identity: DeviceIdentity, in_force: dict[str, str]
    ) -> Unauthenticated | None:
        if in_force.get(identity.serial) != identity.device_id:
            return revoked(identity.device_id)
        if self._clock() >= identity.expires_timestamp_s:
            return Unauthenticated(
                f"The certificate of {identity.device_id} has expired.", "renew it, or enrol again"
            )
        return None

    def close(self, device_id: str) -> int:
        """Ends every open call of a revoked device; returns how many."""
        ended = [lease for lease in self._leases if lease.identity.device_id == device_id]
        for lease in ended:
            lease.end(revoked(device_id))
        return len(ended)

    async def watch(self) -> None:
        """Checks the open calls again and again, until cancelled; a failed look is repeated."""
        while True:
            await asyncio.sleep(self._recheck_interval_s)
            try:
                await self.recheck()
            except SQLAlchemyError:
                _LOG.exception("certificates could not be looked up")

    async def recheck(self) -> None:
        """Ends the open calls whose certificate is no longer in force."""
        leases = tuple(self._leases)
        serials = sorted({lease.identity.serial for lease in leases})
        if not serials:
            return
        in_force = await self._database.arun(
            lambda connection: certificates.in_force(connection, serials)
        )
        for lease in leases:
            if refusal := self._refusal(lease.identity, in_force):
                lease.end(refusal)


class TokenGuard:
    """Admits people and applications to their server."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def __call__(self, method: str, metadata: Metadata) -> Guard:
        """Lets a call in, for as long as its token lives: a stream may be open for days.

        Raises:
            Unauthenticated: No token, or not one that is in force.
            PermissionDenied: A read-only token, and the method changes something.
            Unavailable: The store cannot be read now.
        """
        token, now_s = _bearer(metadata), self._clock()
        try:
            caller = await self._database.arun(
                lambda connection: tokens.identify(connection, token, now_s)
            )
        except SQLAlchemyError as error:
            _LOG.exception("tokens could not be looked up")
            raise Unavailable("The store cannot be read now.", "try again") from error
        if caller.is_read_only and method not in READ_METHODS:
            raise PermissionDenied(
                f"The token {caller.name!r} may only read.", "use a token that is not read-only"
            )
        end_s = caller.expires_timestamp_s
        return _for_a_time(None if end_s is None else end_s - now_s)


def _for_a_time(life_s: float | None) -> Guard:
    """Ends a call after ``life_s`` as one whose token has expired; never for ``None``."""

    @asynccontextmanager
    async def guard(_method: str, _context: Context) -> AsyncIterator[None]:
        life = asyncio.timeout(life_s)
        try:
            async with life:
                yield
        except TimeoutError:
            if not life.expired():
                raise
            raise tokens.expired() from None

    return guard


def revoked(device_id: str) -> Unauthenticated:
    """What a revoked device is told."""
    return Unauthenticated(
        f"The certificate of {device_id} is not in force: revoked, or never issued here.",
        "enrol the device anew",
    )


def _bearer(metadata: Metadata) -> str:
    for key, value in metadata:
        text = value if isinstance(value, str) else ""
        if key == "authorization" and text.lower().startswith(_BEARER):
            return text[len(_BEARER) :].strip()
    raise Unauthenticated(
        "The call carries no API token.",
        "give --token-file, or send the metadata 'authorization: Bearer TOKEN'",
    )
