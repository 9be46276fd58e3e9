"""Shipping: once each, in order, over every break."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from camagent.link import CloudLink
from camagent.outbox import NewBatch, Outbox
from camagent.upload import Uploader
from support.fake_cloud import Cursor, FakeCloud
from support.waiting import wait_until


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "outbox.db")
    yield outbox
    outbox.close()


@pytest.fixture
def run(outbox: Outbox, link: CloudLink) -> Iterator[Callable[[], Uploader]]:
    running: list[tuple[Uploader, threading.Thread]] = []

    def start() -> Uploader:
        uploader = Uploader(outbox, link)
        thread = threading.Thread(target=uploader.run)
        thread.start()
        running.append((uploader, thread))
        return uploader

    yield start
    for uploader, thread in running:
        uploader.stop()
        thread.join(5)
        assert not thread.is_alive()


def commit(outbox: Outbox, text: str, *, events: int = 0, size: int = 0) -> int:
    payload = text.encode().ljust(size, b".")
    return outbox.commit(NewBatch("cam", 1, 0, 1, events, lambda _epoch, _first: payload))


def cursor(cloud: FakeCloud, outbox: Outbox) -> Cursor:
    return cloud.cursors.get(("gate-1", outbox.epoch), Cursor())


def test_ships_what_waited_and_what_comes(
    cloud: FakeCloud, outbox: Outbox, run: Callable[[], Uploader]
) -> None:
    for index in range(20):  # more than the credits of one grant
        commit(outbox, f"old {index}")
    uploader = run()
    wait_until(lambda: cursor(cloud, outbox).acked == 20)
    commit(outbox, "new")
    wait_until(lambda: outbox.stats().depth == 0)
    payloads = cursor(cloud, outbox).payloads
    assert [payloads[n] for n in range(1, 22)] == [f"old {i}".encode() for i in range(20)] + [
        b"new"
    ]
    stats = uploader.stats()
    assert stats.is_connected
    assert (stats.sent_batches, stats.acked_sequence, stats.reconnects) == (21, 21, 0)


def test_a_batch_is_shipped_at_once(
    cloud: FakeCloud, outbox: Outbox, run: Callable[[], Uploader]
) -> None:
    uploader = run()
    wait_until(lambda: uploader.stats().is_connected)
    delays = []
    for index in range(20):
        commit(outbox, str(index))
        committed_s = time.monotonic()
        wait_until(lambda n=index: len(cloud.arrivals) > n)  # type: ignore[misc] # bound default
        delays.append(cloud.arrivals[-1][0] - committed_s)
    assert sorted(delays)[len(delays) // 2] < 0.05


def test_no_credit_no_batch(cloud: FakeCloud, outbox: Outbox, run: Callable[[], Uploader]) -> None:
    cloud.faults.credits = 3
    cloud.faults.is_not_acking = True
    for index in range(10):
        commit(outbox, str(index))
    run()
    wait_until(lambda: len(cloud.arrivals) == 3)
    time.sleep(0.1)
    assert len(cloud.arrivals) == 3
    assert outbox.stats().depth == 10


def test_resumes_behind_the_last_ack(
    cloud: FakeCloud, outbox: Outbox, run: Callable[[], Uploader]
) -> None:
    uploader = run()
    commit(outbox, "a")
    wait_until(lambda: outbox.stats().depth == 0)
    cloud.stop_gateway()
    for text in "bcd":
        commit(outbox, text)
    wait_until(lambda: not uploader.stats().is_connected)
    cloud.start_gateway()
    started_s = time.monotonic()
    wait_until(lambda: outbox.stats().depth == 0, 6)
    assert time.monotonic() - started_s < 4
    assert list(cursor(cloud, outbox).payloads.values()) == [b"a", b"b", b"c", b"d"]
    assert uploader.stats().reconnects >= 1


def test_what_was_taken_but_not_acked_is_sent_again(
    cloud: FakeCloud, outbox: Outbox, run: Callable[[], Uploader]
) -> None:
    cloud.faults.is_not_acking = True
    run()
    commit(outbox, "a")
    commit(outbox, "b")
    wait_until(lambda: len(cloud.arrivals) == 2)
    cloud.stop_gateway()
    cloud.faults.is_not_acking = False
    cloud.start_gateway()
    wait_until(lambda: outbox.stats().depth == 0, 6)
    assert cursor(cloud, outbox).payloads == {1: b"a", 2: b"b"}


def test_a_gap_is_announced_by_a_hello(cloud: FakeCloud, tmp_path: Path, link: CloudLink) -> None:
    outbox = Outbox(tmp_path / "small.db", max_bytes=400)
    for index in range(9):  # of 100 bytes; every third has an event
        commit(outbox, str(index), events=int(index % 3 == 0), size=100)
    held = [batch.sequence for batch in outbox.pending(0, 99)]
    assert held == [1, 4, 7, 9]
    uploader = Uploader(outbox, link)
    thread = threading.Thread(target=uploader.run)
    thread.start()
    wait_until(lambda: outbox.stats().depth == 0, 8)
    uploader.stop()
    thread.join(5)
    taken = cursor(cloud, outbox)
    assert sorted(taken.payloads) == held
    assert taken.lost == 5 == outbox.stats().dropped_batches
    assert taken.duplicates == 0
    outbox.close()


def test_moves_to_a_renewed_channel_without_loss(
    cloud: FakeCloud, outbox: Outbox, link: CloudLink, run: Callable[[], Uploader]
) -> None:
    uploader = run()
    for round_ in range(5):
        for index in range(10):
            commit(outbox, f"{round_}/{index}")
        link.renew()
        uploader.wake()
    wait_until(lambda: outbox.stats().depth == 0)
    taken = cursor(cloud, outbox)
    assert sorted(taken.payloads) == list(range(1, 51))
    assert taken.duplicates == 0
    wait_until(lambda: uploader.stats().reconnects >= 1)


def test_a_cloud_that_ends_streams_at_once_is_not_stormed(
    cloud: FakeCloud, outbox: Outbox, run: Callable[[], Uploader]
) -> None:
    cloud.faults.is_silent = True
    run()
    time.sleep(0.5)
    assert 2 <= cloud.stream_count <= 6
    cloud.faults.is_silent = False
    commit(outbox, "late")
    wait_until(lambda: outbox.stats().depth == 0)


def test_an_old_copy_of_the_outbox_begins_a_new_epoch(
    cloud: FakeCloud, outbox: Outbox, run: Callable[[], Uploader]
) -> None:
    old_epoch = outbox.epoch
    commit(outbox, "known elsewhere")
    cloud.cursors["gate-1", old_epoch] = Cursor(acked=10)
    run()
    wait_until(lambda: outbox.epoch != old_epoch)
    commit(outbox, "new life")
    wait_until(lambda: cursor(cloud, outbox).payloads == {1: b"new life"})
