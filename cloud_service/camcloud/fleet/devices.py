"""Fleets and devices as rows: what was enrolled, what each is to run, what each last said.

A device's *desired state* is the artifact that a rollout ordered and the rules of its fleet; its
version grows whenever either changes. All functions run within the caller's transaction.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from camcloud.api.auth import NAME_PATTERN
from camcloud.store.fleet_tables import devices, fleets
from camsdk.errors import AlreadyExists, Conflict, InvalidInput, NotFound

MAX_LABELS = 32
HARDWARE_PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"
_NAME = re.compile(NAME_PATTERN)
_HARDWARE = re.compile(HARDWARE_PATTERN)
_LABEL_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_MAX_LABEL_CHARS = 256


@dataclass(frozen=True)
class FleetRow:
    """A fleet; ``release_digest`` is the artifact of its last completed rollout, or ``""``."""

    name: str
    description: str
    created_timestamp_s: float
    rules_yaml: str
    rules_digest: str
    release_digest: str
    release_is_rollback: bool


@dataclass(frozen=True)
class DeviceRow:
    """A device; see :data:`camcloud.store.fleet_tables.devices`."""

    device_id: str
    fleet: str
    hardware: str
    labels: Mapping[str, str]
    sealing_key: bytes
    enrolled_timestamp_s: float
    last_seen_timestamp_s: float
    is_revoked: bool
    revoked_reason: str
    desired_version: int
    desired_digest: str
    desired_is_rollback: bool
    attempt: int
    running_digest: str
    refused_digest: str
    reported: bytes


def check_name(kind: str, name: str) -> str:
    """Returns ``name`` if a fleet or device may have it.

    Raises:
        InvalidInput: It may not.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no {kind} name",
            "use 1 to 63 lower-case letters, digits and '-', not at either end",
        )
    return name


def create_fleet(connection: Connection, name: str, description: str, now_s: float) -> FleetRow:
    """A new fleet, without devices, rules or release.

    Raises:
        InvalidInput: The name or the description is not allowed.
        AlreadyExists: The name is taken.
    """
    check_name("fleet", name)
    if len(description) > 500:
        raise InvalidInput("A description has at most 500 characters.")
    if connection.execute(select(fleets.c.name).where(fleets.c.name == name)).first():
        raise AlreadyExists(f"The fleet {name} exists.", "choose another name")
    row = FleetRow(name, description, now_s, "", "", "", release_is_rollback=False)
    connection.execute(insert(fleets).values(**vars(row)))
    return row


def find_fleet(connection: Connection, name: str) -> FleetRow:
    """The fleet of that name.

    Raises:
        NotFound: There is none.
    """
    row = connection.execute(select(fleets).where(fleets.c.name == name)).one_or_none()
    if row is None:
        hint = "camctl fleet list shows all"
        if _NAME.fullmatch(name):
            hint += f"; camctl fleet create {name} makes it"
        raise NotFound(f"There is no fleet {name[:80]!r}.", hint)
    return _fleet(row)


def list_fleets(connection: Connection) -> tuple[FleetRow, ...]:
    """All fleets by name."""
    return tuple(_fleet(row) for row in connection.execute(select(fleets).order_by(fleets.c.name)))


def set_rules(connection: Connection, fleet: str, rules_yaml: str, rules_digest: str) -> list[str]:
    """Gives the fleet other rules; returns the devices that must hear of it."""
    connection.execute(
        update(fleets)
        .where(fleets.c.name == fleet)
        .values(rules_yaml=rules_yaml, rules_digest=rules_digest)
    )
    connection.execute(
        update(devices)
        .where(devices.c.fleet == fleet)
        .values(desired_version=devices.c.desired_version + 1)
    )
    return [row.device_id for row in list_devices(connection, fleet) if not row.is_revoked]


def set_release(connection: Connection, fleet: str, digest: str, *, is_rollback: bool) -> None:
    """From now on this is what newcomers get."""
    connection.execute(
        update(fleets)
        .where(fleets.c.name == fleet)
        .values(release_digest=digest, release_is_rollback=is_rollback)
    )


def add_device(
    connection: Connection,
    *,
    device_id: str,
    fleet: str,
    hardware: str,
    labels: Mapping[str, str],
    sealing_key: bytes,
    now_s: float,
) -> None:
    """A newly enrolled device, to which nothing has been ordered.

    Raises:
        InvalidInput: A value is not allowed.
        AlreadyExists: The name is taken, even by a revoked device: names are never given out again.
    """
    check_name("device", device_id)
    if not _HARDWARE.fullmatch(hardware):
        raise InvalidInput(f"{hardware[:80]!r} is no hardware name", "such as cpu-x86_64")
    if len(sealing_key) != 32:
        raise InvalidInput(f"The sealing key has {len(sealing_key)} bytes, not 32.")
    check_labels(labels)
    if connection.execute(
        select(devices.c.device_id).where(devices.c.device_id == device_id)
    ).first():
        raise AlreadyExists(f"The device {device_id} exists.", "enrol under another --name")
    connection.execute(
        insert(devices).values(
            device_id=device_id,
            fleet=fleet,
            hardware=hardware,
            labels=dict(labels),
            sealing_key=sealing_key,
            enrolled_timestamp_s=now_s,
            last_seen_timestamp_s=0.0,  # it has not connected yet
            is_revoked=False,
            revoked_reason="",
            desired_version=1,
            desired_digest="",
            desired_is_rollback=False,
            attempt=0,
            running_digest="",
            refused_digest="",
            reported=b"",
        )
    )


