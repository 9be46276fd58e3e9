"""Capture times of recordings and live video."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from camagent.source.clock import MAX_DEPARTURE_S, MAX_GAP_S, LiveClock, RecordingClock

_PTS = st.one_of(st.none(), st.floats(-1e6, 1e6))


def test_a_recording_counts_from_its_start_whatever_its_first_timestamp() -> None:
    clock = RecordingClock(1000.0, 0.1)
    assert [clock.stamp(pts) for pts in (5.0, 5.1, 5.3)] == [1000.0, 1000.1, 1000.3]


def test_missing_repeated_and_absurd_timestamps_take_one_interval() -> None:
    clock = RecordingClock(0.0, 0.5)
    stamps = [clock.stamp(pts) for pts in (0.0, None, 0.0, 0.0, -3.0, 9999.0, 9999.25)]
    assert stamps == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 2.75]


@given(st.lists(_PTS, min_size=2, max_size=50))
def test_a_recording_always_moves_on_and_never_leaps(pts: list[float | None]) -> None:
    clock = RecordingClock(1.7e9, 0.04)
    stamps = [clock.stamp(one) for one in pts]
    steps = [b - a for a, b in pairwise(stamps)]
    assert all(0.0 <= step <= MAX_GAP_S + 1e-3 for step in steps)
    replay = RecordingClock(1.7e9, 0.04)
    assert [replay.stamp(one) for one in pts] == stamps


def test_live_times_keep_the_cameras_spacing_under_jitter() -> None:
    clock = LiveClock(wall_start_s=5000.0, monotonic_start_s=100.0)
    late = [0.0, 0.03, 0.01, 0.08, 0.0, 0.05]
    stamps = [clock.stamp(7.0 + 0.1 * i, 100.0 + 0.1 * i + late[i]) for i in range(6)]
    assert all(math.isclose(stamps[i], 5000.0 + 0.1 * i, abs_tol=1e-6) for i in range(6))


def test_live_times_follow_our_clock_when_the_cameras_jumps() -> None:
    clock = LiveClock(0.0, 0.0)
    clock.stamp(10.0, 1.0)
    assert clock.stamp(99_999.0, 2.0) == 2.0
    assert clock.stamp(None, 3.0) == 3.0


@given(
    st.lists(st.tuples(_PTS, st.floats(0, 10)), min_size=1, max_size=50),
    st.floats(-3e6, 3e6),
)
def test_live_times_increase_and_stay_near_arrival(
    pictures: list[tuple[float | None, float]], wall_start_s: float
) -> None:
    clock = LiveClock(wall_start_s, 0.0)
    arrival_s, last_s = 0.0, -math.inf
    for count, (pts_s, wait_s) in enumerate(pictures, start=1):
        arrival_s += wait_s
        stamp_s = clock.stamp(pts_s, arrival_s)
        assert stamp_s > last_s
        lead_s = stamp_s - clock.at(arrival_s)
        assert -MAX_DEPARTURE_S - 1e-6 <= lead_s <= 1e-3 * count + 1e-6
        last_s = stamp_s
