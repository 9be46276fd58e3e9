"""The user API's control part: fleets, devices, tokens and rules."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection
from typing_extensions import override

from camcloud.api import messages, rule_check
from camcloud.api.errors import Context
from camcloud.api.guard import DeviceGuard
from camcloud.fleet import certificates, devices, tokens
from camcloud.fleet.devices import DeviceRow
from camcloud.fleet.presence import Presence
from camcloud.fleet.shadow import desired_of
from camcloud.registry import find_model, references
from camcloud.rollout.service import RolloutService
from camcloud.store.database import Database
from camproto.v1 import api_pb2
from camproto.v1.api_pb2_grpc import CloudApiServicer
from camsdk.errors import InvalidInput
from camsdk.vision.rules import parse_rules
from camsdk.wire.tokens import encode_token

REVOKE_GRACE_S = 0.2
"""How long a revoked device's Sync stream has to say so before all its calls are ended."""

MAX_RULES_BYTES = 256 * 1024


@dataclass(frozen=True)
class ControlPlane:
    """What the control part of the API works with.

    Attributes:
        enrolment_endpoint: ``host:port`` that bootstrap tokens lead to.
        ca_pem: Certificate that they bring along.
    """

    database: Database
    presence: Presence
    rollouts: RolloutService
    guard: DeviceGuard
    enrolment_endpoint: str
    ca_pem: bytes
    clock: Callable[[], float] = field(default=time.time)


