"""Device shadow and artifacts over mTLS: Sync, FetchArtifact, RenewCertificate.

A device reports on its Sync stream and is told its desired state at once and after every change, so
a device that was offline needs no message queue: it reads where it should be. Reports that say
nothing new are kept in memory and written once in a while.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

from sqlalchemy import Connection
from typing_extensions import override

from camcloud.api.auth import DeviceIdentity, device_of
from camcloud.api.errors import Context
from camcloud.api.guard import revoked
from camcloud.fleet import certificates, devices
from camcloud.fleet.authority import CertificateAuthority
from camcloud.fleet.devices import DeviceRow, FleetRow
from camcloud.fleet.presence import Presence
from camcloud.registry import Registry, reference_of
from camcloud.rollout.engine import Observation, Progress
from camcloud.rollout.service import RolloutService
from camcloud.store.database import Database
from camproto.v1 import device_pb2
from camproto.v1.device_pb2_grpc import DeviceGatewayServicer
from camsdk.errors import InvalidInput, NotFound

CHUNK_BYTES: Final = 256 * 1024
MAX_REPORT_BYTES: Final = 256 * 1024
PERSIST_INTERVAL_S: Final = 10.0
"""How old the stored copy of a connected device's report may be when nothing decisive changed."""

_PROGRESS: Final = {
    device_pb2.UPDATE_STATE_UNSPECIFIED: Progress.IDLE,
    device_pb2.UPDATE_STATE_IDLE: Progress.IDLE,
    device_pb2.UPDATE_STATE_DOWNLOADING: Progress.BUSY,
    device_pb2.UPDATE_STATE_VERIFYING: Progress.BUSY,
    device_pb2.UPDATE_STATE_CANARY: Progress.BUSY,
    device_pb2.UPDATE_STATE_TRIAL: Progress.BUSY,
    device_pb2.UPDATE_STATE_GOOD: Progress.GOOD,
    device_pb2.UPDATE_STATE_FAILED: Progress.FAILED,
    device_pb2.UPDATE_STATE_ROLLED_BACK: Progress.FAILED,
}
_MAX_DETAIL_CHARS: Final = 300
_MAX_ATTEMPT: Final = 2**63 - 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LOG = logging.getLogger(__name__)

Reports = AsyncIterator[device_pb2.DeviceReport]


