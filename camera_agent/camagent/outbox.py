"""``Outbox``: what waits for the cloud, durable on the device.

Invariants:

- Batches are numbered 1, 2, 3, ... and events 1, 2, 3, ..., both without a gap within one *epoch*,
  a random number made with the file. A number is given and its batch stored in one transaction.
- ``watermark`` of a session, the last frame committed, moves in that same transaction. So a
  recording that is read again after a kill ships each frame once: what is at or below it is known.
- A batch leaves when the cloud has acknowledged it, or by the drop rule: when the box is full, the
  oldest batches without events go first, then the oldest with events; all are counted for ever.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from camagent.ledger import Ledger, new_epoch
from camsdk.errors import DataCorrupted, ResourceExhausted

# Acknowledged batches are deleted with the next commit, or at the latest after so many: an ack that
# is forgotten by a kill only means that the cloud sees, and ignores, a batch again.
_MAX_LAZY_ACKS: Final = 64


@dataclass(frozen=True)
class Session:
    """One opening of a camera's source.

    Attributes:
        session: Number, grows with each opening of this camera.
        start_s: Capture time of frame 0 of a recording, seconds since the Unix epoch.
        watermark: Last frame index that is committed, -1 before the first.
        is_finished: A recording that was read to its end.
    """

    session: int
    start_s: float
    watermark: int = -1
    is_finished: bool = False


@dataclass(frozen=True)
class NewBatch:
    """A batch to commit.

    Attributes:
        camera_id, session: Where it comes from.
        last_frame_index: Becomes the session's watermark.
        frame_count, event_count: What it holds.
        encode: Makes the payload from (epoch, sequence of the first event).
    """

    camera_id: str
    session: int
    last_frame_index: int
    frame_count: int
    event_count: int
    encode: Callable[[int, int], bytes]


@dataclass(frozen=True)
class PendingBatch:
    """A batch that waits."""

    sequence: int
    payload: bytes


@dataclass(frozen=True)
class OutboxStats:
    """Figures since the file was made; ``depth`` and ``waiting_bytes`` are of now."""

    depth: int
    waiting_bytes: int
    batch_count: int
    event_count: int
    dropped_batches: int
    dropped_frames: int
    dropped_events: int


class Outbox:
    """Durable queue of batches from all cameras to the cloud. Safe to use from several threads.

    Args:
        path: SQLite file, made if missing.
        max_bytes: Bound on waiting payloads; see the drop rule above.

    Raises:
        DataCorrupted: the file is not an outbox.
    """

    def __init__(self, path: Path, max_bytes: int = 256 << 20) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._listener: Callable[[], None] = lambda: None
        self._ledger = Ledger(path)
        self._acked = self._deleted = 0
        self._acked = self._deleted = self._oldest_held() - 1

    @contextmanager
    def _changing(self) -> Iterator[dict[str, int]]:
        """One durable change; what has been acknowledged meanwhile is deleted on the way."""
        acked = self._acked
        with self._ledger.changing() as counters:
            if acked > self._deleted:
                self._delete(self._deleted + 1, acked, counters)
            yield counters
        self._deleted = acked

    def _oldest_held(self) -> int:
        row = self._ledger.one("SELECT min(sequence) FROM batches WHERE sequence > ?", self._acked)
        return int(row[0] or self._ledger.counters["next_sequence"])

    def _delete(self, first: int, last: int, counters: dict[str, int]) -> tuple[int, int]:
        """Deletes batches ``first`` to ``last``; returns the frames and events they held."""
        count, size, frames, events = self._ledger.one(
            "SELECT count(*), coalesce(sum(length(payload)), 0), coalesce(sum(frame_count), 0),"
            " coalesce(sum(event_count), 0) FROM batches WHERE sequence BETWEEN ? AND ?",
            first,
            last,
        )
        self._ledger.write("DELETE FROM batches WHERE sequence BETWEEN ? AND ?", first, last)
        counters["depth"] -= count
        counters["bytes"] -= size
        return frames, events

    def _drop(self, first: int, last: int, counters: dict[str, int]) -> None:
        """As ``_delete``, for what was never acknowledged: counted."""
        depth = counters["depth"]
        frames, events = self._delete(first, last, counters)
        counters["dropped_batches"] += depth - counters["depth"]
        counters["dropped_frames"] += frames
        counters["dropped_events"] += events

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Has ``listener`` called after each commit, from the committing thread."""
        self._listener = listener

    @property
    def epoch(self) -> int:
        """Life of this file, 1 to 2^63 - 1."""
        return self._ledger.counters["epoch"]

    @property
    def last_sequence(self) -> int:
        """Of the newest batch, 0 before the first. Takes no lock: a number that only grows."""
        return self._ledger.counters["next_sequence"] - 1

    @property
    def oldest_sequence(self) -> int:
        """Of the oldest batch held and not acknowledged, or of the next to be made."""
        with self._lock:
            return self._oldest_held()

    def commit(self, batch: NewBatch) -> int:
        """Numbers and stores a batch; returns its sequence once it is durable.

        Raises:
            ResourceExhausted: the disk is full or fails. Nothing was stored, no number was used.
        """
        with self._lock, self._changing() as counters:
            sequence = counters["next_sequence"]
            payload = batch.encode(counters["epoch"], counters["next_event_sequence"])
            self._make_room(len(payload), counters)
            self._ledger.write(
                "INSERT INTO batches VALUES (?, ?, ?, ?)",
                sequence,
                batch.frame_count,
                batch.event_count,
                payload,
            )
            self._ledger.write(
                "UPDATE sessions SET watermark = ? WHERE camera_id = ? AND session = ?",
                batch.last_frame_index,
                batch.camera_id,
                batch.session,
            )
            counters["next_sequence"] += 1
            counters["next_event_sequence"] += batch.event_count
            counters["depth"] += 1
            counters["bytes"] += len(payload)
        self._listener()
        return sequence

    def _make_room(self, size_bytes: int, counters: dict[str, int]) -> None:
        """The drop rule: oldest without events first, then the oldest of all."""
        while counters["depth"] and counters["bytes"] + size_bytes > self._max_bytes:
            (victim,) = self._ledger.one(
                "SELECT coalesce((SELECT min(sequence) FROM batches WHERE event_count = 0),"
                " (SELECT min(sequence) FROM batches))"
            )
            self._drop(victim, victim, counters)

    def pending(self, after: int, limit: int) -> list[PendingBatch]:
        """Batches that wait with a sequence above ``after``, at most ``limit``, in order."""
        with self._lock:
            rows = self._ledger.all(
                "SELECT sequence, payload FROM batches WHERE sequence > ?"
                " ORDER BY sequence LIMIT ?",
                max(after, self._acked),
                limit,
            )
            return [PendingBatch(sequence, payload) for sequence, payload in rows]

    def acked(self, sequence: int) -> None:
        """Takes a cumulative acknowledgement: every batch up to ``sequence`` is safe elsewhere.

        Raises:
            DataCorrupted: the cloud acknowledges what this outbox never made.
            ResourceExhausted: the disk fails.
        """
        with self._lock:
            if sequence >= self._ledger.counters["next_sequence"]:
                raise DataCorrupted(
                    f"the cloud has batch {sequence}, this outbox made fewer",
                    "the outbox file is an old copy: move it away, a new one will be made",
                )
            self._acked = max(self._acked, sequence)
            if self._acked - self._deleted >= _MAX_LAZY_ACKS:
                with self._changing():
                    pass

    def restart_epoch(self) -> None:
        """Begins a new epoch with batch 1 and event 1; what waits is dropped and counted.

        For the case that :meth:`acked` reports: the file is an old copy, so its next numbers have
        been used before and the cloud would take new batches for repetitions.
        """
        with self._lock:
            with self._changing() as counters:
                self._drop(0, counters["next_sequence"], counters)
                counters |= {"epoch": new_epoch(), "next_sequence": 1, "next_event_sequence": 1}
            self._acked = self._deleted = 0

    def next_session(
        self,
        camera_id: str,
        source_key: str,
        is_recording: bool,
        start_s: float,
        is_repeated: bool = False,
    ) -> Session:
        """Numbers an opening of a camera's source.

        A recording that has been opened before under the same ``source_key`` is given its session
        back with its start and watermark, finished or not, unless it is finished and to be
        repeated.

        Args:
            camera_id: The camera.
            source_key: What makes two openings the same recording.
            is_recording: False always makes a new session.
            start_s: Capture time of frame 0 for a new session.
            is_repeated: Whether a finished recording begins a new session.

        Raises:
            ResourceExhausted: the disk fails.
        """
        with self._lock:
            row = self._ledger.one(
                "SELECT session, start_s, watermark, is_finished, source_key FROM sessions"
                " WHERE camera_id = ? ORDER BY session DESC LIMIT 1",
                camera_id,
            )
            if row and is_recording and row[4] == source_key and not (row[3] and is_repeated):
                return Session(row[0], row[1], row[2], bool(row[3]))
            session = Session(row[0] + 1 if row else 1, start_s)
            with self._changing():
                self._ledger.write(
                    "DELETE FROM sessions WHERE camera_id = ? AND session < ?",
                    camera_id,
                    session.session - 1,
                )
                self._ledger.write(
                    "INSERT INTO sessions VALUES (?, ?, ?, ?, -1, 0)",
                    camera_id,
                    session.session,
                    source_key,
                    start_s,
                )
            return session

    def is_finished(self, camera_id: str, source_key: str) -> bool:
        """Whether the camera's latest session read this recording to its end."""
        with self._lock:
            row = self._ledger.one(
                "SELECT source_key, is_finished FROM sessions"
                " WHERE camera_id = ? ORDER BY session DESC LIMIT 1",
                camera_id,
            )
            return row is not None and row[0] == source_key and bool(row[1])

    def finish_session(self, camera_id: str, session: int) -> None:
        """Notes that a recording was read to its end and all of it is committed."""
        with self._lock, self._changing():
            self._ledger.write(
                "UPDATE sessions SET is_finished = 1 WHERE camera_id = ? AND session = ?",
                camera_id,
                session,
            )

    def stats(self) -> OutboxStats:
        """Figures of now."""
        with self._lock:
            counters = self._ledger.counters
            (lazy,) = self._ledger.one(
                "SELECT count(*) FROM batches WHERE sequence <= ?", self._acked
            )
            return OutboxStats(
                depth=counters["depth"] - lazy,
                waiting_bytes=counters["bytes"],
                batch_count=counters["next_sequence"] - 1,
                event_count=counters["next_event_sequence"] - 1,
                dropped_batches=counters["dropped_batches"],
                dropped_frames=counters["dropped_frames"],
                dropped_events=counters["dropped_events"],
            )

    def close(self) -> None:
        """Closes the file; what waits is sent after the next start."""
        with self._lock:
            if self._acked > self._deleted:
                with suppress(ResourceExhausted), self._changing():
                    pass  # tidiness only: an ack that is forgotten costs a repetition
            self._ledger.close()
