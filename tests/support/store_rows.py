"""A store with the tables of this release, and rows that other rows refer to."""

import json

from sqlalchemy import Connection, insert

from camcloud.fleet import devices
from camcloud.store.database import Database
from camcloud.store.fleet_tables import models
from camcloud.store.metadata import metadata

HARDWARE = "cpu-x86_64"


def open_store() -> Database:
    """A store in memory. Its tables are made directly: migrations make the same, by their test."""
    database = Database(None)
    database.run(metadata.create_all)
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
    kind: str = "detector",
) -> None:
    """A model's row, without its bytes."""
    connection.execute(
        insert(models).values(
            digest=digest,
            name=name,
            version=version,
            hardware=list(hardware),
            size_bytes=1,
            manifest_json=json.dumps({"kind": kind}),
            pushed_timestamp_s=pushed_s,
            is_approved=True,
        )
    )
