"""Batches survive the wire; what is not a batch is refused."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camproto.v1 import data_pb2
from camsdk.errors import DataCorrupted, InvalidInput
from camsdk.vision.results import Embeddings, Event, FrameResult, Tracks
from camsdk.wire import Crop, decode_batch, encode_batch
from camsdk.wire.tracks import BOX_UNIT_PX, SCORE_STEPS


def make_results(seed: int, frames: int = 12, most_tracks: int = 6) -> list[FrameResult]:
    """A seeded scene of walkers; ids appear, persist and end."""
    rng = np.random.default_rng(seed)
    alive: dict[int, np.ndarray] = {}
    next_id, results = 1, []
    for index in range(frames):
        ended = [track for track in alive if rng.random() < 0.1]
        for track in ended:
            del alive[track]
        while len(alive) < most_tracks and rng.random() < 0.5:
            corner = rng.uniform(0, 500, 2)
            alive[next_id] = np.concatenate([corner, corner + rng.uniform(5, 90, 2)])
            next_id += 1
        for box in alive.values():
            box += rng.normal(0, 2, 4)
        ids = np.array(list(alive), np.int64)
        born = ids[rng.random(ids.size) < 0.3]
        events = tuple(
            Event("line_crossed", index, 1e9 + index / 10, "gate", int(track), 0, "person", 0.5,
                  tuple(map(float, np.float32(alive[track]))), {"direction": "in"})
            for track in born
        )  # fmt: skip
        results.append(
            FrameResult(
                frame_index=index + 7,
                timestamp_s=1e9 + index / 10,
                width=768,
                height=576,
                tracks=Tracks(
                    ids,
                    np.array(list(alive.values()), np.float32).reshape(-1, 4),
                    rng.uniform(0, 1, ids.size).astype(np.float32),
                    rng.integers(0, 3, ids.size),
                    np.array(ended, np.int64),
                ),
                embeddings=Embeddings(
                    born,
                    rng.integers(-127, 128, (born.size, 128)).astype(np.int8),
                    rng.integers(0, 3, born.size).astype(np.uint8),
                ),
                events=events,
                is_detected=bool(index % 2),
                model_digest="d1" * 32,
            )
        )
    return results


def encode(results: list[FrameResult], **options) -> bytes:
    keys = {"camera_id": "gate", "session": 3, "epoch": 5, "first_event_sequence": 11}
    return encode_batch(results, **{**keys, **options})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 12))
def test_round_trip(seed, frames, most_tracks):
    results = make_results(seed, frames, most_tracks)
    batch = decode_batch(encode(results))
    tracks = batch.tracks
    assert (batch.camera_id, batch.session, batch.width, batch.model_digest) == (
        "gate",
        3,
        768,
        "d1" * 32,
    )
    assert tracks.frame_index.tolist() == [r.frame_index for r in results]
    assert np.allclose(tracks.timestamp_s, [r.timestamp_s for r in results], atol=1e-6, rtol=0)
    assert tracks.is_detected.tolist() == [r.is_detected for r in results]
    for position, result in enumerate(results):
        rows = tracks.row_frame == position
        order = np.argsort(result.tracks.track_id)
        assert tracks.track_id[rows].tolist() == result.tracks.track_id[order].tolist()
        assert tracks.class_ids[rows].tolist() == result.tracks.class_ids[order].tolist()
        error_px = np.abs(tracks.xyxy[rows] - result.tracks.xyxy[order])
        assert error_px.max(initial=0) <= BOX_UNIT_PX / 2 + 1e-4
        error = np.abs(tracks.scores[rows] - result.tracks.scores[order])
        assert error.max(initial=0) <= 0.5 / SCORE_STEPS + 1e-6
        assert tracks.ended[tracks.ended_frame == position].tolist() == result.tracks.ended.tolist()
        codes = batch.embeddings.codes[batch.embeddings.frame == position]
        assert codes.tolist() == result.embeddings.codes.tolist()
    assert [e.event for e in batch.events] == [e for r in results for e in r.events]
    assert [e.sequence for e in batch.events] == list(range(11, 11 + len(batch.events)))


def test_sizes_by_kind_sum_to_the_payload():
    crop = Crop(1, 7, 1e9, b"\xff\xd8 jpeg", 11)
    payload = encode(make_results(1), crops=[crop])
    batch = decode_batch(payload)
    assert sum(batch.bytes_by_kind.values()) == len(payload)
    assert all(size > 0 for size in batch.bytes_by_kind.values())
    assert batch.crops[0].jpeg == crop.jpeg


def test_walkers_take_few_bytes():
    results = make_results(2, frames=32)
    rows = sum(len(r.tracks) for r in results)
    size = decode_batch(encode(results)).bytes_by_kind["tracks"]
    # 16 bytes of float32 corners, 8 of id and score: the codec must win by a wide margin.
    assert size < rows * 24 / 3


def test_an_empty_scene_is_tiny():
    results = make_results(3, frames=32, most_tracks=0)
    assert decode_batch(encode(results)).bytes_by_kind["tracks"] < 60


def test_mixed_frame_sizes_are_refused():
    results = make_results(1, 2)
    odd = FrameResult(9, 1e9, 640, 480, Tracks.empty(), Embeddings.empty())
    with pytest.raises(InvalidInput, match="mixes"):
        encode([*results, odd])
    with pytest.raises(InvalidInput, match="at least one"):
        encode([])


def test_a_box_that_is_not_finite_is_refused_before_it_is_shipped():
    tracks = Tracks(
        np.array([1]), np.array([[0, 0, np.nan, 1]], np.float32), np.ones(1, np.float32),
        np.zeros(1, np.int64), np.zeros(0, np.int64),
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="finite"):
        encode([FrameResult(0, 1e9, 8, 8, tracks, Embeddings.empty())])


@pytest.mark.parametrize(
    ("field", "value"),
    [("first_timestamp_s", float("nan")), ("first_timestamp_s", 1e300), ("camera_id", ""),
     ("frame_count", 1), ("track_row_count", 10**6), ("embedding_count", 10**6),
     ("tracks", b""), ("tracks", b"\x00\xfe"), ("embeddings", b"\x00abcd")],
)  # fmt: skip
def test_contradictions_are_refused(field, value):
    batch = data_pb2.Batch.FromString(encode(make_results(1)))
    setattr(batch, field, value)
    with pytest.raises(DataCorrupted):
        decode_batch(batch.SerializeToString())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e200])
def test_events_with_wild_times_are_refused(number):
    batch = data_pb2.Batch.FromString(encode(make_results(1)))
    batch.events[0].timestamp_s = number
    with pytest.raises(DataCorrupted, match="event"):
        decode_batch(batch.SerializeToString())


def test_random_damage_decodes_or_is_refused():
    payload = encode(make_results(4))
    rng = random.Random(4)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(3000):
        damaged = bytearray(payload)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cut = bytes(damaged[: rng.randint(1, len(damaged))] if rng.random() < 0.3 else damaged)
        try:
            batch = decode_batch(cut)
        except DataCorrupted:
            outcomes["refused"] += 1
            continue
        outcomes["decoded"] += 1
        assert np.isfinite(batch.tracks.xyxy).all()
        assert np.isfinite(batch.tracks.timestamp_s).all()
    assert outcomes["refused"] > 500, outcomes