def find_device(connection: Connection, device_id: str) -> DeviceRow:
    """The device of that name.

    Raises:
        NotFound: There is none.
    """
    row = connection.execute(select(devices).where(devices.c.device_id == device_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no device {device_id[:80]!r}.", "camctl device list shows all")
    return _device(row)


def list_devices(connection: Connection, fleet: str = "") -> tuple[DeviceRow, ...]:
    """Devices by name, of one fleet or of all."""
    query = select(devices).order_by(devices.c.device_id)
    if fleet:
        query = query.where(devices.c.fleet == fleet)
    return tuple(_device(row) for row in connection.execute(query))


def count_devices(connection: Connection) -> int:
    """Devices that are not revoked."""
    query = select(func.count()).select_from(devices).where(devices.c.is_revoked.is_(False))
    return int(connection.execute(query).scalar_one())


def label_device(
    connection: Connection, device_id: str, to_set: Mapping[str, str], to_remove: Iterable[str]
) -> None:
    """Sets and removes labels.

    Raises:
        NotFound: No such device.
        InvalidInput: A label is not allowed, or there would be too many.
    """
    labels = {**find_device(connection, device_id).labels, **to_set}
    for key in to_remove:
        labels.pop(key, None)
    check_labels(labels)
    connection.execute(
        update(devices).where(devices.c.device_id == device_id).values(labels=labels)
    )


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuses what is no label.

    Raises:
        InvalidInput: Too many, or a key or value outside the grammar.
    """
    if len(labels) > MAX_LABELS:
        raise InvalidInput(f"{len(labels)} labels, at most {MAX_LABELS} fit")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidInput(f"{key[:80]!r} is no label key", "use letters, digits and ._/-")
        if len(value) > _MAX_LABEL_CHARS or not value.isprintable():
            raise InvalidInput(f"The value of label {key} is not up to 256 printable characters.")


def revoke_device(connection: Connection, device_id: str, reason: str) -> None:
    """Revokes a device for good: none of its certificates is in force any more.

    Raises:
        NotFound: No such device.
        Conflict: It is revoked already.
    """
    if find_device(connection, device_id).is_revoked:
        raise Conflict(f"The device {device_id} is revoked already.")
    connection.execute(
        update(devices)
        .where(devices.c.device_id == device_id)
        .values(
            is_revoked=True,
            revoked_reason=reason[:500],
            desired_version=devices.c.desired_version + 1,
        )
    )


def give_order(
    connection: Connection, device_id: str, digest: str, attempt: int, *, is_rollback: bool
) -> None:
    """Makes ``digest`` the one artifact that the device is to run.

    Raises:
        Conflict: The device has been given a newer order meanwhile.
    """
    given = connection.execute(
        update(devices)
        .where(devices.c.device_id == device_id, devices.c.attempt < attempt)
        .values(
            desired_digest=digest,
            desired_is_rollback=is_rollback,
            attempt=attempt,
            desired_version=devices.c.desired_version + 1,
        )
    )
    if given.rowcount != 1:
        raise Conflict(f"The device {device_id} has a newer order than number {attempt}.")


def record_report(
    connection: Connection, device_id: str, running_digest: str, reported: bytes, now_s: float
) -> None:
    """Keeps what a device said."""
    connection.execute(
        update(devices)
        .where(devices.c.device_id == device_id)
        .values(running_digest=running_digest, reported=reported, last_seen_timestamp_s=now_s)
    )


def record_refusal(connection: Connection, device_id: str, digest: str) -> None:
    """Keeps the last artifact that a device could not run."""
    connection.execute(
        update(devices).where(devices.c.device_id == device_id).values(refused_digest=digest)
    )


def forget_refusal(connection: Connection, device_id: str, digest: str) -> None:
    """The device runs ``digest`` now, whether it once refused it or not."""
    connection.execute(
        update(devices)
        .where(devices.c.device_id == device_id, devices.c.refused_digest == digest)
        .values(refused_digest="")
    )


def _fleet(row: Row[Any]) -> FleetRow:
    return FleetRow(**row._mapping)


def _device(row: Row[Any]) -> DeviceRow:
    return DeviceRow(**row._mapping)
