"""One database behind one connection and one thread.

SQLite before 3.51 has a write-ahead-log reset bug when two connections write, and a single writer
is what SQLite wants anyway. So each database file has exactly one connection, used from exactly one
thread; callers hand it a function that runs within one transaction.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

T = TypeVar("T")


class Database:
    """Runs functions over a connection, each in its own transaction.

    Args:
        path: SQLite file, made if missing; ``None`` keeps the database in memory (tests).
    """

    def __init__(self, path: Path | None) -> None:
        url = URL.create("sqlite", database=None if path is None else str(path))
        self.engine: Engine = create_engine(
            url, poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        event.listen(self.engine, "connect", _set_pragmas)
        event.listen(self.engine, "begin", _begin_immediate)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")

    def run(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work(connection)`` in one transaction and waits for its result.

        Commits when ``work`` returns, rolls back when it raises; the exception is passed on.
        Not to be called from an event loop's thread: use :meth:`arun` there.
        """
        return self._thread.submit(self._in_transaction, work).result()

    async def arun(self, work: Callable[[Connection], T]) -> T:
        """As :meth:`run`, without blocking the event loop.

        A caller that is cancelled meanwhile does not undo the work: it runs to its end.
        """
        return await asyncio.wrap_future(self._thread.submit(self._in_transaction, work))

    def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        with self.engine.begin() as connection:
            return work(connection)

    def close(self) -> None:
        """Waits for what is under way and closes the file."""
        self._thread.shutdown(wait=True)
        self.engine.dispose()


def _set_pragmas(connection: object, _record: object) -> None:
    # SQLAlchemy drives transactions itself (see _begin_immediate), so the driver must not.
    connection.isolation_level = None  # type: ignore[attr-defined] # DBAPI connection is untyped
    cursor = connection.cursor()  # type: ignore[attr-defined] # DBAPI connection is untyped
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
