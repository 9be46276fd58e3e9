"""Journals: where :class:`~camcloud.bus.log.LogBus` keeps its log and its lanes.

A journal is used from one thread at a time. One ``write`` is one transaction.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from camcloud.bus.port import Delivery, LaneCounts
from camsdk.errors import DataCorrupted, Unavailable

Lane = tuple[str, int]
"""(device, epoch)."""

READ_BYTES: Final = 16 << 20
"""A read stops when it has this much payload, so that huge batches cannot fill the memory."""


@dataclass(frozen=True)
class JournalState:
    """What a journal holds when it is opened.

    Attributes:
        last_position: Of the newest delivery ever written, 0 if none.
        backlog: (position, payload bytes) of what is not dropped, in order.
        lanes: Counts of every lane ever seen.
    """

    last_position: int
    backlog: Sequence[tuple[int, int]]
    lanes: Mapping[Lane, LaneCounts]


@dataclass(frozen=True)
class Group:
    """What one transaction writes.

    Attributes:
        entries: New deliveries, in order of position.
        lanes: New counts of the lanes that changed.
        drop_until: Deliveries up to this position are no longer needed.
    """

    entries: Sequence[Delivery] = ()
    lanes: Mapping[Lane, LaneCounts] = field(default_factory=dict)
    drop_until: int = 0


class Journal(Protocol):
    """A log and a table of lanes."""

    def load(self) -> JournalState:
        """Opens the journal.

        Raises:
            DataCorrupted: It cannot be read as a journal.
            Unavailable: It cannot be opened now.
        """
        ...

    def write(self, group: Group) -> None:
        """Writes a group whole or not at all; durable when it returns.

        Raises:
            Unavailable: It cannot be written now; nothing of the group is in it.
        """
        ...

    def read(self, after: int, limit: int) -> list[Delivery]:
        """Up to ``limit`` deliveries after a position, about ``READ_BYTES`` at most, in order."""
        ...

    def close(self) -> None:
        """Releases what it holds."""
        ...


class MemoryJournal:
    """Keeps all in memory; survives a restart of the bus, not of the process (tests)."""

    def __init__(self) -> None:
        self._entries: dict[int, Delivery] = {}
        self._lanes: dict[Lane, LaneCounts] = {}
        self._last_position = 0

    def load(self) -> JournalState:
        """See :meth:`Journal.load`."""
        backlog = [(position, len(e.payload)) for position, e in self._entries.items()]
        return JournalState(self._last_position, backlog, dict(self._lanes))

    def write(self, group: Group) -> None:
        """See :meth:`Journal.write`."""
        for entry in group.entries:
            self._entries[entry.position] = entry
            self._last_position = entry.position
        self._lanes.update(group.lanes)
        for position in [p for p in self._entries if p <= group.drop_until]:
            del self._entries[position]

    def read(self, after: int, limit: int) -> list[Delivery]:
        """See :meth:`Journal.read`."""
        return [e for position, e in self._entries.items() if position > after][:limit]

    def close(self) -> None:
        """Nothing to release."""


_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE log (
    position INTEGER PRIMARY KEY AUTOINCREMENT, -- never given out again, even when emptied
    device_id TEXT NOT NULL,
    fleet TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    received_timestamp_s REAL NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE lanes (
    device_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    PRIMARY KEY (device_id, epoch)
) STRICT, WITHOUT ROWID;
"""
_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",  # NORMAL loses acknowledged batches in a power cut
    "busy_timeout=5000",
    "wal_autocheckpoint=4000",  # 16 MB: fewer, larger checkpoints under load
)


class SqliteJournal:
    """A SQLite file of its own, with one connection.

    Args:
        path: Made if missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def load(self) -> JournalState:
        """See :meth:`Journal.load`."""
        try:
            connection = self._connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False
            )
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            self._make_schema(connection)
            return _load_state(connection)
        except sqlite3.OperationalError as error:
            self.close()
            raise Unavailable(f"the bus cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            self.close()
            raise DataCorrupted(
                f"{self._path.name} is damaged: {error}",
                "move it away: what it held and was not yet stored is lost, and counted as such",
            ) from error

    def write(self, group: Group) -> None:
        """See :meth:`Journal.write`."""
        connection = self._open()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                _write_group(connection, group)
                connection.execute("COMMIT")
            except sqlite3.Error:
                # A failed COMMIT has in some cases already rolled back.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise Unavailable(f"the bus cannot be written: {error}") from error

    def read(self, after: int, limit: int) -> list[Delivery]:
        """See :meth:`Journal.read`."""
        found: list[Delivery] = []
        size_bytes = 0
        try:
            rows = self._open().execute(
                "SELECT position, device_id, fleet, epoch, sequence, received_timestamp_s, payload"
                " FROM log WHERE position > ? ORDER BY position LIMIT ?",
                (after, limit),
            )
            for row in rows:
                found.append(Delivery(*row))
                size_bytes += len(found[-1].payload)
                if size_bytes > READ_BYTES:
                    break
            rows.close()
        except sqlite3.Error as error:
            raise Unavailable(f"the bus cannot be read: {error}") from error
        return found

    def close(self) -> None:
        """Closes the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable("the bus is closed")
        return self._connection

    def _make_schema(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(
                f"BEGIN;{_SCHEMA}PRAGMA user_version={_SCHEMA_VERSION};COMMIT;"
            )
        elif version != _SCHEMA_VERSION:
            raise DataCorrupted(
                f"{self._path.name} has layout {version}, not {_SCHEMA_VERSION}",
                "run the release that wrote it until the bus is empty",
            )


def _load_state(connection: sqlite3.Connection) -> JournalState:
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'log'").fetchone()
    backlog = connection.execute("SELECT position, length(payload) FROM log ORDER BY position")
    lanes = connection.execute("SELECT device_id, epoch, sequence, lost, duplicates FROM lanes")
    return JournalState(
        last_position=last[0] if last else 0,
        backlog=[(position, size) for position, size in backlog],
        lanes={(device_id, epoch): LaneCounts(*counts) for device_id, epoch, *counts in lanes},
    )


def _write_group(connection: sqlite3.Connection, group: Group) -> None:
    if group.drop_until:
        connection.execute("DELETE FROM log WHERE position <= ?", (group.drop_until,))
    connection.executemany(
        "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (
                *(e.position, e.device_id, e.fleet, e.epoch, e.sequence),
                *(e.received_timestamp_s, e.payload),
            )
            for e in group.entries
        ),
    )
    connection.executemany(
        "INSERT INTO lanes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " sequence = excluded.sequence, lost = excluded.lost, duplicates = excluded.duplicates",
        (
            (device_id, epoch, counts.sequence, counts.lost, counts.duplicates)
            for (device_id, epoch), counts in group.lanes.items()
        ),
    )
