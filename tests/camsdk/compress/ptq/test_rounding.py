"""Rounding that watches a layer's output is never worse there than the nearest codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camsdk.compress.codes import nearest
from camsdk.compress.options import CodeSet, Spacing
from camsdk.compress.ptq.learned import round_learned
from camsdk.compress.ptq.rounding import (
    damped,
    fit_scale,
    refine,
    round_gptq,
    towards,
    weighted_error,
)


def problem(
    seed: int, groups: int, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, scales and second moments of inputs whose columns go together."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(groups, rows, columns))
    mixed = rng.normal(size=(groups, columns, columns)) / np.sqrt(columns) + 0.5
    samples = rng.normal(size=(groups, 3 * columns, columns)) @ mixed
    moments = samples.transpose(0, 2, 1) @ samples / (3 * columns)
    return weights, np.abs(weights).max(axis=-1), moments


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 3),
    rows=st.integers(1, 4),
    columns=st.integers(1, 20),
    bits=st.integers(1, 8),
)
def test_gptq_is_never_worse_than_nearest(
    seed: int, groups: int, rows: int, columns: int, bits: int
) -> None:
    weights, largest, moments = problem(seed, groups, rows, columns)
    code_set = CodeSet(bits)
    scale = largest / code_set.largest
    codes = round_gptq(weights, scale, moments, code_set)
    wide = scale[..., np.newaxis]
    plain = nearest(weights, wide, code_set)
    assert np.isin(codes, code_set.levels).all()
    assert (
        weighted_error(weights - codes * wide, moments)
        <= weighted_error(weights - plain * wide, moments) + 1e-12
    ).all()


def test_gptq_is_much_better_where_columns_go_together() -> None:
    """The point of it: 300 columns also cross a block's border."""
    weights, largest, moments = problem(1, 1, 16, 300)
    code_set = CodeSet(3)
    scale = largest / code_set.largest
    wide = scale[..., np.newaxis]
    error = weighted_error(weights - round_gptq(weights, scale, moments, code_set) * wide, moments)
    plain = weighted_error(weights - nearest(weights, wide, code_set) * wide, moments)
    assert error.sum() < 0.5 * plain.sum()


def test_independent_columns_are_rounded_to_the_nearest() -> None:
    weights, largest, _ = problem(2, 2, 3, 7)
    moments = np.stack([np.diag(np.arange(1.0, 8.0))] * 2)
    scale = largest / 7
    codes = round_gptq(weights, scale, moments, CodeSet(4))
    np.testing.assert_array_equal(codes, nearest(weights, scale[..., np.newaxis], CodeSet(4)))


def test_a_column_that_is_always_zero_can_be_rounded() -> None:
    weights, largest, moments = problem(3, 1, 2, 5)
    moments[:, 2] = moments[:, :, 2] = 0
    codes = round_gptq(weights, largest / 3, moments, CodeSet(3))
    assert np.isin(codes, CodeSet(3).levels).all()
    assert np.linalg.eigvalsh(damped(np.zeros((1, 4, 4)))).min() > 0


@pytest.mark.parametrize("is_shared", [True, False])
def test_fitted_scale_is_no_worse_by_the_diagonal(is_shared: bool) -> None:
    weights, largest, moments = problem(4, 2, 3, 12)
    code_set = CodeSet(3)
    start = largest / 3 if not is_shared else np.full(largest.shape, largest.max() / 3)
    fitted = fit_scale(weights, start, moments, code_set, is_shared=is_shared)

    def error(scale: np.ndarray) -> float:
        wide = scale[..., np.newaxis]
        difference = weights - nearest(weights, wide, code_set) * wide
        return float(np.sum(np.diagonal(moments, 0, 1, 2)[:, np.newaxis] * difference**2))

    assert error(fitted) < error(start)
    assert (len(np.unique(fitted)) == 1) == is_shared


