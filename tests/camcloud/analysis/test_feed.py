"""Following events: stored, then live, without gap or repetition; the slow are told."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
from sqlalchemy import Connection

from camcloud.analysis.feed import EventFeed, FeedLimits
from camcloud.store import data_tables, events
from camcloud.store.database import Database
from camcloud.store.events import EventQuery, StoredEvent
from camsdk.errors import InvalidInput, ResourceExhausted
from camsdk.vision.results import LINE_CROSSED, OUT_OF_BOUNDS, Event
from camsdk.wire import ShippedEvent

ALL = EventQuery()


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database(None)
    database.run(lambda connection: data_tables.metadata.create_all(connection))
    yield database
    database.close()


class Source:
    """Stores events and publishes them, as the worker does."""

    def __init__(self, database: Database, feed: EventFeed) -> None:
        self._database = database
        self._feed = feed
        self._numbers = count(1)

    async def emit(self, number: int, kind: str = LINE_CROSSED) -> list[StoredEvent]:
        shipped = [
            ShippedEvent(7, sequence, "gate", 1, Event(kind, 0, 1000.0 + sequence))
            for _, sequence in zip(range(number), self._numbers, strict=False)
        ]

        def store(connection: Connection) -> list[StoredEvent]:
            return events.append(
                connection, "cam-1", "park-a", shipped, received_timestamp_s=0, model_digest=""
            )

        new = await self._database.arun(store)
        self._feed.publish(new)
        return new


def sequences(found: list[StoredEvent]) -> list[int]:
    return [one.shipped.sequence for one in found]


async def take(following: AsyncIterator[StoredEvent], number: int) -> list[StoredEvent]:
    async with asyncio.timeout(10):
        return [await anext(following) for _ in range(number)]


async def take_into(got: list[StoredEvent], following: AsyncIterator[StoredEvent]) -> None:
    async with asyncio.timeout(10):
        async for stored in following:
            got.append(stored)


async def test_a_cursor_of_another_store_is_refused_instead_of_waited_for(
    database: Database,
) -> None:
    feed = EventFeed(database)
    (stored,) = await Source(database, feed).emit(1)
    with pytest.raises(InvalidInput, match="ends at cursor 1, before 2"):
        await take(feed.follow(ALL, stored.cursor + 1), 1)
    assert feed.subscriber_count == 0
    waiting = asyncio.create_task(take(feed.follow(ALL, stored.cursor), 1))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    waiting.cancel()


async def test_what_is_stored_comes_first_then_what_is_new(database: Database) -> None:
    feed = EventFeed(database)
    source = Source(database, feed)
    await source.emit(3)
    following = feed.follow(ALL)
    assert sequences(await take(following, 3)) == [1, 2, 3]
    waiting = asyncio.create_task(take(following, 2))
    await asyncio.sleep(0.02)
    await source.emit(2)
    assert sequences(await waiting) == [4, 5]


async def test_following_resumes_behind_a_cursor(database: Database) -> None:
    feed = EventFeed(database)
    stored = await Source(database, feed).emit(5)
    found = await take(feed.follow(ALL, stored[2].cursor), 2)
    assert sequences(found) == [4, 5]


async def test_from_now_leaves_out_what_is_stored(database: Database) -> None:
    feed = EventFeed(database)
    source = Source(database, feed)
    await source.emit(3)
    waiting = asyncio.create_task(take(feed.follow(ALL, from_now=True), 1))
    await asyncio.sleep(0.05)
    await source.emit(1)
    assert sequences(await waiting) == [4]


async def test_live_events_are_filtered_as_stored_ones(database: Database) -> None:
    feed = EventFeed(database)
    source = Source(database, feed)
    await source.emit(1, OUT_OF_BOUNDS)
    await source.emit(1)
    following = feed.follow(EventQuery(kinds=frozenset({OUT_OF_BOUNDS})))
    assert sequences(await take(following, 1)) == [1]
    waiting = asyncio.create_task(take(following, 1))
    await asyncio.sleep(0.02)
    await source.emit(2)
    await source.emit(1, OUT_OF_BOUNDS)
    assert sequences(await waiting) == [5]


async def test_no_gap_and_no_repetition_while_events_pour_in(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_PAGE", 20)  # many pages between stored and live
    feed = EventFeed(database, FeedLimits(queue=50))
    source = Source(database, feed)
    await source.emit(300)

    async def pour() -> None:
        for _ in range(60):
            await source.emit(5)
            await asyncio.sleep(0)

    pouring = asyncio.create_task(pour())
    followers = [asyncio.create_task(take(feed.follow(ALL), 600)) for _ in range(3)]
    for follower in followers:
        assert sequences(await follower) == list(range(1, 601))
    await pouring


async def test_a_slow_follower_is_told_and_resumes_without_loss(database: Database) -> None:
    feed = EventFeed(database, FeedLimits(queue=10))
    source = Source(database, feed)
    await source.emit(1)
    following = feed.follow(ALL)
    got = await take(following, 1)
    waiting = asyncio.create_task(take(following, 1))
    await asyncio.sleep(0.02)
    for _ in range(6):
        await source.emit(4)
    got += await waiting
    with pytest.raises(ResourceExhausted) as caught:
        await take_into(got, following)
    assert caught.value.hint == f"nothing is lost: follow again after cursor {got[-1].cursor}"
    rest = await take(feed.follow(ALL, got[-1].cursor), 25 - len(got))
    assert sequences(got + rest) == list(range(1, 26))


async def test_one_group_of_any_size_reaches_a_follower_that_waits(database: Database) -> None:
    feed = EventFeed(database, FeedLimits(queue=10))
    source = Source(database, feed)
    waiting = asyncio.create_task(take(feed.follow(ALL, from_now=True), 50))
    await asyncio.sleep(0.05)
    await source.emit(50)
    assert sequences(await waiting) == list(range(1, 51))


async def test_followers_are_limited_and_leave_room_when_they_go(database: Database) -> None:
    feed = EventFeed(database, FeedLimits(subscribers=1))
    await Source(database, feed).emit(1)
    first = feed.follow(ALL)
    await take(first, 1)
    with pytest.raises(ResourceExhausted, match="1 subscribers"):
        await take(feed.follow(ALL), 1)
    await first.aclose()
    assert len(await take(feed.follow(ALL), 1)) == 1
