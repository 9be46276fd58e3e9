"""Appearance codes, each of one track at one time. The vector index is made from these rows.

Every function works within the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, func, insert, select

from camcloud.store import tracks as track_store
from camcloud.store.data_tables import embeddings, tracks

I8 = NDArray[np.int8]
I64 = NDArray[np.int64]

MAX_NORM_ERROR: Final = 0.05
"""Codes are unit vectors times 127. Rounding 128 numbers moves the norm by less than 4.5%; a code
that is off by more is no such code, and would win or lose every search by its length alone."""

_UNIT: Final = 127.0
_IN_CHUNK: Final = 500  # bound variables of one statement; SQLite's oldest limit is 999


@dataclass(frozen=True)
class NewCode:
    """A code to be stored.

    Attributes:
        track_key: Row of its track.
        frame_index: Frame that it was made from.
        timestamp_s: Capture time of the frame, seconds since the Unix epoch.
        reason: ``BIRTH``, ``REFRESH`` or ``DEATH``.
        code: int8 (128,) as bytes.
    """

    track_key: int
    frame_index: int
    timestamp_s: float
    reason: int
    code: bytes


@dataclass(frozen=True)
class CodeRecord:
    """A stored code with its track.

    Attributes:
        embedding_id: Row of the code, and its id in the vector index.
        timestamp_s: Capture time of its frame, seconds since the Unix epoch.
        code: int8 (128,).
        track: The track that it shows.
    """

    embedding_id: int
    timestamp_s: float
    code: I8
    track: track_store.StoredTrack


def is_unit(codes: I8) -> NDArray[np.bool_]:
    """Which rows of int8 (n, d) are unit vectors times 127, nearly; bool (n,)."""
    norms = np.linalg.norm(codes.astype(np.float64), axis=1)
    is_near: NDArray[np.bool_] = np.abs(norms / _UNIT - 1) <= MAX_NORM_ERROR
    return is_near


def append(connection: Connection, fleet: str, codes: Sequence[NewCode]) -> I64:
    """Stores codes.

    Returns:
        Their ids, int64 (n,), ascending.
    """
    if not codes:
        return np.zeros(0, np.int64)
    rows = [
        {
            "track_key": one.track_key,
            "fleet": fleet,
            "frame_index": one.frame_index,
            "timestamp_s": one.timestamp_s,
            "reason": one.reason,
            "code": one.code,
        }
        for one in codes
    ]
    statement = insert(embeddings).returning(embeddings.c.id, sort_by_parameter_order=True)
    return np.array(list(connection.execute(statement, rows).scalars()), np.int64)


def after(connection: Connection, embedding_id: int, limit: int) -> tuple[I64, I8]:
    """Up to ``limit`` ids, int64 (n,), after one, ascending, and their codes, int8 (n, 128)."""
    statement = (
        select(embeddings.c.id, embeddings.c.code)
        .where(embeddings.c.id > embedding_id)
        .order_by(embeddings.c.id)
        .limit(limit)
    )
    return _columns(connection, statement)


def count_until(connection: Connection, embedding_id: int) -> int:
    """How many codes have an id of at most ``embedding_id``."""
    statement = select(func.count()).where(embeddings.c.id <= embedding_id)
    return connection.execute(statement).scalar_one()


def of_track(
    connection: Connection, scene: track_store.Scene, track_id: int, limit: int
) -> tuple[I64, I8]:
    """Newest ``limit`` ids and codes of one track; see :func:`after`."""
    keys = track_store.keys_of(connection, scene, [track_id])
    statement = (
        select(embeddings.c.id, embeddings.c.code)
        .where(embeddings.c.track_key.in_(list(keys.values())))
        .order_by(embeddings.c.id.desc())
        .limit(limit)
    )
    return _columns(connection, statement)


def ids_within(connection: Connection, fleet: str, since_s: float, until_s: float) -> I64 | None:
    """Ids, int64 (n,), of a fleet and between two capture times, both inclusive.

    Returns:
        ``None`` when nothing is restricted: no fleet ("") and open times (0).
    """
    if not (fleet or since_s or until_s):
        return None
    statement = select(embeddings.c.id)
    if fleet:
        statement = statement.where(embeddings.c.fleet == fleet)
    if since_s:
        statement = statement.where(embeddings.c.timestamp_s >= since_s)
    if until_s:
        statement = statement.where(embeddings.c.timestamp_s <= until_s)
    return np.array(connection.execute(statement).scalars().all(), np.int64)


def records(connection: Connection, ids: Sequence[int]) -> dict[int, CodeRecord]:
    """The codes with these ids, by id, of those that are stored."""
    found: dict[int, CodeRecord] = {}
    for start in range(0, len(ids), _IN_CHUNK):
        statement = (
            select(
                embeddings.c.id.label("embedding_id"),
                embeddings.c.timestamp_s,
                embeddings.c.code,
                tracks,
            )
            .join(tracks, tracks.c.id == embeddings.c.track_key)
            .where(embeddings.c.id.in_(ids[start : start + _IN_CHUNK]))
        )
        for row in connection.execute(statement).mappings():
            found[row["embedding_id"]] = CodeRecord(
                embedding_id=row["embedding_id"],
                timestamp_s=row["timestamp_s"],
                code=np.frombuffer(row["code"], np.int8),
                track=track_store.stored(row),
            )
    return found


def _columns(connection: Connection, statement: Select[Any]) -> tuple[I64, I8]:
    rows = connection.execute(statement).all()
    ids = np.array([row[0] for row in rows], np.int64)
    codes = np.frombuffer(b"".join(row[1] for row in rows), np.int8)
    return ids, codes.reshape(len(rows), -1) if rows else codes.reshape(0, 128)
