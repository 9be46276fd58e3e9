"""How far each device's log is stored, what it brought, and what was set aside.

Every function works within the caller's transaction: the cursor moves with the rows of its batch.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, Final

from sqlalchemy import Connection, Float, Select, cast, delete, func, select
from sqlalchemy.dialects.sqlite import Insert, insert

from camcloud.store.data_tables import ingest_cursors, ingest_stats, quarantine

MAX_QUARANTINED: Final = 1000
MAX_QUARANTINED_BYTES: Final = 64 << 20
"""Set-aside batches that are kept, for diagnosis; the oldest go first, their count stays."""

_REASON_LENGTH: Final = 500


@dataclass(frozen=True)
class Cursor:
    """How far one (device, epoch) is stored.

    Attributes:
        batch_sequence: Last batch that is stored or set aside.
        event_sequence: Last event that is stored.
        lost_batch_count: Batches that never came.
        lost_event_count: Events that never came.
        duplicate_batch_count: Batches that the bus delivered again.
    """

    batch_sequence: int = 0
    event_sequence: int = 0
    lost_batch_count: int = 0
    lost_event_count: int = 0
    duplicate_batch_count: int = 0


@dataclass(frozen=True)
class Stats:
    """What one or more cameras brought.

    Attributes:
        batch_count, frame_count, event_count, embedding_count: As stored.
        refused_row_count: Codes and crops that were refused within a batch that was stored.
        track_bytes, embedding_bytes, event_bytes, crop_bytes: Of payloads, as shipped.
        envelope_bytes: The rest of the payloads.
    """

    batch_count: int = 0
    frame_count: int = 0
    event_count: int = 0
    embedding_count: int = 0
    refused_row_count: int = 0
    track_bytes: int = 0
    embedding_bytes: int = 0
    event_bytes: int = 0
    crop_bytes: int = 0
    envelope_bytes: int = 0

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Quarantined:
    """A batch that was set aside.

    Attributes:
        device_id, fleet, epoch, sequence: Which batch.
        reason: Why, one sentence.
        payload: As the device sent it.
        received_timestamp_s: When the gateway took it, seconds since the Unix epoch.
    """

    device_id: str
    fleet: str
    epoch: int
    sequence: int
    reason: str
    payload: bytes
    received_timestamp_s: float


def _add_stats_statement() -> Insert:
    statement = insert(ingest_stats)
    sums = {f.name: ingest_stats.c[f.name] + statement.excluded[f.name] for f in fields(Stats)}
    return statement.on_conflict_do_update(index_elements=["device_id", "camera_id"], set_=sums)


_ADD_STATS: Final = _add_stats_statement()


def read_cursor(connection: Connection, device_id: str, epoch: int) -> Cursor:
    """How far a (device, epoch) is stored; zeros if it is new."""
    statement = select(ingest_cursors).where(
        ingest_cursors.c.device_id == device_id, ingest_cursors.c.epoch == epoch
    )
    row = connection.execute(statement).mappings().first()
    return Cursor(**{f.name: row[f.name] for f in fields(Cursor)}) if row else Cursor()


def write_cursor(connection: Connection, device_id: str, epoch: int, cursor: Cursor) -> None:
    """Moves the cursor of a (device, epoch)."""
    values = {f.name: getattr(cursor, f.name) for f in fields(Cursor)}
    statement = insert(ingest_cursors).values(device_id=device_id, epoch=epoch, **values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["device_id", "epoch"], set_=values)
    )


def batch_sequences(connection: Connection) -> Mapping[tuple[str, int], int]:
    """Last stored batch of every (device, epoch)."""
    columns = ingest_cursors.c
    rows = connection.execute(select(columns.device_id, columns.epoch, columns.batch_sequence))
    return {(device_id, epoch): sequence for device_id, epoch, sequence in rows}


def duplicate_count(connection: Connection, device_id: str = "") -> int:
    """Batches that the bus delivered again, of one device or of all ("")."""
    return _sum_of(connection, ingest_cursors.c.duplicate_batch_count, device_id)


def lost_event_count(connection: Connection, device_id: str = "") -> int:
    """Events that never came, of one device or of all ("")."""
    return _sum_of(connection, ingest_cursors.c.lost_event_count, device_id)


def add_stats(connection: Connection, stats: Mapping[tuple[str, str], Stats]) -> None:
    """Adds to what each (device, camera) brought."""
    if stats:
        rows = [
            {"device_id": device_id, "camera_id": camera_id, **vars(brought)}
            for (device_id, camera_id), brought in stats.items()
        ]
        connection.execute(_ADD_STATS, rows)


def read_stats(connection: Connection, device_id: str = "", camera_id: str = "") -> Stats:
    """What a device, a camera or all ("") brought, added up."""
    columns = [func.coalesce(func.sum(ingest_stats.c[f.name]), 0) for f in fields(Stats)]
    statement: Select[Any] = select(*columns)
    if device_id:
        statement = statement.where(ingest_stats.c.device_id == device_id)
    if camera_id:
        statement = statement.where(ingest_stats.c.camera_id == camera_id)
    return Stats(*connection.execute(statement).one())


def set_aside(connection: Connection, batch: Quarantined) -> None:
    """Keeps a batch that cannot be stored; the oldest make room."""
    values = {f.name: getattr(batch, f.name) for f in fields(Quarantined)}
    values["reason"] = batch.reason[:_REASON_LENGTH]
    connection.execute(insert(quarantine).values(**values).on_conflict_do_nothing())
    size = func.sum(func.length(quarantine.c.payload)).over(order_by=quarantine.c.id.desc())
    rank = func.row_number().over(order_by=quarantine.c.id.desc())
    row = select(quarantine.c.id, size.label("size"), rank.label("rank")).subquery()
    is_beyond = (row.c.size > MAX_QUARANTINED_BYTES) | (row.c.rank > MAX_QUARANTINED)
    newest = select(func.max(row.c.id)).where(is_beyond).scalar_subquery()
    connection.execute(delete(quarantine).where(quarantine.c.id <= newest))


def quarantined(connection: Connection, limit: int = MAX_QUARANTINED) -> list[Quarantined]:
    """Set-aside batches, newest first."""
    statement = select(quarantine).order_by(quarantine.c.id.desc()).limit(limit)
    rows = connection.execute(statement).mappings()
    return [Quarantined(**{f.name: row[f.name] for f in fields(Quarantined)}) for row in rows]


def quarantined_count(connection: Connection) -> int:
    """How many batches were ever set aside, kept or not."""
    newest = select(func.coalesce(func.max(quarantine.c.id), 0))
    return int(connection.execute(newest).scalar_one())


def _sum_of(connection: Connection, column: Any, device_id: str) -> int:
    # As floats: numbers that two devices make up may add to more than 63 bits, an error in SQLite.
    statement = select(func.coalesce(func.sum(cast(column, Float)), 0))
    if device_id:
        statement = statement.where(ingest_cursors.c.device_id == device_id)
    return int(connection.execute(statement).scalar_one())
