"""The embedded cloud: every part in one process, on one event loop, over one data folder.

Start: the folder is locked, the store migrated, credentials made if missing, the data plane and the
rollouts taken up where they were, and only then do the listeners open. Stop is the reverse; what is
acknowledged is durable at every moment, so a process that is killed loses nothing but time.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from camcloud.api.control import ControlPlane
from camcloud.api.guard import DeviceGuard, TokenGuard
from camcloud.api.interception import admit_all
from camcloud.api.servicer import CloudApi, Instance
from camcloud.blobs import Blobs, LocalBlobs
from camcloud.bus import Bus, LogBus, SqliteJournal
from camcloud.data_plane import DataPlane
from camcloud.fleet.authority import CertificateAuthority
from camcloud.fleet.enrolment import Enrolment, EnrolmentTerms
from camcloud.fleet.files import write_file
from camcloud.fleet.presence import Presence
from camcloud.fleet.shadow import DeviceShadow
from camcloud.gateway import IngestServicer
from camcloud.listeners import (
    API_OPTIONS,
    DEVICE_OPTIONS,
    ENROLMENT_OPTIONS,
    Address,
    ServerIdentity,
    bind,
    make_server,
)
from camcloud.registry import Registry
from camcloud.rollout.service import RolloutService
from camcloud.store import migrate
from camcloud.store.database import Database
from camcloud.vectors import FaissVectors
from camcloud.workspace import Workspace
from camproto.v1.api_pb2_grpc import add_CloudApiServicer_to_server
from camproto.v1.device_pb2_grpc import (
    add_DeviceGatewayServicer_to_server,
    add_EnrolmentServicer_to_server,
)
from camsdk.errors import InvalidInput

STOP_GRACE_S = 0.5
"""Streams have no end of their own, and what they carry is sent again."""

_LOG = logging.getLogger(__name__)

Background = tuple[asyncio.Task[None], ...]


@dataclass(frozen=True)
class ServeSettings:
    """How an embedded cloud runs.

    Attributes:
        data_dir: Its folder.
        address: ``HOST:PORT`` of the user API; devices get the next port, enrolment the one after.
            Port 0 takes free ones. The default is loopback: whoever wants more says so.
        advertise: Host name or address that devices and users reach this machine by. Needed when
            ``address`` is not loopback, since certificates and tokens carry it.
    """

    data_dir: Path
    address: str = "127.0.0.1:8443"
    advertise: str = ""

    def bind_address(self) -> Address:
        """Where the user API binds.

        Raises:
            InvalidInput: No address, or not loopback and nothing to advertise.
        """
        address = Address.parse(self.address)
        if not address.is_loopback and not self.advertise:
            raise InvalidInput(
                f"{address} can be reached from other machines.",
                "say under which name with --advertise HOST, or bind to 127.0.0.1",
            )
        return address


@dataclass(frozen=True)
class Endpoints:
    """Where the three listeners can be reached, ``host:port`` each."""

    api: str
    device: str
    enrolment: str


class DeviceGateway(IngestServicer, DeviceShadow):
    """All methods of ``camproto.v1.DeviceGateway``: Ingest is the data plane's."""

    def __init__(self, bus: Bus, shadow: "ControlParts") -> None:
        IngestServicer.__init__(self, bus)
        DeviceShadow.__init__(
            self,
            shadow.database,
            shadow.presence,
            shadow.rollouts,
            shadow.registry,
            shadow.authority,
        )


@dataclass(frozen=True)
class ControlParts:
    """The control plane's parts that several listeners share."""

    database: Database
    presence: Presence
    rollouts: RolloutService
    registry: Registry
    authority: CertificateAuthority
    guard: DeviceGuard
    trust_keys: tuple[bytes, ...]


@dataclass(frozen=True)
class Cloud:
    """A cloud that serves.

    Attributes:
        workspace: Its data folder.
        endpoints: Where it can be reached.
        control, data: Its parts.
        background: Loops that run as long as the cloud does.
    """

    workspace: Workspace
    endpoints: Endpoints
    control: ControlParts
    data: DataPlane
    background: Background

    async def failure(self) -> None:
        """Returns never, unless a background loop ends: then its error is raised."""
        await asyncio.gather(*self.background)

    def ready(self) -> dict[str, object]:
        """What a caller needs to know, as printed by ``camctl serve --json``."""
        return {
            "ready": True,
            "api": self.endpoints.api,
            "device": self.endpoints.device,
            "enrolment": self.endpoints.enrolment,
            "data_dir": str(self.workspace.folder),
            "ca": str(self.workspace.pki_dir / "ca.pem"),
            "admin_token_file": str(self.workspace.admin_token_path),
        }


