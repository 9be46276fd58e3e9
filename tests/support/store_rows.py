"""A store with the tables of this release, and rows that other rows refer to."""

from pathlib import Path

from sqlalchemy import Connection, insert

from camcloud.fleet import devices
from camcloud.store import migrate
from camcloud.store.database import Database
from camcloud.store.fleet_tables import models

HARDWARE = "cpu-x86_64"


def open_store(path: Path | None = None) -> Database:
    """A migrated store; in memory without a path."""
    database = Database(path)
    migrate.upgrade(database)
    return database


def add_fleet(connection: Connection, name: str) -> None:
    """A fleet."""
    devices.create_fleet(connection, name, "", 0.0)


def add_device(
    connection: Connection, device_id: str, fleet: str, hardware: str = HARDWARE
) -> None:
    """A device that has never been told anything."""
    devices.add_device(
        connection,
        device_id=device_id,
        fleet=fleet,
        hardware=hardware,
        labels={},
        sealing_key=bytes(32),
        now_s=0.0,
    )


def add_model(
    connection: Connection,
    digest: str,
    *,
    name: str = "tiny",
    version: int = 1,
    hardware: tuple[str, ...] = (HARDWARE,),
    pushed_s: float = 0.0,
) -> None:
    """A model's row, without its bytes."""
    connection.execute(
        insert(models).values(
            digest=digest,
            name=name,
            version=version,
            hardware=list(hardware),
            size_bytes=1,
            manifest_json="{}",
            pushed_timestamp_s=pushed_s,
            is_approved=True,
        )
    )
