"""The outbox's laws: no gap, no loss, no repetition, over kills and full disks."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from camagent.outbox import NewBatch, Outbox
from camsdk.errors import DataCorrupted, ResourceExhausted


def batch(
    index: int = 0, *, events: int = 0, size: int = 100, session: int = 1, frames: int = 1
) -> NewBatch:
    def encode(epoch: int, first_event_sequence: int) -> bytes:
        assert epoch > 0
        return f"{index}/{first_event_sequence}/".encode().ljust(size, b".")

    return NewBatch("cam", session, index, frames, events, encode)


def test_numbers_have_no_gap_over_a_reopening(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    epoch = outbox.epoch
    assert [outbox.commit(batch(i, events=2)) for i in range(3)] == [1, 2, 3]
    outbox.close()
    again = Outbox(tmp_path / "outbox.db")
    assert again.epoch == epoch
    assert again.commit(batch(3, events=1)) == 4
    waiting = again.pending(0, 10)
    assert [b.sequence for b in waiting] == [1, 2, 3, 4]
    assert [b.payload.split(b"/")[1] for b in waiting] == [b"1", b"3", b"5", b"7"]
    again.close()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").touch(0o644)  # from a version that knew no pictures
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.commit(batch())
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("outbox.db", "outbox.db-wal", "outbox.db-shm"), 0o600)
    outbox.close()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted, match="check the data folder"):
        Outbox(tmp_path / "none" / "outbox.db")


def test_acks_are_cumulative_and_survive_lazily(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    for index in range(5):
        outbox.commit(batch(index))
    outbox.acked(3)
    outbox.acked(2)
    assert [b.sequence for b in outbox.pending(0, 10)] == [4, 5]
    assert outbox.oldest_sequence == 4
    assert outbox.stats().depth == 2
    outbox.close()
    again = Outbox(tmp_path / "outbox.db")
    assert again.oldest_sequence == 4
    again.acked(5)
    assert again.oldest_sequence == 6
    assert again.commit(batch(5)) == 6
    again.close()


def test_many_acks_free_the_file(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    for index in range(200):
        outbox.commit(batch(index, size=1000))
        outbox.acked(index + 1)
    assert outbox.stats().waiting_bytes <= 1000
    outbox.close()


def test_a_full_box_drops_boxes_first_and_counts(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", max_bytes=400)
    for index, events in enumerate([0, 1, 0, 1]):
        outbox.commit(batch(index, events=events, frames=3))
    outbox.commit(batch(4, events=1, frames=3))
    outbox.commit(batch(5, events=0, frames=3))
    assert [b.sequence for b in outbox.pending(0, 10)] == [2, 4, 5, 6]
    stats = outbox.stats()
    assert (stats.dropped_batches, stats.dropped_frames, stats.dropped_events) == (2, 6, 0)
    outbox.commit(batch(6, events=1, frames=3))  # the last without events goes
    outbox.commit(batch(7, events=1, frames=3))  # then the oldest with them
    assert [b.sequence for b in outbox.pending(0, 10)] == [4, 5, 7, 8]
    assert outbox.stats().dropped_events == 1
    outbox.close()


def test_acknowledged_batches_are_not_counted_as_dropped(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", max_bytes=300)
    for index in range(3):
        outbox.commit(batch(index))
    outbox.acked(3)
    outbox.commit(batch(3))
    assert outbox.stats().dropped_batches == 0
    outbox.close()


def test_a_recording_keeps_its_session_and_watermark(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    first = outbox.next_session("cam", "clip", True, 1000.0)
    assert (first.session, first.start_s, first.watermark) == (1, 1000.0, -1)
    outbox.commit(batch(31, session=1))
    outbox.close()
    again = Outbox(tmp_path / "outbox.db")
    same = again.next_session("cam", "clip", True, 2000.0)
    assert (same.session, same.start_s, same.watermark) == (1, 1000.0, 31)
    again.finish_session("cam", 1)
    assert again.next_session("cam", "clip", True, 3000.0).is_finished
    repeated = again.next_session("cam", "clip", True, 3000.0, is_repeated=True)
    assert (repeated.session, repeated.start_s, repeated.watermark) == (2, 3000.0, -1)
    assert again.next_session("cam", "other", True, 4000.0).session == 3
    assert again.next_session("other", "clip", True, 4000.0).session == 1
    again.close()


def test_a_live_source_gets_a_new_session_each_time(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    numbers = [outbox.next_session("cam", "rtsp", False, 0.0).session for _ in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    outbox.close()


def test_a_failing_disk_uses_no_number(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(path)
    outbox.commit(batch(0, events=1))
    limit = outbox._ledger.one("PRAGMA page_count")[0] + 4
    outbox._ledger.one(f"PRAGMA max_page_count = {limit}")  # the disk ends here
    with pytest.raises(ResourceExhausted, match="disk"):
        outbox.commit(batch(1, events=1, size=1 << 20))
    outbox._ledger.one("PRAGMA max_page_count = 1000000")
    assert outbox.commit(batch(1, events=1)) == 2
    assert [b.payload.split(b"/")[1] for b in outbox.pending(0, 9)] == [b"1", b"2"]
    outbox.close()


def test_an_encoder_that_fails_uses_no_number(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")

    def encode(_epoch: int, _first: int) -> bytes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        outbox.commit(NewBatch("cam", 1, 0, 1, 1, encode))
    assert outbox.commit(batch(0)) == 1
    outbox.close()


def test_an_old_copy_begins_a_new_epoch(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    old = outbox.epoch
    outbox.commit(batch(0, events=2))
    with pytest.raises(DataCorrupted, match="old copy"):
        outbox.acked(7)
    outbox.restart_epoch()
    assert outbox.epoch != old
    assert outbox.stats().dropped_events == 2
    assert outbox.commit(batch(1)) == 1
    assert [b.sequence for b in outbox.pending(0, 9)] == [1]
    outbox.close()


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(DataCorrupted, match="move the file away"):
        Outbox(path)


def test_synchronous_is_full(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox._ledger.one("PRAGMA synchronous")[0] == 2
    assert outbox._ledger.one("PRAGMA journal_mode")[0] == "wal"
    outbox.close()


class OutboxMachine(RuleBasedStateMachine):
    """Any mix of commits, acks and kills: what was promised is held until acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "outbox.db"
        self._outbox = Outbox(self._path)
        self._promised: list[tuple[int, int]] = []  # (sequence, first event) of each commit
        self._events = 0
        self._acked = 0

    @rule(events=st.integers(0, 3))
    def commit(self, events: int) -> None:
        sequence = self._outbox.commit(batch(len(self._promised), events=events))
        self._promised.append((sequence, self._events + 1))
        self._events += events

    @precondition(lambda self: self._promised)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(0, len(self._promised)))
        self._outbox.acked(sequence)
        self._acked = max(self._acked, sequence)

    @rule()
    def kill(self) -> None:
        self._outbox._ledger.close()  # without the tidy end of Outbox.close
        self._outbox = Outbox(self._path)

    @invariant()
    def holds_what_it_promised(self) -> None:
        waiting = self._outbox.pending(self._acked, 1000)
        expected = self._promised[self._acked :]
        found = [(b.sequence, int(b.payload.split(b"/")[1])) for b in waiting]
        assert found == expected
        assert [sequence for sequence, _ in self._promised] == list(
            range(1, len(self._promised) + 1)
        )

    def teardown(self) -> None:
        self._outbox.close()
        self._folder.cleanup()


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def test_schema_is_readable_by_plain_sqlite(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.commit(batch(0, events=1, frames=8))
    outbox.close()
    db = sqlite3.connect(tmp_path / "outbox.db")
    assert db.execute("SELECT sequence, frame_count, event_count FROM batches").fetchall() == [
        (1, 8, 1)
    ]
    db.close()
