"""``AnalysisWorker``: takes batches from the bus, stores them, and tells the feed and the index.

Order within a group: stills to the blobs, rows in one transaction, events to subscribers, codes to
the vector index, acknowledgement to the bus. A crash between any two of these costs a repetition
that the store recognises, or an index that is behind and catches up; never an event.

What cannot be written now (disk, blobs) is tried again while the bus fills and devices keep their
batches. What must not be written is set aside, and never blocks what comes after it.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy.exc import OperationalError

from camcloud.analysis.feed import EventFeed
from camcloud.analysis.screen import Screened, screen
from camcloud.analysis.writer import Refused, Written, crop_key, write
from camcloud.blobs import Blobs
from camcloud.bus import Bus, Delivery
from camcloud.store import embeddings
from camcloud.store.database import Database
from camcloud.vectors import Vectors
from camsdk.errors import DataCorrupted, Unavailable

_LOG = logging.getLogger(__name__)

_GROUP: Final = 64
"""Batches of one transaction: joins syncs under load, yet bounds how long others wait for it."""

_GROUP_BYTES: Final = 32 << 20
"""Unpacked columns of one transaction: what is hostile unpacks to megabytes a batch."""

_CATCH_UP: Final = 20_000
"""Codes that are read from the store at once."""

_SAVE_AFTER: Final = 50_000
"""Codes after which the index is saved: a restart adds at most these again, in a second."""

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


@dataclass
class WorkerCounts:
    """What has happened since the start.

    Attributes:
        batches: Stored or set aside.
        duplicates: Delivered again.
        refused: Set aside.
        retries: Groups that could not be written at first.
    """

    batches: int = 0
    duplicates: int = 0
    refused: int = 0
    retries: int = 0


class AnalysisWorker:
    """See the module. The only consumer of its bus and the only writer of its tables.

    Args:
        bus: Where batches come from.
        database: Where rows go.
        vectors: Index of the codes.
        blobs: Where stills go.
        feed: Who is told of new events.
    """

    def __init__(
        self, bus: Bus, database: Database, vectors: Vectors, blobs: Blobs, feed: EventFeed
    ) -> None:
        self._bus = bus
        self._database = database
        self._vectors = vectors
        self._blobs = blobs
        self._feed = feed
        self._unsaved = 0
        self.counts = WorkerCounts()

    async def catch_up(self) -> int:
        """Brings the index to where the store is; returns how many codes it added."""
        known = await self._database.arun(
            lambda connection: embeddings.count_until(connection, self._vectors.last_id)
        )
        if known != len(self._vectors):
            _LOG.warning("the vector index does not fit the store and is rebuilt")
            self._vectors.reset()
        added = 0
        while True:
            ids, codes = await self._database.arun(
                lambda connection: embeddings.after(connection, self._vectors.last_id, _CATCH_UP)
            )
            if not ids.size:
                return added
            await asyncio.to_thread(self._vectors.add, ids, codes)
            added += ids.size

    async def run(self) -> None:
        """Works until cancelled."""
        position = 0
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                deliveries = await self._bus.consume(position, _GROUP)
                group = await asyncio.to_thread(self._prepare, deliveries)
                written = await self._write(group)
            except (Unavailable, OperationalError) as error:
                self.counts.retries += 1
                _LOG.error("the analysis waits %.1f s: %s", pause_s, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            position = group[-1].delivery.position
            await self._hand_on(written)
            self._bus.ack(position)

    async def _write(self, group: Sequence[Screened | Refused]) -> Written:
        try:
            return await self._database.arun(lambda connection: write(connection, group))
        except (Unavailable, OperationalError):
            raise
        except Exception as error:
            # As in _screened: find the batch, set it aside, go on. One that fails even then is
            # passed on, and ends the worker.
            if len(group) == 1 and isinstance(group[0], Refused):
                raise
            _LOG.exception("writing failed")
            reason = f"writing failed: {type(error).__name__}"
        for item in group:
            alone = item if len(group) > 1 else Refused(item.delivery, reason)
            # At once: what is committed must be handed on even if the next one has to wait.
            await self._hand_on(await self._write([alone]))
        return Written()

    def _prepare(self, deliveries: Sequence[Delivery]) -> list[Screened | Refused]:
        """The first of the deliveries, screened: all of them, unless they unpack to too much."""
        group: list[Screened | Refused] = []
        size_bytes = 0
        for delivery in deliveries:
            item = _screened(delivery)
            if isinstance(item, Screened):
                size_bytes += item.size_bytes
                for crop in item.crops:
                    self._blobs.put(crop_key(delivery, item.batch.session, crop), crop.jpeg)
            group.append(item)
            if size_bytes > _GROUP_BYTES:
                break
        return group

    async def _hand_on(self, written: Written) -> None:
        self._feed.publish(written.events)
        self.counts.batches += written.batch_count
        self.counts.duplicates += written.duplicate_count
        self.counts.refused += len(written.refused)
        for refused in written.refused:
            where = refused.delivery
            _LOG.warning(
                "batch %s/%d/%d was set aside: %s",
                where.device_id,
                where.epoch,
                where.sequence,
                refused.reason,
            )
        if written.embedding_ids:
            ids = np.concatenate(written.embedding_ids)
            await asyncio.to_thread(self._vectors.add, ids, np.concatenate(written.codes))
            self._unsaved += ids.size
        if self._unsaved >= _SAVE_AFTER:
            self._unsaved = 0
            await asyncio.to_thread(self._vectors.save)


def _screened(delivery: Delivery) -> Screened | Refused:
    try:
        return screen(delivery)
    except DataCorrupted as error:
        return Refused(delivery, error.message)
    except Exception as error:  # noqa: BLE001 - the worker's outermost guard, see below
        # A batch that trips over a mistake of ours must not stop every batch behind it: it is kept
        # with the others that were set aside, and the log has the trace.
        _LOG.exception("screening failed")
        return Refused(delivery, f"screening failed: {type(error).__name__}")
