"""Ranges hold what their rule promises, and rounding inside them errs by half a step at most."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camsdk.compress.options import ActivationOptions, RangeRule
from camsdk.compress.ptq.ranges import Observer
from camsdk.errors import InvalidInput

RULES: tuple[RangeRule, ...] = ("extreme", "mean", "percentile", "mse")
VALUES = hnp.arrays(
    np.float32, st.integers(1, 50), elements=st.floats(-1000, 1000, width=32).map(lambda v: v + 0.0)
)


def observed(*tensors: np.ndarray) -> Observer:
    observer = Observer()
    for tensor in tensors:
        observer.add(tensor)
    return observer


@settings(max_examples=40, deadline=None)
@given(VALUES, st.integers(2, 8))
def test_half_a_step_is_the_largest_error_inside_a_range(values: np.ndarray, bits: int) -> None:
    found = observed(values).range(ActivationOptions(bits, "extreme"))
    step = float(found.scale)
    codes = np.clip(np.rint(values / step) + found.zero_point, 0, found.largest)
    restored = (codes - found.zero_point) * step
    # the zero point is rounded too, which may move the range by half a step
    inside = (restored > -found.zero_point * step) & (codes < found.largest)
    assert (np.abs(values - restored)[inside] <= step / 2 * (1 + 1e-5) + 1e-30).all()
    assert (np.abs(values - restored) <= step * (1 + 1e-5) + 1e-30).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from(RULES), st.integers(2, 8))
def test_every_range_holds_zero_and_stays_inside_the_extremes(
    tensors: list[np.ndarray], rule: RangeRule, bits: int
) -> None:
    found = observed(*tensors).range(ActivationOptions(bits, rule))
    lowest = min(0.0, *(float(tensor.min()) for tensor in tensors))
    highest = max(0.0, *(float(tensor.max()) for tensor in tensors))
    slack = 1e-5 * max(highest - lowest, 1e-30)
    assert lowest - slack <= found.low <= 0 <= found.high <= highest + slack
    assert found.bit_width == bits


def test_rules_differ_as_they_should() -> None:
    calm, wild = np.linspace(-1, 1, 1000, dtype=np.float32), np.float32([-10, 30])
    observer = observed(calm, wild)
    extreme = observer.range(ActivationOptions(8, "extreme"))
    mean = observer.range(ActivationOptions(8, "mean"))
    assert (extreme.low, extreme.high) == (-10, 30)
    assert (mean.low, mean.high) == pytest.approx((-5.5, 15.5))


def test_a_histogram_that_widens_loses_nothing() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=3000).astype(np.float32) * scale for scale in (0.01, 1, 37)]
    found = observed(*parts).range(ActivationOptions(8, "percentile"))
    exact = np.percentile(np.concatenate(parts), [0.005, 99.995])
    assert (found.low, found.high) == pytest.approx(tuple(exact), rel=0.15)


def test_least_squares_clips_an_outlier_at_few_bits_only() -> None:
    values = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    values[7] = 12.0
    observer = observed(values)
    coarse = observer.range(ActivationOptions(3, "mse"))
    fine = observer.range(ActivationOptions(8, "mse"))
    assert coarse.high < 3.5 < fine.high


def test_what_was_not_seen_has_no_range() -> None:
    with pytest.raises(InvalidInput, match="not been seen"):
        Observer().range(ActivationOptions())


@pytest.mark.parametrize("rule", ["mse", "percentile"])
def test_every_value_of_a_small_tensor_counts(rule: RangeRule) -> None:
    scores = [np.array([[value, 0.0]], np.float32) for value in np.linspace(0.5, 1.0, 6)]
    found = observed(*scores).range(ActivationOptions(8, rule))
    assert found.high == pytest.approx(1.0, abs=0.02)
