"""Appearance search: by code, event and picture; best code of each track; filters; exactness."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from camcloud.analysis import search as search_module
from camcloud.data_plane import DataPlane
from camcloud.vectors import FaissVectors
from camsdk.errors import InvalidInput, NotFound
from camsdk.vision import appearance
from camsdk.vision.results import CAMERA_ONLINE, LINE_CROSSED, Event
from support.data_plane import Camera, code, data_plane, publish, with_codes, with_events


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[DataPlane]:
    async with data_plane(vectors=FaissVectors(tmp_path)) as plane:
        yield plane


def near(base: np.ndarray, step: float, seed: int = 99) -> np.ndarray:
    """A code that differs from ``base`` the more, the larger ``step``."""
    values = base.astype(np.float64) + step * code(seed).astype(np.float64)
    return np.rint(values / np.linalg.norm(values) * 127).astype(np.int8)


async def ship(plane: DataPlane, camera: Camera, *codes: dict[int, np.ndarray]) -> None:
    """One frame for each dictionary of track id to code."""
    results = camera.frames(len(codes))
    results = [with_codes(r, c) if c else r for r, c in zip(results, codes, strict=True)]
    await publish(plane.bus, camera, camera.pack(results))
    await asyncio.wait_for(plane.drained(), 10)


async def test_each_track_counts_once_by_its_best_code(plane: DataPlane) -> None:
    wanted = code(1)
    await ship(
        plane,
        Camera(),
        {1: near(wanted, 1.0), 2: near(wanted, 0.2)},
        {1: near(wanted, 0.1), 2: code(5)},
    )
    hits = await plane.search.find(wanted[None], 10)
    assert [hit.track.sighting.track_id for hit in hits] == [1, 2]
    assert hits[0].matched_timestamp_s == pytest.approx(1000.1)
    expected = appearance.similarity(near(wanted, 0.1)[None], wanted)[0]
    assert hits[0].similarity == pytest.approx(expected, abs=1e-6)
    assert hits[0].similarity > hits[1].similarity


async def test_a_code_sent_at_the_end_counts_as_taken_at_the_last_look(plane: DataPlane) -> None:
    wanted, camera = code(1), Camera()
    await ship(plane, camera, {1: code(5)})
    gone = [with_codes(r, {1: wanted}) for r in camera.frames(1, track_count=0)]
    await publish(plane.bus, camera, camera.pack(gone))
    await asyncio.wait_for(plane.drained(), 10)
    (hit, *_) = await plane.search.find(wanted[None], 10)
    assert hit.matched_timestamp_s == hit.track.sighting.last_timestamp_s == pytest.approx(1000.0)


async def test_tracks_of_all_cameras_are_ranked_together(plane: DataPlane) -> None:
    wanted = code(1)
    await ship(plane, Camera("cam-1"), {1: near(wanted, 0.5)})
    await ship(plane, Camera("cam-2"), {1: near(wanted, 0.1)})
    await ship(plane, Camera("cam-3"), {1: near(wanted, 1.0)})
    hits = await plane.search.find(wanted[None], 2)
    assert [hit.track.scene.device_id for hit in hits] == ["cam-2", "cam-1"]


async def test_a_track_with_very_many_good_codes_does_not_crowd_out_the_others(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "_CODES_PER_TRACK", 1)
    wanted = code(1)
    await ship(plane, Camera(), *({1: near(wanted, 0.01, seed)} for seed in range(200, 300)))
    others = Camera("cam-2")
    await ship(plane, others, {n: near(wanted, 0.5 + n / 10) for n in range(1, 5)})
    hits = await plane.search.find(wanted[None], 3)
    assert [(h.track.scene.device_id, h.track.sighting.track_id) for h in hits] == [
        ("cam-1", 1),
        ("cam-2", 1),
        ("cam-2", 2),
    ]


async def test_the_ranking_is_that_of_brute_force(plane: DataPlane) -> None:
    codes = {n: code(n) for n in range(1, 120)}
    await ship(plane, Camera(), codes)
    query = code(500)
    hits = await plane.search.find(query[None], 20)
    similarities = appearance.similarity(np.stack(list(codes.values())), query)
    expected = [list(codes)[place] for place in np.argsort(-similarities, kind="stable")[:20]]
    assert [hit.track.sighting.track_id for hit in hits] == expected


async def test_fleet_and_time_narrow_the_search(plane: DataPlane) -> None:
    wanted = code(1)
    await ship(plane, Camera("cam-1"), {1: wanted}, {}, {2: wanted})
    await ship(plane, Camera("cam-2", fleet="park-b"), {3: wanted})

    async def ids(**options: object) -> set[int]:
        hits = await plane.search.find(wanted[None], 10, **options)
        return {hit.track.sighting.track_id for hit in hits}

    assert await ids() == {1, 2, 3}
    assert await ids(fleet="park-b") == {3}
    assert await ids(fleet="park-a", since_s=1000.15) == {2}
    assert await ids(since_s=1000.0, until_s=1000.1) == {1, 3}
    assert await ids(fleet="nowhere") == set()


async def test_an_event_is_searched_by_its_track(plane: DataPlane) -> None:
    camera, wanted = Camera(), code(1)
    results = camera.frames(2)
    results[0] = with_codes(results[0], {1: code(7), 2: wanted})
    results[1] = with_events(results[1], Event(LINE_CROSSED, 1, 1000.1, track_id=2))
    await publish(plane.bus, camera, camera.pack(results))
    await ship(plane, Camera("cam-2"), {4: near(wanted, 0.2)})
    codes = await plane.search.codes_of_event("cam-1/7/1")
    assert np.array_equal(codes, wanted[None])
    hits = await plane.search.find(codes, 2)
    assert [(h.track.scene.device_id, h.track.sighting.track_id) for h in hits] == [
        ("cam-1", 2),
        ("cam-2", 4),
    ]


async def test_several_codes_of_one_query_are_searched_together(plane: DataPlane) -> None:
    await ship(plane, Camera(), {1: code(1), 2: code(2), 3: code(3)})
    hits = await plane.search.find(np.stack([code(1), code(3)]), 2)
    assert {hit.track.sighting.track_id for hit in hits} == {1, 3}
    assert all(hit.similarity > 0.99 for hit in hits)


async def test_an_event_that_cannot_be_searched_says_why(plane: DataPlane) -> None:
    camera = Camera()
    results = camera.frames(1)
    events = (Event(CAMERA_ONLINE, 0, 1000.0), Event(LINE_CROSSED, 0, 1000.0, track_id=1))
    results[0] = with_events(results[0], *events)
    await publish(plane.bus, camera, camera.pack(results))
    await asyncio.wait_for(plane.drained(), 10)
    with pytest.raises(InvalidInput, match="not about a track"):
        await plane.search.codes_of_event("cam-1/7/1")
    with pytest.raises(NotFound, match="no appearance code"):
        await plane.search.codes_of_event("cam-1/7/2")
    with pytest.raises(NotFound, match="no event"):
        await plane.search.codes_of_event("cam-1/7/3")
    with pytest.raises(InvalidInput, match="no event id"):
        await plane.search.codes_of_event("cam-1/7")


async def test_a_picture_finds_the_person_it_shows(plane: DataPlane) -> None:
    rng = np.random.default_rng(3)
    people = {}
    for track_id, (shirt, trousers) in enumerate(
        [
            ((200, 30, 30), (20, 20, 90)),
            ((20, 160, 40), (60, 60, 60)),
            ((230, 220, 60), (10, 10, 10)),
        ],
        start=1,
    ):
        rgb = np.empty((96, 40, 3), np.uint8)
        rgb[:48], rgb[48:] = shirt, trousers
        noise = rng.integers(-12, 12, rgb.shape)
        people[track_id] = np.clip(rgb.astype(int) + noise, 0, 255).astype(np.uint8)
    await ship(plane, Camera(), {n: appearance.hsv_stripes(rgb) for n, rgb in people.items()})
    for track_id, rgb in people.items():
        ok, jpeg = cv2.imencode(".jpg", rgb[4:92, 3:37, ::-1])  # another crop, another coding
        assert ok
        codes = await plane.search.codes_of_image(jpeg.tobytes())
        best, second = (await plane.search.find(codes, 3))[:2]
        assert best.track.sighting.track_id == track_id
        assert best.similarity > 0.9 > second.similarity


async def test_what_is_no_code_is_refused(plane: DataPlane) -> None:
    assert np.array_equal(plane.search.codes_of_bytes(code(1).tobytes()), code(1)[None])
    for data in (b"", b"\x01" * 64, b"\x7f" * 128, bytes(128)):
        with pytest.raises(InvalidInput, match="no appearance code"):
            plane.search.codes_of_bytes(data)


@pytest.mark.parametrize("top_k", [0, 201])
async def test_top_k_is_bounded(plane: DataPlane, top_k: int) -> None:
    with pytest.raises(InvalidInput, match="top_k"):
        await plane.search.find(code(1)[None], top_k)


async def test_an_empty_store_has_no_hits(plane: DataPlane) -> None:
    assert await plane.search.find(code(1)[None], 5) == []
