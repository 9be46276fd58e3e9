"""Which device certificates are in force: issued here, to a device that is not revoked.

All functions run within the caller's transaction.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select

from camcloud.fleet.authority import DeviceCertificate
from camcloud.store.fleet_tables import certificates, devices

MAX_IN_FORCE = 8
"""Certificates of one device: a renewal leaves the old one good, for calls that are under way."""

_BATCH = 500
"""Serials per query; SQLite bounds the variables of one."""


def record(
    connection: Connection, device_id: str, certificate: DeviceCertificate, now_s: float
) -> None:
    """Puts a new certificate in force, and ends those that have expired or are too many."""
    of_device = select(certificates.c.serial).where(certificates.c.device_id == device_id)
    newest = (
        of_device.where(certificates.c.expires_timestamp_s >= now_s)
        .order_by(certificates.c.issued_timestamp_s.desc())
        .limit(MAX_IN_FORCE - 1)
    )
    kept = [row.serial for row in connection.execute(newest)]
    connection.execute(
        delete(certificates).where(
            certificates.c.device_id == device_id, certificates.c.serial.not_in(kept)
        )
    )
    connection.execute(
        insert(certificates).values(
            serial=certificate.serial,
            device_id=device_id,
            issued_timestamp_s=now_s,
            expires_timestamp_s=certificate.expires_timestamp_s,
        )
    )


def in_force(connection: Connection, serials: Sequence[str]) -> dict[str, str]:
    """The device of each serial that is in force; the dates are the caller's to judge."""
    found: dict[str, str] = {}
    for start in range(0, len(serials), _BATCH):
        query = (
            select(certificates.c.serial, certificates.c.device_id)
            .join(devices, devices.c.device_id == certificates.c.device_id)
            .where(
                certificates.c.serial.in_(serials[start : start + _BATCH]),
                devices.c.is_revoked.is_(False),
            )
        )
        found.update({row.serial: row.device_id for row in connection.execute(query)})
    return found


def expiries(connection: Connection, device_id: str = "") -> dict[str, float]:
    """When the newest certificate of each device expires, of one device or of all ("")."""
    newest = func.max(certificates.c.expires_timestamp_s).label("newest_s")
    query = select(certificates.c.device_id, newest).group_by(certificates.c.device_id)
    if device_id:
        query = query.where(certificates.c.device_id == device_id)
    return {row.device_id: row.newest_s for row in connection.execute(query)}
