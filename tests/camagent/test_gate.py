"""The gate: opens on motion, for tracks and by itself; sleeps on noise; replays identically."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camagent.gate import Gate, GateDecision, GateSettings
from camsdk.vision.frames import Frame

WIDTH, HEIGHT, RATE_HZ = 640, 480, 10


def frame(index: int, luma: np.ndarray, **changes: bool) -> Frame:
    chroma = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    return Frame(index, 1000.0 + index / RATE_HZ, luma, chroma, chroma, **changes)


@lru_cache(maxsize=256)
def room(seed: int = 0, noise: float = 0.0, level: float = 90.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    luma = np.full((HEIGHT, WIDTH), level) + rng.normal(0.0, noise, (HEIGHT, WIDTH))
    return luma.clip(0, 255).astype(np.uint8)


def with_person(luma: np.ndarray, left: int, width: int = 24, height: int = 60) -> np.ndarray:
    luma = luma.copy()
    luma[200 : 200 + height, left : left + width] = 150
    return luma


def empty_room(count: int, noise: float = 0.0) -> Iterator[Frame]:
    rooms = [room(seed, noise) for seed in range(17 if noise else 1)]
    for index in range(count):
        yield frame(index, rooms[index % len(rooms)])


def test_an_empty_room_is_looked_at_in_short_peeks_only() -> None:
    gate = Gate()
    decisions = [gate.decide(one) for one in empty_room(300)]
    reasons = {decision.reason for decision in decisions}
    assert reasons == {"peek", "quiet"}
    opened = [i for i, decision in enumerate(decisions) if decision.is_open]
    assert opened[:6] == [0, 1, 2, 52, 53, 54]
    assert len(opened) <= 3 * (300 // 50)


def test_it_is_never_closed_for_longer_than_the_period() -> None:
    gate = Gate()
    opened = [i for i, one in enumerate(empty_room(400)) if gate.decide(one).is_open]
    longest = max(b - a for a, b in pairwise(opened))
    assert longest / RATE_HZ <= GateSettings().peek_period_s + 0.1


@pytest.mark.parametrize("noise", [2.0, 5.0, 9.0])
def test_a_noisy_camera_does_not_open_it(noise: float) -> None:
    gate = Gate()
    decisions = [gate.decide(one) for one in empty_room(300, noise)]
    settled = decisions[100:]
    moved = sum(decision.reason == "motion" for decision in settled)
    assert moved <= 2


@pytest.mark.parametrize("noise", [0.0, 4.0])
@pytest.mark.parametrize(("width", "height"), [(24, 60), (10, 24)])
def test_a_walking_person_opens_it_at_once(noise: float, width: int, height: int) -> None:
    gate = Gate()
    for one in empty_room(60, noise):
        gate.decide(one)
    for step in range(20):
        luma = with_person(room(60 + step, noise), 100 + 6 * step, width, height)
        decision = gate.decide(frame(60 + step, luma))
        assert decision.reason == "motion"
        assert decision.motion_area > 0.0


def test_a_person_who_stands_still_keeps_it_open_while_tracked() -> None:
    gate = Gate()
    for one in empty_room(60):
        gate.decide(one)
    person = with_person(room(), 300)
    decisions = [gate.decide(frame(60 + i, person), is_tracking=True) for i in range(1200)]
    assert all(decision.is_open for decision in decisions)
    assert decisions[-1].reason == "tracks"  # by then the background has learnt the person


def test_a_person_who_was_there_before_us_is_peeked_at_for_ever() -> None:
    gate = Gate()
    person = with_person(room(), 300)
    decisions = [gate.decide(frame(i, person)) for i in range(3000)]
    runs = "".join("x" if decision.is_open else "." for decision in decisions).split(".")
    peeks = [run for run in runs if run]
    assert len(peeks) >= 55
    assert all(len(run) >= 3 for run in peeks)  # long enough to confirm a track


def test_it_lingers_after_the_last_reason_so_that_a_flickering_track_is_found_again() -> None:
    gate = Gate()
    for one in empty_room(40):
        gate.decide(one)
    gate.decide(frame(40, room()), is_tracking=True)
    after = [gate.decide(frame(41 + i, room())) for i in range(20)]
    lingering = [decision for decision in after if decision.reason == "linger"]
    assert after[: len(lingering)] == lingering
    assert len(lingering) in (10, 11)


def test_a_light_switch_opens_it_once_and_then_it_rests() -> None:
    gate = Gate()
    for one in empty_room(60):
        gate.decide(one)
    bright = [gate.decide(frame(60 + i, room(level=160.0))) for i in range(20)]
    assert bright[0].reason == "motion"
    assert bright[0].motion_area > 0.9
    assert {decision.reason for decision in bright[1:]} <= {"linger", "quiet"}


def test_a_slow_dawn_does_not_open_it() -> None:
    gate = Gate()
    decisions = [gate.decide(frame(i, room(level=60.0 + i // 5 / 2))) for i in range(200)]
    assert {decision.reason for decision in decisions} == {"peek", "quiet"}


def test_a_damaged_frame_is_not_looked_at_and_teaches_nothing() -> None:
    gate = Gate()
    for one in empty_room(60):
        gate.decide(one)
    garbage = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH), np.uint8)
    damaged = [gate.decide(frame(60 + i, garbage, is_corrupt=True), True) for i in range(10)]
    assert set(damaged) == {GateDecision(False, 0.0, "corrupt")}
    assert gate.decide(frame(70, room())).reason in ("quiet", "peek")


def test_a_stream_that_stays_damaged_is_used_after_all() -> None:
    gate = Gate()
    gate.decide(frame(0, room()))
    decisions = [
        gate.decide(frame(i, with_person(room(), 2 * i), is_corrupt=True)) for i in range(1, 80)
    ]
    assert decisions[48].reason == "corrupt"
    assert decisions[52].is_open


def test_a_change_of_size_starts_a_new_background() -> None:
    gate = Gate()
    for one in empty_room(60):
        gate.decide(one)
    half = np.full((HEIGHT // 2, WIDTH // 2), 200, np.uint8)
    chroma = np.full((HEIGHT // 4, WIDTH // 4), 128, np.uint8)
    small = Frame(60, 1006.0, half, chroma, chroma)
    assert gate.decide(small).motion_area == 0.0
    assert gate.decide(replace(small, index=61, timestamp_s=1006.1)).motion_area == 0.0


def test_reset_forgets_time_and_place() -> None:
    gate = Gate()
    for one in empty_room(60):
        gate.decide(one)
    gate.reset()
    early = replace(frame(0, room(level=200.0)), timestamp_s=5.0)
    assert gate.decide(early) == GateDecision(True, 0.0, "peek")


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 600), st.booleans(), st.booleans()), min_size=1, max_size=30)
)
def test_a_replay_gives_the_same_decisions(story: list[tuple[int, bool, bool]]) -> None:
    def run() -> list[GateDecision]:
        gate = Gate()
        return [
            gate.decide(frame(i, with_person(room(i % 8, 3.0), left), is_corrupt=bad), tracking)
            for i, (left, bad, tracking) in enumerate(story)
        ]

    assert run() == run()


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (17, 3), (4096, 2)])
def test_any_size_works(size: tuple[int, int]) -> None:
    height, width = size
    luma = np.zeros((height, width), np.uint8)
    chroma = np.zeros(((height + 1) // 2, (width + 1) // 2), np.uint8)
    gate = Gate()
    decisions = [gate.decide(Frame(i, float(i), luma, chroma, chroma)) for i in range(3)]
    assert all(0.0 <= decision.motion_area <= 1.0 for decision in decisions)
