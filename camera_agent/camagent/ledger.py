"""``Ledger``: the outbox's file: one SQLite connection, its counters and its transactions.

Invariants:

- One connection: SQLite before 3.51 can lose a write-ahead log reset by two. The owner serialises.
- WAL with synchronous=FULL: what :meth:`Ledger.changing` has committed survives a power cut.
- The counters in memory change only together with those on disk.
"""

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from camsdk.errors import DataCorrupted, ResourceExhausted

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    sequence INTEGER PRIMARY KEY,
    frame_count INTEGER NOT NULL,
    event_count INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS batches_without_events ON batches (sequence) WHERE event_count = 0;
CREATE TABLE IF NOT EXISTS sessions (
    camera_id TEXT NOT NULL,
    session INTEGER NOT NULL,
    source_key TEXT NOT NULL,
    start_s REAL NOT NULL,
    watermark INTEGER NOT NULL,
    is_finished INTEGER NOT NULL,
    PRIMARY KEY (camera_id, session)
) WITHOUT ROWID;
"""
_COUNTERS: Final = (
    "epoch",
    "next_sequence",
    "next_event_sequence",
    "dropped_batches",
    "dropped_frames",
    "dropped_events",
)


def new_epoch() -> int:
    """A random life number, 1 to 2^63 - 1: SQLite and protobuf both hold it."""
    return secrets.randbelow((1 << 63) - 1) + 1


class Ledger:
    """Tables ``counters``, ``batches`` and ``sessions``.

    Args:
        path: SQLite file, made if missing, with its ``-wal`` beside it.

    Attributes:
        counters: The durable ones, and ``depth`` and ``bytes`` of the batches held.

    Raises:
        DataCorrupted: the file is not an outbox.
        ResourceExhausted: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        # Crops are pictures of people: for nobody else, whatever folder this is. The files beside
        # it take their mode from this one.
        try:
            path.touch(0o600)
            path.chmod(0o600)
        except OSError as error:
            raise ResourceExhausted(
                f"the outbox {path} cannot be made: {error.strerror}", "check the data folder"
            ) from error
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self.counters: dict[str, int] = self._open()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise DataCorrupted(
                f"the outbox {path} cannot be read: {error}",
                "move the file away; what waited in it is lost",
            ) from error

    def _open(self) -> dict[str, int]:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        with self._transaction():
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            fresh = dict.fromkeys(_COUNTERS, 0) | {"next_sequence": 1, "next_event_sequence": 1}
            fresh["epoch"] = new_epoch()
            self._db.executemany("INSERT OR IGNORE INTO counters VALUES (?, ?)", fresh.items())
        counters = dict(self._db.execute("SELECT name, value FROM counters"))
        depth, size = self.one("SELECT count(*), coalesce(sum(length(payload)), 0) FROM batches")
        return counters | {"depth": depth, "bytes": size}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite itself rolls back on some errors, e.g. disk full
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def changing(self) -> Iterator[dict[str, int]]:
        """A transaction over a copy of the counters, taken over only when it commits.

        Raises:
            ResourceExhausted: the disk is full or fails; nothing has changed.
        """
        counters = dict(self.counters)
        try:
            with self._transaction():
                yield counters
                self._db.executemany(
                    "UPDATE counters SET value = ? WHERE name = ? AND value != ?1",
                    [(counters[name], name) for name in _COUNTERS],
                )
        except sqlite3.Error as error:
            raise ResourceExhausted(
                f"the outbox cannot write: {error}", "free or repair the device's disk"
            ) from error
        self.counters = counters

    def one(self, sql: str, *values: object) -> Any:
        """The first row, or None."""
        rows = self.all(sql, *values)
        return rows[0] if rows else None

    def all(self, sql: str, *values: object) -> list[Any]:
        """All rows.

        Raises:
            ResourceExhausted: the disk fails.
        """
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            raise ResourceExhausted(
                f"the outbox cannot be read: {error}", "repair the device's disk"
            ) from error

    def write(self, sql: str, *values: object) -> None:
        """One statement within :meth:`changing`."""
        self._db.execute(sql, values)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()
