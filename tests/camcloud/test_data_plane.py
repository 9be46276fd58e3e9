"""The data plane as a whole: who touches what, and its figures."""

import threading
from collections.abc import Mapping

from camcloud.bus import LaneCounts, LogBus, MemoryJournal
from support.data_plane import Camera, data_plane, publish


class OneThreadBus(LogBus):
    """Its lanes change on the event loop, so they may be looked at nowhere else."""

    def lanes(self) -> Mapping[tuple[str, int], LaneCounts]:
        assert threading.current_thread() is threading.main_thread()
        return super().lanes()


async def test_counts_look_at_the_bus_on_the_event_loop_only() -> None:
    camera = Camera()
    async with data_plane(bus=OneThreadBus(MemoryJournal())) as plane:
        await publish(plane.bus, camera, camera.pack(camera.frames(2, event_count=1)))
        await plane.drained()
        counts = await plane.counts()
    assert (counts.event_count, counts.bus_depth, counts.lost_batch_count) == (1, 0, 0)