class ControlApi(CloudApiServicer):
    """Calls that read and change fleets and devices.

    Each raises what the function that it hands the work to says it raises.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._database = plane.database

    @override
    async def CreateFleet(
        self, request: api_pb2.CreateFleetRequest, context: Context
    ) -> api_pb2.Fleet:
        """A new, empty fleet."""
        now_s = self._plane.clock()
        fleet = await self._database.arun(
            lambda c: devices.create_fleet(c, request.name, request.description, now_s)
        )
        return messages.fleet_message(fleet, (), {}, self._plane.presence)

    @override
    async def ListFleets(
        self, request: api_pb2.ListFleetsRequest, context: Context
    ) -> api_pb2.ListFleetsResponse:
        """All fleets by name."""
        return await self._database.arun(self._list_fleets)

    def _list_fleets(self, connection: Connection) -> api_pb2.ListFleetsResponse:
        members: dict[str, list[DeviceRow]] = {}
        for device in devices.list_devices(connection):
            members.setdefault(device.fleet, []).append(device)
        names = references(connection)
        return api_pb2.ListFleetsResponse(
            fleets=[
                messages.fleet_message(
                    fleet, members.get(fleet.name, ()), names, self._plane.presence
                )
                for fleet in devices.list_fleets(connection)
            ]
        )

    @override
    async def GetFleet(self, request: api_pb2.GetFleetRequest, context: Context) -> api_pb2.Fleet:
        """One fleet."""

        def work(connection: Connection) -> api_pb2.Fleet:
            fleet = devices.find_fleet(connection, request.name)
            members = devices.list_devices(connection, fleet.name)
            return messages.fleet_message(
                fleet, members, references(connection), self._plane.presence
            )

        return await self._database.arun(work)

    @override
    async def CreateBootstrapToken(
        self, request: api_pb2.CreateBootstrapTokenRequest, context: Context
    ) -> api_pb2.BootstrapToken:
        """Tokens that each let one device enrol into a fleet that there is."""

        def work(connection: Connection) -> tuple[tuple[str, ...], float]:
            fleet = devices.find_fleet(connection, request.fleet).name
            lifetime_s = request.lifetime_s or tokens.DEFAULT_BOOTSTRAP_LIFETIME_S
            return tokens.create_bootstrap(
                connection, fleet, request.count or 1, lifetime_s, self._plane.clock()
            )

        made, expires_s = await self._database.arun(work)
        endpoint, ca_pem = self._plane.enrolment_endpoint, self._plane.ca_pem
        return api_pb2.BootstrapToken(
            tokens=[encode_token(endpoint, secret, request.fleet, ca_pem) for secret in made],
            expires_timestamp_s=expires_s,
            enrolment_endpoint=endpoint,
            ca_pem=ca_pem,
        )

    @override
    async def CreateApiToken(
        self, request: api_pb2.CreateApiTokenRequest, context: Context
    ) -> api_pb2.ApiToken:
        """A token for a person or an application."""
        token, expires_s = await self._database.arun(
            lambda c: tokens.create_api(
                c,
                request.name,
                self._plane.clock(),
                is_read_only=request.is_read_only,
                lifetime_s=request.lifetime_s or tokens.DEFAULT_API_LIFETIME_S,
            )
        )
        return api_pb2.ApiToken(
            token=token, name=request.name, expires_timestamp_s=expires_s or 0.0
        )

    @override
    async def ListDevices(
        self, request: api_pb2.ListDevicesRequest, context: Context
    ) -> api_pb2.ListDevicesResponse:
        """Devices by name, of one fleet or of all."""

        def work(connection: Connection) -> api_pb2.ListDevicesResponse:
            if request.fleet:
                devices.find_fleet(connection, request.fleet)
            rows = devices.list_devices(connection, request.fleet)
            return api_pb2.ListDevicesResponse(devices=self._devices(connection, rows))

        return await self._database.arun(work)

    @override
    async def GetDevice(
        self, request: api_pb2.GetDeviceRequest, context: Context
    ) -> api_pb2.Device:
        """One device."""
        return await self._database.arun(lambda c: self._named_device(c, request.device_id))

    @override
    async def LabelDevice(
        self, request: api_pb2.LabelDeviceRequest, context: Context
    ) -> api_pb2.Device:
        """Sets and removes labels."""

        def work(connection: Connection) -> api_pb2.Device:
            devices.label_device(
                connection, request.device_id, dict(request.set), list(request.remove)
            )
            return self._named_device(connection, request.device_id)

        return await self._database.arun(work)

    @override
    async def RevokeDevice(
        self, request: api_pb2.RevokeDeviceRequest, context: Context
    ) -> api_pb2.Device:
        """Shuts a device out for good, its open streams included."""
        plane = self._plane
        await plane.rollouts.revoke(request.device_id, request.reason)
        await asyncio.sleep(REVOKE_GRACE_S)
        plane.guard.close(request.device_id)
        return await self._database.arun(lambda c: self._named_device(c, request.device_id))

    @override
    async def ApplyRules(
        self, request: api_pb2.ApplyRulesRequest, context: Context
    ) -> api_pb2.ApplyRulesResponse:
        """Checks rules and, unless it is a dry run, gives them to every device of the fleet."""
        if len(request.rules_yaml) > MAX_RULES_BYTES:
            raise InvalidInput(f"Rules of {len(request.rules_yaml)} characters are too long.")
        # In a thread: YAML of this length takes a second or two.
        rules = await asyncio.to_thread(parse_rules, request.rules_yaml)
        presence = self._plane.presence

        def work(connection: Connection) -> tuple[list[str], list[str]]:
            fleet = devices.find_fleet(connection, request.fleet)
            members = [
                row for row in devices.list_devices(connection, fleet.name) if not row.is_revoked
            ]
            if not request.is_dry_run:
                devices.set_rules(connection, fleet.name, request.rules_yaml, rules.digest)
            cameras = rule_check.reported_cameras(members, presence)
            released = (
                find_model(connection, fleet.release_digest) if fleet.release_digest else None
            )
            warnings = rule_check.warnings(rules, fleet.name, cameras, released)
            return [row.device_id for row in members], warnings

        device_ids, warnings = await self._database.arun(work)
        if not request.is_dry_run:
            presence.wake(device_ids)
        return api_pb2.ApplyRulesResponse(
            rules_digest=rules.digest, device_count=len(device_ids), warnings=warnings
        )

    def _named_device(self, connection: Connection, device_id: str) -> api_pb2.Device:
        row = devices.find_device(connection, device_id)
        (device,) = self._devices(connection, [row], device_id)
        return device

    def _devices(
        self, connection: Connection, rows: Sequence[DeviceRow], device_id: str = ""
    ) -> list[api_pb2.Device]:
        """With a fixed number of queries, however many there are: everybody else waits for them."""
        fleets = {fleet.name: fleet for fleet in devices.list_fleets(connection)}
        names = references(connection)
        expiries = certificates.expiries(connection, device_id)
        return [
            messages.device_message(
                row,
                desired_of(row, fleets[row.fleet], names.get(row.desired_digest, "")),
                expiries.get(row.device_id, 0.0),
                self._plane.presence,
            )
            for row in rows
        ]
