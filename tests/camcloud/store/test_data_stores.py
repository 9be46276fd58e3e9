"""The data plane's stores, where the tests of analysis and API do not reach."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camcloud.store import data_tables, embeddings, events, ingest, tracks
from camcloud.store.database import Database
from camcloud.store.events import EventQuery
from camcloud.store.ingest import Cursor, Quarantined, Stats
from camcloud.store.tracks import Scene, Sighting, TrackQuery
from camsdk.errors import InvalidInput
from camsdk.vision.results import LINE_CROSSED, OUT_OF_BOUNDS, Event
from camsdk.wire import ShippedEvent, TrackColumns

SCENE = Scene("cam-1", 7, "gate", 1)


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database(None)
    database.run(lambda connection: data_tables.metadata.create_all(connection))
    yield database
    database.close()


def sighting(track_id: int, first_s: float, last_s: float, count: int = 1) -> Sighting:
    return Sighting(track_id, 0, first_s, last_s, count, (0.0, 0.0, last_s, last_s))


@st.composite
def track_columns(draw: st.DrawFn) -> TrackColumns:
    frames = draw(st.integers(1, 8))
    rows = draw(st.integers(0, 30))
    row_frame = np.sort(draw(hnp.arrays(np.int64, rows, elements=st.integers(0, frames - 1))))
    return TrackColumns(
        frame_index=np.arange(frames),
        timestamp_s=1000 + np.arange(frames) / 10,
        is_detected=np.ones(frames, np.bool_),
        row_frame=row_frame,
        track_id=draw(hnp.arrays(np.int64, rows, elements=st.integers(1, 5))),
        class_ids=draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 3))),
        xyxy=draw(hnp.arrays(np.float32, (rows, 4), elements=st.integers(0, 500))),
        scores=np.full(rows, 0.5, np.float32),
        ended_frame=np.zeros(0, np.int64),
        ended=np.zeros(0, np.int64),
    )


@given(track_columns())
def test_a_summary_is_what_walking_the_rows_gives(columns: TrackColumns) -> None:
    expected: dict[int, Sighting] = {}
    for row, track_id in enumerate(columns.track_id.tolist()):
        time_s = float(columns.timestamp_s[columns.row_frame[row]])
        before = expected.get(track_id)
        x1, y1, x2, y2 = columns.xyxy[row].tolist()
        expected[track_id] = Sighting(
            track_id,
            int(columns.class_ids[row]),
            before.first_timestamp_s if before else time_s,
            time_s,
            before.frame_count + 1 if before else 1,
            (x1, y1, x2, y2),
        )
    assert {one.track_id: one for one in tracks.summarise(columns)} == expected


def test_tracks_are_listed_by_when_they_were_seen(database: Database) -> None:
    seen = [sighting(1, 10, 20), sighting(2, 15, 40), sighting(3, 50, 60)]
    database.run(lambda c: tracks.grow(c, SCENE, "park-a", seen))

    def ids(query: TrackQuery, limit: int = 10) -> list[int]:
        found = database.run(lambda c: tracks.page(c, query, limit))
        return [one.sighting.track_id for one in found]

    assert ids(TrackQuery()) == [3, 2, 1]
    assert ids(TrackQuery(), limit=2) == [3, 2]
    assert ids(TrackQuery(since_s=20, until_s=45)) == [2, 1]
    assert ids(TrackQuery(since_s=21, until_s=45)) == [2]
    assert ids(TrackQuery(camera_id="yard")) == []


def test_growing_nothing_is_nothing(database: Database) -> None:
    database.run(lambda c: tracks.grow(c, SCENE, "park-a", []))
    assert database.run(lambda c: tracks.page(c, TrackQuery())) == []
    assert database.run(lambda c: tracks.keys_of(c, SCENE, [])) == {}


def test_a_query_selects_in_the_store_as_it_matches_in_memory(database: Database) -> None:
    for number in range(16):
        kind = OUT_OF_BOUNDS if number & 1 else LINE_CROSSED
        shipped = ShippedEvent(
            7, number + 1, "gate" if number & 2 else "yard", 1, Event(kind, 0, 1000.0 + number // 4)
        )
        owner = "park-a" if number & 4 else "park-b"
        database.run(
            lambda c, owner=owner, shipped=shipped: events.append(
                c, "cam-1", owner, [shipped], received_timestamp_s=0, model_digest=""
            )
        )
    everything = database.run(lambda c: events.page(c, EventQuery()))
    assert len(everything) == 16
    fields = (
        ["", "park-a", "park-c"],
        ["", "cam-1", "cam-2"],
        ["", "gate"],
        [frozenset(), frozenset({OUT_OF_BOUNDS}), frozenset({LINE_CROSSED, OUT_OF_BOUNDS})],
        [0.0, 1000.0, 1002.0],
        [0.0, 1001.0, 1003.0],
    )
    for values in itertools.product(*fields):
        query = EventQuery(*values)
        selected = database.run(lambda c, query=query: events.page(c, query))
        assert selected == [one for one in everything if query.matches(one)]


@pytest.mark.parametrize(
    "text", ["", "a", "a/b/c", "a/1/", "a/1/2/3", "a b/1/2", "a/-1/2", f"a/{2**63}/1", "/1/2"]
)
def test_what_is_no_event_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no event id"):
        events.parse_id(text)


def test_an_event_id_comes_apart() -> None:
    assert events.parse_id(f"cam-1/{2**63 - 1}/3") == ("cam-1", 2**63 - 1, 3)


def test_cursors_are_kept_by_lane(database: Database) -> None:
    moved = Cursor(batch_sequence=5, event_sequence=9, lost_event_count=2)
    assert database.run(lambda c: ingest.read_cursor(c, "cam-1", 7)) == Cursor()
    database.run(lambda c: ingest.write_cursor(c, "cam-1", 7, Cursor(1, 1)))
    database.run(lambda c: ingest.write_cursor(c, "cam-1", 7, moved))
    database.run(lambda c: ingest.write_cursor(c, "cam-1", 8, Cursor(1)))
    assert database.run(lambda c: ingest.read_cursor(c, "cam-1", 7)) == moved
    assert database.run(ingest.batch_sequences) == {("cam-1", 7): 5, ("cam-1", 8): 1}
    assert database.run(ingest.lost_event_count) == 2


def test_losses_that_devices_make_up_still_add_up(database: Database) -> None:
    for device_id in ("cam-1", "cam-2"):
        most = Cursor(lost_event_count=2**63 - 1)
        database.run(lambda c, name=device_id, most=most: ingest.write_cursor(c, name, 7, most))
    assert database.run(ingest.lost_event_count) == 2**64


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "what?mode=memory&x#1%20"
    database = Database(path)
    database.run(data_tables.metadata.create_all)
    database.close()
    assert path.stat().st_size > 0


def test_counts_add_up_by_camera(database: Database) -> None:
    one = Stats(batch_count=1, frame_count=32, track_bytes=100)
    for camera_id in ("gate", "yard", "gate"):
        database.run(lambda c, name=camera_id: ingest.add_stats(c, {("cam-1", name): one}))
    assert database.run(ingest.read_stats) == one + one + one
    assert database.run(lambda c: ingest.read_stats(c, "cam-1", "yard")) == one
    assert database.run(lambda c: ingest.read_stats(c, "cam-2")) == Stats()


def test_the_quarantine_keeps_the_newest_and_counts_all(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MAX_QUARANTINED", 3)
    for sequence in range(1, 6):
        batch = Quarantined("cam-1", "park-a", 7, sequence, "x" * 900, b"payload", 0.0)
        database.run(lambda c, batch=batch: ingest.set_aside(c, batch))
    kept = database.run(ingest.quarantined)
    assert [one.sequence for one in kept] == [5, 4, 3]
    assert {len(one.reason) for one in kept} == {500}
    assert database.run(ingest.quarantined_count) == 5


def test_the_quarantine_is_bounded_in_bytes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MAX_QUARANTINED_BYTES", 100)
    for sequence, size in enumerate((10, 10, 60, 30), start=1):
        batch = Quarantined("cam-1", "park-a", 7, sequence, "x", bytes(size), 0.0)
        database.run(lambda c, batch=batch: ingest.set_aside(c, batch))
    assert [one.sequence for one in database.run(ingest.quarantined)] == [4, 3, 2]


def test_a_code_is_good_if_it_is_a_unit_vector() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 128))
    sparse = values * (rng.random(values.shape) < 0.05)
    for rows in (values, sparse[np.abs(sparse).sum(axis=1) > 0], np.eye(128)):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        assert embeddings.is_unit(np.rint(units * 127).astype(np.int8)).all()
    assert not embeddings.is_unit(np.zeros((1, 128), np.int8)).any()
    assert not embeddings.is_unit(np.full((1, 128), 127, np.int8)).any()
    assert not embeddings.is_unit(np.full((1, 128), 10, np.int8)).any()
