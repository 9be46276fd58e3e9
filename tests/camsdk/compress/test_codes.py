"""Laws of the projection onto codes times a scale."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from camsdk.compress.codes import CodedTensor, nearest, project
from camsdk.compress.options import CodeSet, Granularity
from camsdk.errors import InvalidInput

CODE_SETS = st.sampled_from(
    [CodeSet(bits) for bits in range(1, 9)] + [CodeSet(bits, "power-of-two") for bits in (3, 4)]
)
GRANULARITIES = st.sampled_from(("tensor", "filter"))
WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=5),
    elements=st.floats(-4, 4, width=32),
)
F32 = NDArray[np.float32]


@given(WEIGHTS, CODE_SETS, GRANULARITIES)
def test_projecting_twice_changes_nothing(
    weights: F32, codes: CodeSet, granularity: Granularity
) -> None:
    once = project(weights, codes, granularity).values
    np.testing.assert_allclose(project(once, codes, granularity).values, once, rtol=1e-5, atol=1e-6)


@given(WEIGHTS, CODE_SETS, GRANULARITIES)
def test_no_other_code_is_nearer(weights: F32, codes: CodeSet, granularity: Granularity) -> None:
    made = project(weights, codes, granularity)
    scale = made.scale.reshape(made.scale.shape + (1,) * (weights.ndim - made.scale.ndim))
    candidates = codes.levels.astype(np.float64).reshape((-1,) + (1,) * weights.ndim) * scale
    least = np.abs(candidates - weights).min(axis=0)
    np.testing.assert_allclose(np.abs(made.values - weights), least, rtol=1e-4, atol=1e-5)
    assert np.isin(made.codes, codes.levels).all()


@given(WEIGHTS, CODE_SETS)
def test_the_scale_is_never_worse_than_that_of_the_largest_weight(
    weights: F32, codes: CodeSet
) -> None:
    largest = np.abs(weights).max()
    if largest < 1e-6:
        return
    plain = nearest(weights, np.float64(largest / codes.largest), codes) * largest / codes.largest
    made = project(weights, codes, "tensor")
    assert (
        np.square(made.values - weights).sum() <= np.square(plain - weights).sum() * 1.0001 + 1e-9
    )


@given(WEIGHTS, st.integers(2, 8))
def test_what_is_not_clipped_is_within_half_a_step(weights: F32, bits: int) -> None:
    made = project(weights, CodeSet(bits), "tensor")
    inside = np.abs(weights) <= CodeSet(bits).largest * made.scale
    error = np.abs(made.values - weights)[inside]
    assert (error <= made.scale / 2 * 1.0001 + 1e-7).all()


@given(WEIGHTS, CODE_SETS, st.integers(0, 2**16))
def test_pruned_weights_stay_zero_and_others_do_not_become_it_when_binary(
    weights: F32, codes: CodeSet, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(weights.shape) < 0.5
    made = project(weights, codes, "filter", mask)
    assert not made.codes[~mask].any()
    if codes.bit_width == 1:
        assert (made.codes[mask] != 0).all()
    assert (made.scale > 0).all()


@given(arrays.arrays(np.float64, 5, elements=st.floats(-2, 2)))
def test_ternary_codes_are_the_optimum(weights: NDArray[np.float64]) -> None:
    """Against all 3^5 code vectors, each with its own best scale."""
    made = project(weights[np.newaxis].astype(np.float32), CodeSet(2), "filter")
    error = np.square(made.values[0] - weights).sum()
    best = np.square(weights).sum()
    for code in itertools.product((-1, 0, 1), repeat=5):
        vector = np.array(code, np.float64)
        if vector.any():
            scale = max(0.0, weights @ vector / (vector @ vector))
            best = min(best, float(np.square(weights - scale * vector).sum()))
    assert error <= best + 0.02 * np.square(weights).sum() + 1e-6


def test_binary_weights_are_signs_times_the_mean() -> None:
    weights = np.array([[0.5, -1.5, 1.0, -1.0]], np.float32)
    made = project(weights, CodeSet(1))
    assert made.codes.tolist() == [[1, -1, 1, -1]]
    assert made.scale.tolist() == [1.0]


def test_an_empty_filter_has_a_scale_that_can_be_divided_by() -> None:
    made = project(np.zeros((2, 3), np.float32), CodeSet(4))
    assert made.scale.tolist() == [1.0, 1.0]
    assert made.sparsity == 1.0


def test_damaged_weights_and_masks_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no finite numbers"):
        project(np.array([[np.nan]], np.float32), CodeSet(4))
    with pytest.raises(InvalidInput, match="mask of shape"):
        project(np.ones((2, 2), np.float32), CodeSet(4), mask=np.ones((1, 2), np.bool_))
    with pytest.raises(InvalidInput, match="do not fit"):
        CodedTensor(np.zeros((3, 2), np.int8), np.ones(2, np.float32), CodeSet(3))
    for bits, spacing in ((0, "uniform"), (9, "uniform"), (5, "power-of-two")):
        with pytest.raises(InvalidInput, match="not to be had"):
            CodeSet(bits, spacing)  # type: ignore[arg-type]
