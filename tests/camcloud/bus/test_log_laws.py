"""Laws of the bus over random lives: what is acknowledged is delivered once, in order, for ever."""

import asyncio
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from camcloud.bus import LogBus, MemoryJournal, Publisher
from camcloud.bus.journals import Group
from camsdk.errors import Conflict, Unavailable

LANES = [("cam-1", 1), ("cam-1", 2), ("cam-2", 1)]

actions = st.lists(
    st.tuples(
        st.sampled_from(
            ["send", "repeat", "gap", "skip", "consume", "fail", "restart", "takeover"]
        ),
        st.sampled_from(range(len(LANES))),
        st.integers(1, 5),
    ),
    max_size=60,
)


class MoodyJournal(MemoryJournal):
    """Fails when told to."""

    failures = 0

    def write(self, group: Group) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("the disk sulks")
        super().write(group)


class World:
    """Devices, a consumer that may lose its last acknowledgement, and what each has been told."""

    def __init__(self) -> None:
        self.journal = MoodyJournal()
        self.acked: dict[tuple[str, int], int] = defaultdict(int)
        self.skipped: dict[tuple[str, int], set[int]] = defaultdict(set)
        self.stored: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.publishers: dict[tuple[str, int], Publisher] = {}
        self.position = 0

    async def start(self) -> None:
        self.bus = LogBus(self.journal)
        await self.bus.start()
        self.publishers = {}
        self.position = 0

    def publisher(self, lane: tuple[str, int]) -> Publisher:
        if lane not in self.publishers:
            self.publishers[lane] = self.bus.open_lane(lane[0], "park-a", lane[1])
            assert self.publishers[lane].acked >= self.acked[lane]
        return self.publishers[lane]

    async def settle(self, lane: tuple[str, int]) -> None:
        publisher = self.publisher(lane)
        try:
            while publisher.acked < publisher.taken:
                await publisher.progress(publisher.acked, 5)
        except Unavailable:
            del self.publishers[lane]
        self.acked[lane] = max(self.acked[lane], publisher.acked)

    async def act(self, action: str, lane: tuple[str, int], number: int) -> None:
        publisher = self.publisher(lane)
        if action == "send":
            for _ in range(number):
                publisher.publish(publisher.taken + 1, b"x")
        elif action == "repeat":
            for sequence in range(max(1, publisher.taken - number), publisher.taken + 1):
                assert not publisher.publish(sequence, b"again")
        elif action == "gap":
            try:
                publisher.publish(publisher.taken + 1 + number, b"x")
                raise AssertionError("a gap was taken")
            except Conflict:
                return
        elif action == "skip":
            self.skipped[lane] |= set(range(publisher.taken + 1, publisher.taken + 1 + number))
            publisher.skip_to(publisher.taken + 1 + number)
        elif action == "consume":
            await self.consume(number)
            return
        elif action == "fail":
            self.journal.failures = 1
            publisher.publish(publisher.taken + 1, b"x")
            self.skipped[lane].discard(publisher.taken)
        elif action == "restart":
            await self.bus.stop()
            await self.start()
            return
        else:
            del self.publishers[lane]
        await self.settle(lane)

    async def consume(self, limit: int) -> None:
        if not self.bus.depth:
            return
        for delivery in await self.bus.consume(self.position, limit):
            lane = (delivery.device_id, delivery.epoch)
            # The store's rule: a number that is not beyond its cursor is a repetition.
            if not self.stored[lane] or delivery.sequence > self.stored[lane][-1]:
                self.stored[lane].append(delivery.sequence)
            self.position = delivery.position
        self.bus.ack(self.position)


@settings(max_examples=120, deadline=None)
@given(actions)
def test_what_is_acknowledged_is_delivered_once_and_in_order(
    plan: list[tuple[str, int, int]],
) -> None:
    async def live() -> None:
        world = World()
        await world.start()
        for action, lane, number in plan:
            await world.act(action, LANES[lane], number)
        world.journal.failures = 0
        for lane in LANES:
            await world.settle(lane)
        while world.bus.depth:
            await world.consume(100)
        for lane in LANES:
            promised = set(range(1, world.acked[lane] + 1))
            stored = world.stored[lane]
            assert stored == sorted(set(stored))
            assert promised - world.skipped[lane] <= set(stored)
            assert set(stored) <= promised
        await world.bus.stop()

    asyncio.run(live())
