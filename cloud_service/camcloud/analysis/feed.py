"""``EventFeed``: new events to everybody who follows them, and the way from stored to live.

A subscriber has a bounded queue. Drop rule: when it overflows, the subscriber is told so and its
stream ends; it resumes behind the last event that it got. Nothing is left out silently, and one
slow reader costs the others nothing.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from camcloud.store import events
from camcloud.store.database import Database
from camcloud.store.events import EventQuery, StoredEvent
from camsdk.errors import InvalidInput, ResourceExhausted


@dataclass(frozen=True)
class FeedLimits:
    """What following may cost.

    Attributes:
        queue: Events that wait for one subscriber; one group of the analysis may exceed it.
        subscribers: Streams at once.
    """

    queue: int = 1000
    subscribers: int = 256


class _Subscription:
    """The queue of one subscriber."""

    def __init__(self, capacity: int) -> None:
        self._queue: deque[StoredEvent] = deque()
        self._capacity = capacity
        self._arrived = asyncio.Event()
        self.has_overflowed = False

    def offer(self, new: Sequence[StoredEvent]) -> None:
        # An empty queue takes a group of any size: its reader has kept up.
        if self._queue and len(self._queue) + len(new) > self._capacity:
            self.has_overflowed = True
            self._queue.clear()
        if not self.has_overflowed:
            self._queue.extend(new)
        self._arrived.set()

    def restart(self) -> None:
        """Forgets what waits: it is read from the store instead."""
        self._queue.clear()
        self.has_overflowed = False

    async def take(self) -> list[StoredEvent]:
        """All that waits, once there is something, or nothing after an overflow."""
        while not (self._queue or self.has_overflowed):
            self._arrived.clear()
            await self._arrived.wait()
        taken = list(self._queue)
        self._queue.clear()
        return taken


class EventFeed:
    """See the module. Lives on one event loop.

    Args:
        database: Where stored events are read from.
        limits: What following may cost.
    """

    def __init__(self, database: Database, limits: FeedLimits | None = None) -> None:
        self._database = database
        self._limits = limits or FeedLimits()
        self._subscriptions: set[_Subscription] = set()

    @property
    def subscriber_count(self) -> int:
        """How many follow now."""
        return len(self._subscriptions)

    def publish(self, new: Sequence[StoredEvent]) -> None:
        """Hands on events that have just been committed, by cursor."""
        if new:
            for subscription in self._subscriptions:
                subscription.offer(new)

    async def follow(
        self, query: EventQuery, after_cursor: int = 0, *, from_now: bool = False
    ) -> AsyncGenerator[StoredEvent]:
        """Stored events after a cursor, then new ones as they come: no gap, none twice, no end.

        Args:
            query: Which events.
            after_cursor: The last event that the caller has.
            from_now: Start with what is not yet stored.

        Raises:
            ResourceExhausted: The caller is too slow, or too many follow already.
            InvalidInput: The cursor lies beyond the log: it is of another store, or of one that was
                restored. To wait for it would leave events out silently.
        """
        with self._subscribed() as subscription:
            last = await self._database.arun(events.last_cursor)
            if not from_now and after_cursor > last:
                raise InvalidInput(
                    f"the log of events ends at cursor {last}, before {after_cursor}",
                    "the store was restored or begun anew: follow again from its start",
                )
            cursor = last if from_now else after_cursor
            is_live = from_now
            while not is_live:
                # What is queued before the page is read, the page holds; so the queue starts anew.
                subscription.restart()
                page = await self._page(query, cursor)
                for stored in page:
                    yield stored
                    cursor = stored.cursor
                is_live = len(page) < events.MAX_PAGE and not subscription.has_overflowed
            while not subscription.has_overflowed:
                for stored in await subscription.take():
                    if stored.cursor > cursor and query.matches(stored):
                        yield stored
                        cursor = stored.cursor
        raise ResourceExhausted(
            "events come faster than this subscriber reads them",
            f"nothing is lost: follow again after cursor {cursor}",
        )

    async def _page(self, query: EventQuery, cursor: int) -> list[StoredEvent]:
        return await self._database.arun(
            lambda connection: events.page(connection, query, cursor=cursor)
        )

    @contextmanager
    def _subscribed(self) -> Iterator[_Subscription]:
        if len(self._subscriptions) >= self._limits.subscribers:
            raise ResourceExhausted(
                f"{self._limits.subscribers} subscribers follow already", "end some, or page"
            )
        subscription = _Subscription(self._limits.queue)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
