"""Killed at random, agent and cloud still deliver every event exactly once and in order."""

import random
import time
from pathlib import Path

import av
import pytest

from camsdk.cli.demo.journey import read_rules
from camsdk.client import EventRecord
from support.stack import FLEET, Stack, eventually, kill

KILLS = 20
TIMES = 3
"""The clip so often in a row: an agent must still be reading when the last kill comes."""


def repeated(source: Path, target: Path, times: int) -> Path:
    """A recording that is another one several times in a row, copied without encoding it again."""
    with av.open(str(target), "w") as writer:
        copy, offset = None, 0
        for _ in range(times):
            end = offset
            with av.open(str(source)) as reader:
                video = reader.streams.video[0]
                copy = copy or writer.add_stream_from_template(video)
                for packet in reader.demux(video):
                    if packet.dts is None:
                        continue
                    end = offset + packet.dts + (packet.duration or 1)
                    packet.pts = packet.dts = offset + packet.dts
                    packet.stream = copy
                    writer.mux(packet)
            offset = end
    return target


def all_events(stack: Stack, device_id: str) -> list[EventRecord]:
    """Every stored event of a device, in the order in which the cloud stored them."""
    events: list[EventRecord] = []
    cursor = 0
    while True:
        page = stack.client.list_events(device=device_id, limit=1000, after_cursor=cursor)
        events.extend(page)
        cursor = page.next_cursor
        if not cursor:
            return events


def what_was_seen(events: list[EventRecord]) -> list[tuple]:
    """An event without its place in a device's log: what two devices must agree on, bit for bit."""
    return [
        (e.kind, e.frame_index, e.timestamp_s, e.rule, e.track_id, e.class_id, e.score, e.xyxy,
         tuple(sorted(e.attributes.items())))
        for e in events
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_random_kills_lose_and_repeat_nothing(tmp_path, vtest_path, int8_detector):
    clip = repeated(vtest_path, tmp_path / "clip.avi", TIMES)
    rng = random.Random(20)
    with Stack(tmp_path) as stack:
        stack.client.create_fleet(FLEET)
        stack.client.apply_rules(FLEET, read_rules(None))
        model = stack.push(*int8_detector)

        stack.enrol("calm")
        calm = stack.start_agent("calm", clip)
        stack.wait_connected("calm")
        assert stack.client.deploy(model.reference, fleet=FLEET).wait(timeout_s=90).state.has_ended
        calm.wait(120)

        stack.enrol("killed")
        stack.start_agent("killed", clip)
        eventually(
            lambda: stack.client.get_device("killed").reported.running_digest == model.digest,
            60,
            "the model on the device",
        )
        killed = {"agent": 0, "cloud": 0}
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.3, 3.0))
            assert not stack.agents["killed"].has_ended, "nothing is left for the kills to hit"
            victim = rng.choice(["agent", "cloud"])
            killed[victim] += 1
            if victim == "cloud":
                kill(stack.cloud)
                stack.start_cloud()
            else:
                kill(stack.agents["killed"])
                stack.start_agent("killed", clip)
        stack.agents["killed"].wait(180)
        eventually(lambda: stack.client.status().bus_depth == 0, 60, "analysis of all batches")

        expected, events = all_events(stack, "calm"), all_events(stack, "killed")
        assert min(killed.values()) >= 5, killed
        assert len(expected) >= 35 * TIMES  # as many as were counted by hand, each time
        assert what_was_seen(events) == what_was_seen(expected)
        assert [event.sequence for event in events] == list(range(1, len(expected) + 1))
        assert len({event.epoch for event in events}) == 1
        stats = {d: stack.client.ingest_stats(device=d) for d in ("calm", "killed")}
        assert stats["killed"].frame_count == stats["calm"].frame_count
        assert stats["killed"].embedding_count == stats["calm"].embedding_count
        print(f"kills {killed}, events {len(events)}, frames {stats['killed'].frame_count}, "
              f"duplicates recognised {stats['killed'].duplicate_batch_count}")  # fmt: skip
