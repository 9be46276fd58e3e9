"""Waves: how devices are dealt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcloud.rollout.plan import Candidate, Plan, Strategy, deal, wave_sizes
from camsdk.errors import InvalidInput

plans = st.builds(
    Plan,
    strategy=st.sampled_from(Strategy),
    canary_count=st.integers(0, 20),
    wave_count=st.integers(1, 10),
) | st.builds(
    Plan,
    strategy=st.sampled_from(Strategy),
    canary_percent=st.floats(0, 100),
    wave_count=st.integers(1, 10),
)


@given(plans, st.integers(0, 200))
def test_waves_are_never_empty_and_hold_every_device(plan: Plan, count: int) -> None:
    sizes = wave_sizes(plan, count)
    assert sum(sizes) == count
    assert all(size > 0 for size in sizes)


@given(plans, st.integers(2, 200))
def test_waves_after_the_canary_differ_by_one_at_most(plan: Plan, count: int) -> None:
    rest = wave_sizes(plan, count)[1:]
    assert not rest or max(rest) - min(rest) <= 1


@pytest.mark.parametrize(
    ("plan", "count", "sizes"),
    [
        (Plan(), 5, (5,)),
        (Plan(Strategy.CANARY), 5, (1, 4)),
        (Plan(Strategy.CANARY, canary_count=9), 5, (5,)),
        (Plan(Strategy.CANARY, canary_percent=10), 25, (3, 22)),
        (Plan(Strategy.WAVES), 3, (1, 1, 1)),
        (Plan(Strategy.WAVES, canary_count=2, wave_count=2), 9, (2, 4, 3)),
    ],
)
def test_wave_sizes(plan: Plan, count: int, sizes: tuple[int, ...]) -> None:
    assert wave_sizes(plan, count) == sizes


def test_devices_are_dealt_in_order() -> None:
    assert deal(Plan(Strategy.CANARY), ["z", "a", "m"]) == {"z": 0, "a": 1, "m": 1}


@pytest.mark.parametrize(
    "values",
    [
        {"canary_percent": 101},
        {"canary_percent": 5, "canary_count": 1},
        {"canary_percent": float("nan")},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"wave_count": 0},
        {"max_failures": -1},
    ],
)
def test_a_plan_out_of_bounds_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        Plan(**values)


@pytest.mark.parametrize(
    ("running", "desired", "refused", "expected"),
    [
        ("old", "old", "", "old"),
        ("", "", "", ""),
        ("bad", "old", "", "old"),  # on its way back from an aborted rollout
        ("old", "bad", "bad", "old"),  # it could not run what it was told to
        ("", "release", "", "release"),  # new, on its way to the release
    ],
)
def test_where_an_abort_sends_a_device(
    running: str, desired: str, refused: str, expected: str
) -> None:
    assert Candidate("cam", True, running, desired, refused, 1).from_digest == expected