@asynccontextmanager
async def serving(settings: ServeSettings) -> AsyncIterator[Cloud]:
    """A cloud that serves within the block.

    Raises:
        CamError: The settings are wrong, the folder is in use or damaged, a port is taken.
    """
    address = settings.bind_address()
    workspace = Workspace(settings.data_dir)
    async with AsyncExitStack() as stack:
        stack.enter_context(workspace.owned())
        control, blobs = _open_control(workspace, stack)
        data = DataPlane(
            control.database,
            LogBus(SqliteJournal(workspace.bus_path)),
            FaissVectors(workspace.vectors_dir),
            blobs,
        )
        await data.start()
        stack.push_async_callback(data.stop)
        await control.rollouts.start()
        background = await stack.enter_async_context(
            _running(control.rollouts.drive(), control.guard.watch(), data.failure())
        )
        endpoints = await _listen(settings, address, workspace, control, data, stack)
        cloud = Cloud(workspace, endpoints, control, data, background)
        ready = json.dumps(cloud.ready()).encode()
        write_file(workspace.ready_path, ready, is_private=False)
        stack.callback(workspace.ready_path.unlink, missing_ok=True)
        _LOG.info("serving %s from %s", endpoints.api, workspace.folder)
        yield cloud


def _open_control(workspace: Workspace, stack: AsyncExitStack) -> tuple[ControlParts, Blobs]:
    database = Database(workspace.store_path)
    stack.callback(database.close)
    migrate.upgrade(database)
    workspace.ensure_admin_token(database, time.time())
    trust_keys = workspace.trust_keys()
    blobs = LocalBlobs(workspace.blobs_dir)
    presence = Presence()
    control = ControlParts(
        database=database,
        presence=presence,
        rollouts=RolloutService(database, presence),
        registry=Registry(database, blobs, trust_keys, signing_hint=workspace.signing_hint),
        authority=CertificateAuthority.load_or_create(workspace.pki_dir),
        guard=DeviceGuard(database),
        trust_keys=trust_keys,
    )
    return control, blobs


async def _listen(
    settings: ServeSettings,
    address: Address,
    workspace: Workspace,
    control: ControlParts,
    data: DataPlane,
    stack: AsyncExitStack,
) -> Endpoints:
    """Binds all three, then starts all three: a port that is taken leaves nothing half open."""
    api = make_server(TokenGuard(control.database), API_OPTIONS)
    device = make_server(admit_all(control.guard), DEVICE_OPTIONS)
    enrolment = make_server(None, ENROLMENT_OPTIONS)
    stack.push_async_callback(_stop, (api, device, enrolment))

    host = settings.advertise or address.host
    hosts = sorted({"localhost", "127.0.0.1", "::1", host})
    identity = ServerIdentity(control.authority, hosts, workspace.pki_dir)

    def bound(server: grpc.aio.Server, step: int, *, wants_client: bool = False) -> str:
        credentials = identity.credentials(wants_client=wants_client)
        return str(Address(host, bind(server, address.above(step), credentials).port))

    endpoints = Endpoints(
        api=bound(api, 0), device=bound(device, 1, wants_client=True), enrolment=bound(enrolment, 2)
    )
    instance = Instance("embedded", str(workspace.folder), time.time())
    add_CloudApiServicer_to_server(_user_api(control, data, endpoints, instance), api)
    add_DeviceGatewayServicer_to_server(DeviceGateway(data.bus, control), device)
    terms = EnrolmentTerms(endpoints.device, control.trust_keys)
    add_EnrolmentServicer_to_server(
        Enrolment(control.database, control.authority, terms), enrolment
    )
    await asyncio.gather(*(server.start() for server in (api, device, enrolment)))
    return endpoints


def _user_api(
    control: ControlParts, data: DataPlane, endpoints: Endpoints, instance: Instance
) -> CloudApi:
    plane = ControlPlane(
        control.database,
        control.presence,
        control.rollouts,
        control.guard,
        endpoints.enrolment,
        control.authority.ca_pem,
    )
    return CloudApi(plane, control.registry, data, instance)


async def _stop(servers: tuple[grpc.aio.Server, ...]) -> None:
    await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in servers))


@asynccontextmanager
async def _running(*loops: Coroutine[object, object, None]) -> AsyncIterator[Background]:
    """Runs loops in the background of the block."""
    tasks = tuple(asyncio.create_task(loop) for loop in loops)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
