"""``DataPlane``: bus, store, index and blobs put together, the part that takes in data.

The gateway publishes into ``bus``; the worker stores; the API reads ``database``, ``feed`` and
``search``. The database must be at the newest revision and stays open until after :meth:`stop`.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from camcloud.analysis.feed import EventFeed
from camcloud.analysis.search import AppearanceSearch
from camcloud.analysis.worker import AnalysisWorker
from camcloud.blobs import Blobs
from camcloud.bus import Bus, LaneCounts
from camcloud.store import ingest
from camcloud.store.database import Database
from camcloud.vectors import Vectors

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataCounts:
    """Figures of the data plane, over restarts.

    Attributes:
        event_count: Events stored.
        embedding_count: Appearance codes stored.
        bus_depth: Batches taken but not yet analysed.
        rejected_batch_count: Batches set aside.
        duplicate_batch_count: Batches that came again.
        lost_batch_count: Batches that devices had to drop.
        lost_event_count: Events that never came.
    """

    event_count: int
    embedding_count: int
    bus_depth: int
    rejected_batch_count: int
    duplicate_batch_count: int
    lost_batch_count: int
    lost_event_count: int


class DataPlane:
    """See the module.

    Args:
        database: Rows; not closed here.
        bus: Opened and closed here.
        vectors: Index of appearance codes; brought up to date at the start, saved at the end.
        blobs: Stills.
    """

    def __init__(self, database: Database, bus: Bus, vectors: Vectors, blobs: Blobs) -> None:
        self.database = database
        self.bus = bus
        self.vectors = vectors
        self.blobs = blobs
        self.feed = EventFeed(database)
        self.search = AppearanceSearch(database, vectors)
        self.worker = AnalysisWorker(bus, database, vectors, blobs, self.feed)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the bus, brings the index up to date and starts the analysis.

        Raises:
            DataCorrupted: The bus' file is damaged.
            Unavailable: A file cannot be opened.
        """
        await self.bus.start()
        await self.bus.restore(await self.database.arun(ingest.batch_sequences))
        added = await self.worker.catch_up()
        if added:
            _LOG.info("%d codes added to the vector index", added)
        self._task = asyncio.create_task(self.worker.run(), name="analysis")

    async def stop(self) -> None:
        """Ends the analysis, saves the index and closes the bus; what waits there stays durable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await asyncio.to_thread(self.vectors.save)
        await self.bus.stop()

    async def failure(self) -> None:
        """Returns never, unless the analysis or the bus stops working: then its error is raised."""
        assert self._task is not None, "the data plane is started"
        bus = asyncio.create_task(self.bus.failure())
        try:
            done, _ = await asyncio.wait({self._task, bus}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            bus.cancel()

    async def drained(self, poll_s: float = 0.01) -> None:
        """Waits until everything that the bus has taken is analysed."""
        while self.bus.depth:
            await asyncio.sleep(poll_s)

    async def counts(self) -> DataCounts:
        """Figures of now."""
        lanes = tuple(self.bus.lanes().values())  # here: the bus belongs to the event loop
        depth = self.bus.depth
        return await self.database.arun(lambda connection: _counts(connection, lanes, depth))


def _counts(connection: Connection, lanes: Sequence[LaneCounts], bus_depth: int) -> DataCounts:
    stats = ingest.read_stats(connection)
    return DataCounts(
        event_count=stats.event_count,
        embedding_count=stats.embedding_count,
        bus_depth=bus_depth,
        rejected_batch_count=ingest.quarantined_count(connection),
        duplicate_batch_count=ingest.duplicate_count(connection)
        + sum(lane.duplicates for lane in lanes),
        lost_batch_count=sum(lane.lost for lane in lanes),
        lost_event_count=ingest.lost_event_count(connection),
    )