class DeviceShadow(DeviceGatewayServicer):
    """The gateway's calls that belong to the control plane; Ingest is the data plane's."""

    def __init__(
        self,
        database: Database,
        presence: Presence,
        rollouts: RolloutService,
        registry: Registry,
        authority: CertificateAuthority,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._presence = presence
        self._rollouts = rollouts
        self._registry = registry
        self._authority = authority
        self._clock = clock

    @override
    async def Sync(
        self, request_iterator: Reports, context: Context
    ) -> AsyncIterator[device_pb2.DesiredState]:
        """The desired state now and after every change, while the device reports.

        Raises:
            Unauthenticated: The device was revoked; it is told so in a last message before.
            InvalidInput: A report is too large.
        """
        device = device_of(context)
        with self._presence.attend(device.device_id) as news:
            reader = asyncio.create_task(self._take_reports(device, request_iterator))
            reader.add_done_callback(lambda _: news.set())
            try:
                version = 0
                while not reader.done():
                    news.clear()
                    desired = await self._database.arun(
                        lambda c: desired_state(c, device.device_id)
                    )
                    if desired.version != version:
                        version = desired.version
                        yield desired
                    if desired.is_revoked:
                        raise revoked(device.device_id)
                    if not reader.done():
                        await news.wait()
                await reader
            finally:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reader

    @override
    async def FetchArtifact(
        self, request: device_pb2.FetchArtifactRequest, context: Context
    ) -> AsyncIterator[device_pb2.ArtifactChunk]:
        """The artifact that the device is to run, sealed for it, from ``offset`` on.

        Raises:
            NotFound: Not the artifact that this device is to run.
            InvalidInput: The offset lies beyond its end.
        """
        device = device_of(context)
        desired = await self._database.arun(lambda c: devices.find_device(c, device.device_id))
        if not request.digest or request.digest != desired.desired_digest:
            raise NotFound(
                "That is not the artifact that this device is to run.", "follow its desired state"
            )
        key, size_bytes = await self._registry.sealed(device.device_id, request.digest)
        if request.offset > size_bytes:
            raise InvalidInput(f"The artifact has {size_bytes} bytes, fewer than the offset.")
        for offset in range(request.offset, size_bytes, CHUNK_BYTES):
            data = await self._registry.read_sealed(key, offset, CHUNK_BYTES)
            yield device_pb2.ArtifactChunk(total_size=size_bytes, offset=offset, data=data)

    @override
    async def RenewCertificate(
        self, request: device_pb2.RenewCertificateRequest, context: Context
    ) -> device_pb2.RenewCertificateResponse:
        """A new certificate for the same device; the old one stays good until it expires.

        Raises:
            InvalidInput: The signing request is not acceptable.
        """
        device = device_of(context)
        certificate = self._authority.issue_device(
            request.csr_der, fleet=device.fleet, device_id=device.device_id
        )
        now_s = self._clock()
        await self._database.arun(
            lambda c: certificates.record(c, device.device_id, certificate, now_s)
        )
        return device_pb2.RenewCertificateResponse(
            certificate_chain_pem=certificate.pem, ca_pem=self._authority.ca_pem
        )

    async def _take_reports(self, device: DeviceIdentity, reports: Reports) -> None:
        last: Observation | None = None
        persisted_s = 0.0
        async for report in reports:
            _check_report(report)
            reported = report.SerializeToString()
            self._presence.note_report(device.device_id, reported)
            seen = observation_of(device.device_id, report)
            now_s = self._clock()
            if seen != last:
                await self._rollouts.observe(seen, reported)
                last = seen
                if seen.progress in (Progress.GOOD, Progress.FAILED) and seen.update_digest:
                    await self._registry.forget_sealed(device.device_id, seen.update_digest)
            elif abs(now_s - persisted_s) >= PERSIST_INTERVAL_S:  # also after a clock was set back
                keep = partial(
                    devices.record_report,
                    device_id=device.device_id,
                    running_digest=seen.running_digest,
                    reported=reported,
                    now_s=now_s,
                )
                await self._database.arun(keep)
            else:
                continue
            persisted_s = now_s


def _check_report(report: device_pb2.DeviceReport) -> None:
    """Refuses what is too large, or would draw in the terminal of whoever lists devices.

    Blanks what is not printable in ``detail``, which may hold the words of another program.

    Raises:
        InvalidInput: See above.
    """
    if report.ByteSize() > MAX_REPORT_BYTES:
        raise InvalidInput(f"A report has {report.ByteSize()} bytes.", "report fewer metrics")
    report.detail = "".join(char if char.isprintable() else " " for char in report.detail)
    texts = [value for _, value in report.ListFields() if isinstance(value, str)]
    texts += [camera.camera_id for camera in report.cameras]
    if not all(map(str.isprintable, [*texts, *report.metrics])):
        raise InvalidInput("A report has a name that is not printable.")


def observation_of(device_id: str, report: device_pb2.DeviceReport) -> Observation:
    """What rollouts need of a report; states that this release does not know count as busy.

    Nothing that a device says is trusted: what is no digest is none.
    """
    return Observation(
        device_id=device_id,
        attempt=min(report.rollout_attempt, _MAX_ATTEMPT),
        progress=_PROGRESS.get(report.update_state, Progress.BUSY),
        update_digest=_digest(report.update_digest),
        running_digest=_digest(report.running_digest),
        detail=report.detail[:_MAX_DETAIL_CHARS],
    )


def _digest(text: str) -> str:
    return text if _DIGEST.fullmatch(text) else ""


def desired_state(connection: Connection, device_id: str) -> device_pb2.DesiredState:
    """What a device is to run and to watch for.

    Raises:
        NotFound: No such device.
    """
    device = devices.find_device(connection, device_id)
    fleet = devices.find_fleet(connection, device.fleet)
    return desired_of(device, fleet, reference_of(connection, device.desired_digest))


def desired_of(device: DeviceRow, fleet: FleetRow, reference: str) -> device_pb2.DesiredState:
    """The same from rows; ``reference`` is the name of the artifact, if it has one here."""
    return device_pb2.DesiredState(
        version=device.desired_version,
        artifact_digest=device.desired_digest,
        artifact_name=reference,
        attempt=device.attempt,
        is_rollback=device.desired_is_rollback,
        rules_yaml=fleet.rules_yaml,
        rules_digest=fleet.rules_digest,
        is_revoked=device.is_revoked,
    )