@pytest.mark.parametrize("spacing", ["uniform", "power-of-two"])
def test_learned_rounding_is_better_than_nearest_and_stays_next_to_the_weights(
    spacing: Spacing,
) -> None:
    weights, largest, moments = problem(5, 2, 4, 24)
    code_set = CodeSet(4, spacing)
    scale = largest / code_set.largest
    wide = scale[..., np.newaxis]
    codes = round_learned(weights, scale, moments, code_set)
    plain = nearest(weights, wide, code_set)
    levels = code_set.levels.tolist()
    apart = [
        abs(levels.index(a) - levels.index(b)) for a, b in zip(codes.flat, plain.flat, strict=True)
    ]
    assert max(apart) <= 1
    error = weighted_error(weights - codes * wide, moments)
    before = weighted_error(weights - plain * wide, moments)
    assert (error <= before + 1e-12).all()
    assert np.mean(error / before) < 0.75


def test_binary_codes_leave_nothing_to_learn() -> None:
    weights, largest, moments = problem(6, 1, 2, 5)
    codes = round_learned(weights, largest, moments, CodeSet(1))
    np.testing.assert_array_equal(codes, np.where(weights < 0, -1, 1))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 3),
    rows=st.integers(1, 4),
    columns=st.integers(1, 20),
    bits=st.integers(2, 5),
    is_shared=st.booleans(),
)
def test_refinement_never_raises_the_error(
    seed: int, groups: int, rows: int, columns: int, bits: int, is_shared: bool
) -> None:
    weights, largest, moments = problem(seed, groups, rows, columns)
    code_set = CodeSet(bits)
    scale = largest / code_set.largest
    if is_shared:
        scale = np.full_like(scale, scale.max())
    codes = nearest(weights, scale[..., np.newaxis], code_set)
    damp = damped(moments)
    before = weighted_error(weights - codes * scale[..., np.newaxis], damp).sum()
    refined, fitted = refine(codes, weights, scale, moments, code_set, is_shared=is_shared)
    after = weighted_error(weights - refined * fitted[..., np.newaxis], damp).sum()
    # scales are stored in float32, so an error of nothing may become one of rounding
    assert after <= before * (1 + 1e-6) + 1e-9 * weighted_error(weights, damp).sum()
    assert np.isin(refined, code_set.levels).all()
    assert not is_shared or len(np.unique(fitted)) == 1


def test_refinement_finds_what_column_after_column_misses() -> None:
    weights, largest, moments = problem(8, 2, 12, 40)
    code_set = CodeSet(3)
    codes = round_gptq(weights, largest / 3, moments, code_set)
    refined, scale = refine(codes, weights, largest / 3, moments, code_set, is_shared=False)
    before = weighted_error(weights - codes * (largest / 3)[..., np.newaxis], moments).sum()
    assert weighted_error(weights - refined * scale[..., np.newaxis], moments).sum() < 0.8 * before


def test_every_group_is_rounded_by_its_own_moments() -> None:
    """A depthwise layer: one group alone gives the codes that it gives among others."""
    weights, largest, moments = problem(9, 5, 1, 9)
    codes = round_gptq(weights, largest / 3, moments, CodeSet(3))
    for group in range(5):
        own = slice(group, group + 1)
        alone = round_gptq(weights[own], largest[own] / 3, moments[own], CodeSet(3))
        np.testing.assert_array_equal(codes[own], alone)


def test_weights_move_towards_what_undoes_an_error_before_them() -> None:
    weights, _, exact = problem(10, 1, 4, 12)
    grown = 1.25  # what enters the layer is that much larger than it was
    moved = towards(weights, exact * grown**2, exact * grown)
    np.testing.assert_allclose(towards(weights, exact, exact), weights, atol=1e-9)

    def left(tried: np.ndarray) -> float:
        return float(weighted_error(weights - grown * tried, exact).sum())

    assert left(moved) < 0.2 * left(weights)


def test_covariances_that_single_precision_left_below_zero_still_round() -> None:
    """About a mean that is large beside them, little but the rounding of their sums is left."""
    rng = np.random.default_rng(0)
    along = rng.normal(size=40)
    along /= np.linalg.norm(along)
    second = 1e-6 * np.eye(40) - 1.2e-6 * np.outer(along, along)
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(damped(second))
    weights = rng.normal(size=(1, 3, 40))
    scale = np.abs(weights).max(axis=-1) / 7
    codes = round_gptq(weights, scale, second[np.newaxis], CodeSet(4))
    assert np.abs(weights - codes * scale[..., np.newaxis]).max() < 2 * scale.max()
