"""Laws of masks: the count asked for, the pattern's law, the most important kept."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from camsdk.compress.options import Block, Element, Filter, NOfM, PruneGranularity
from camsdk.compress.sparsity import (
    Mask,
    count_zeros,
    cubic_sparsity,
    find_masks,
    measure_sparsity,
)
from camsdk.errors import InvalidInput

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
sparsities = st.floats(0, 0.99)
blocks = st.builds(Block, st.integers(1, 5), st.integers(1, 3))
patterns = st.integers(2, 6).flatmap(lambda m: st.builds(NOfM, st.integers(1, m - 1), st.just(m)))


@st.composite
def importances(draw: st.DrawFn, *, has_ties: bool = False) -> dict[str, NDArray[Any]]:
    """One to three layers."""
    layers = draw(st.lists(shapes, min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    result = {f"layer{i}": rng.random(shape, np.float32) for i, shape in enumerate(layers)}
    if has_ties:
        result = {name: np.round(array * 3) for name, array in result.items()}
    return result


def unit_means(importance: NDArray[Any], mask: Mask, rows: int, columns: int) -> list[Any]:
    """(mean importance, mask values, size) by block, the slow and plain way."""
    flat = importance.reshape(*importance.shape[:2], -1)
    flat_mask = mask.reshape(flat.shape)
    found = []
    for i in range(0, flat.shape[0], rows):
        for j in range(0, flat.shape[1], columns):
            for tap in range(flat.shape[2]):
                part = np.s_[i : i + rows, j : j + columns, tap]
                found.append((flat[part].mean(), flat_mask[part], flat[part].size))
    return found


@settings(deadline=None)
@given(importances(has_ties=True), sparsities)
def test_elements_reach_exactly_the_target_over_all_layers(
    importance: dict[str, NDArray[Any]], sparsity: float
) -> None:
    masks = find_masks(importance, sparsity)
    total = sum(array.size for array in importance.values())
    # A layer keeps at least one weight.
    assert count_zeros(masks) == min(round(sparsity * total), total - len(importance))
    assert {n: m.shape for n, m in masks.items()} == {n: a.shape for n, a in importance.items()}
    assert all(mask.any() for mask in masks.values())


@settings(deadline=None)
@given(importances(), st.lists(st.integers(1, 50), min_size=3, max_size=3), sparsities)
def test_costs_saved_are_the_most_that_the_ranking_allows_within_the_target(
    importance: dict[str, NDArray[Any]], prices: list[int], sparsity: float
) -> None:
    costs = dict(zip(importance, prices, strict=False))
    masks = find_masks(importance, sparsity, costs=costs)
    cost = np.concatenate([np.full(a.size, costs[name]) for name, a in importance.items()])
    score = np.concatenate([a.ravel() for a in importance.values()])
    keep = np.concatenate([masks[name].ravel() for name in importance])
    best = np.concatenate([(a == a.max()).ravel() for a in importance.values()])
    target = round(sparsity * int(cost.sum()))
    saved = int(cost[~keep].sum())
    assert saved <= target
    left = keep & ~best
    if left.any():
        following = np.flatnonzero(left)[np.argmin(score[left])]
        assert saved + cost[following] > target
        assert (score[~keep] <= score[following]).all()


@settings(deadline=None)
@given(importances(), sparsities)
def test_each_layer_reaches_the_target_by_itself(
    importance: dict[str, NDArray[Any]], sparsity: float
) -> None:
    masks = find_masks(importance, sparsity, is_global=False)
    by_name = find_masks(importance, dict.fromkeys(importance, sparsity))
    for name, array in importance.items():
        zeros = count_zeros({name: masks[name]})
        assert zeros == min(round(sparsity * array.size), array.size - 1)
        np.testing.assert_array_equal(masks[name], by_name[name])


@settings(deadline=None)
@given(importances(), sparsities)
def test_the_most_important_elements_stay(
    importance: dict[str, NDArray[Any]], sparsity: float
) -> None:
    masks = find_masks(importance, sparsity)
    gone = [importance[n][~m] for n, m in masks.items()]
    # The best of each layer stays whatever its rank.
    kept = [np.sort(importance[n][m])[:-1] for n, m in masks.items()]
    if np.concatenate(gone).size and np.concatenate(kept).size:
        assert np.concatenate(gone).max() <= np.concatenate(kept).min()


@settings(deadline=None)
@given(importances(has_ties=True), patterns, sparsities)
def test_of_m_neighbours_at_most_n_stay_and_they_are_the_best(
    importance: dict[str, NDArray[Any]], pattern: NOfM, sparsity: float
) -> None:
    masks = find_masks(importance, sparsity, pattern)
    demanded = 0
    for name, array in importance.items():
        if array.shape[1] % pattern.m:
            assert masks[name].all()
            continue
        for start in range(0, array.shape[1], pattern.m):
            part = masks[name][:, start : start + pattern.m]
            assert part.sum(axis=1).max() <= pattern.n
            demanded += (pattern.m - pattern.n) * part[:, 0].size
            values = array[:, start : start + pattern.m]
            worst_kept = np.where(part, values, np.inf).min(axis=1)
            best_gone = np.where(part, -np.inf, values).max(axis=1)
            assert (worst_kept >= best_gone).all()
    fitting = [a for a in importance.values() if a.shape[1] % pattern.m == 0]
    total = sum(array.size for array in fitting)
    zeros = max(demanded, round(sparsity * total))
    assert count_zeros(masks) == min(zeros, total - len(fitting))


def test_two_of_four_on_full_groups_is_exactly_half() -> None:
    importance = {"conv": np.random.default_rng(0).random((8, 16, 3, 3))}
    masks = find_masks(importance, 0.0, NOfM(2, 4))
    groups = masks["conv"].reshape(8, 4, 4, 3, 3)
    assert (groups.sum(axis=2) == 2).all()


@settings(deadline=None)
@given(importances(), blocks, sparsities)
def test_blocks_go_as_a_whole_least_important_first(
    importance: dict[str, NDArray[Any]], block: Block, sparsity: float
) -> None:
    masks = find_masks(importance, sparsity, block)
    units = [
        sorted(unit_means(array, masks[name], block.filters, block.inputs), key=lambda u: u[0])
        for name, array in importance.items()
    ]
    for layer in units:
        assert all(values.all() or not values.any() for _, values, _ in layer)
        assert layer[-1][1].all()
    gone = [unit[0] for layer in units for unit in layer if not unit[1].any()]
    kept = [unit for layer in units for unit in layer[:-1] if unit[1].all()]
    if gone and kept:
        assert max(gone) <= min(unit[0] for unit in kept) + 1e-6
    total = sum(array.size for array in importance.values())
    zeros, target = count_zeros(masks), round(sparsity * total)
    assert zeros <= target
    if kept:
        # The next unit would not have fitted.
        assert zeros + max(unit[2] for unit in kept) > target


@settings(deadline=None)
@given(importances(), sparsities)
def test_filters_go_as_a_whole(importance: dict[str, NDArray[Any]], sparsity: float) -> None:
    masks = find_masks(importance, sparsity, Filter(), is_global=False)
    for name, mask in masks.items():
        by_filter = mask.reshape(len(mask), -1)
        assert (by_filter.all(axis=1) | ~by_filter.any(axis=1)).all()
        filters = len(mask)
        wanted = round(sparsity * mask.size) // by_filter.shape[1]
        assert filters - by_filter.any(axis=1).sum() == min(wanted, filters - 1)
        means = importance[name].reshape(filters, -1).mean(axis=1)
        if not mask.all():
            assert means[~by_filter.any(axis=1)].max() <= means[by_filter.all(axis=1)].min() + 1e-6


@settings(deadline=None)
@given(importances(), st.sampled_from([Element(), NOfM(), Block(), Filter()]), sparsities)
def test_masks_grow_monotonically_with_completeness(
    importance: dict[str, NDArray[Any]], granularity: PruneGranularity, sparsity: float
) -> None:
    before = find_masks(importance, sparsity, granularity, completeness=0.0)
    assert all(mask.all() for mask in before.values())
    for completeness in (0.3, 0.8, 1.0):
        after = find_masks(importance, sparsity, granularity, completeness=completeness)
        assert all((after[name] <= before[name]).all() for name in importance)
        before = after


def test_one_threshold_prunes_the_unimportant_layer_more() -> None:
    importance = {"weak": np.full((4, 4), 0.1), "strong": np.full((4, 4), 1.0)}
    masks = find_masks(importance, 0.4)
    assert measure_sparsity({"weak": masks["weak"]}) == pytest.approx(13 / 16)
    assert measure_sparsity({"strong": masks["strong"]}) == 0


def test_a_last_block_of_fewer_filters_counts_by_its_mean() -> None:
    importance = {"conv": np.array([[5.0], [5.0], [5.0], [5.0], [1.0], [9.0]])}
    # Blocks {0..3} of mean 5 and {4, 5} of mean 5: equal, the lower index first.
    masks = find_masks(importance, 0.7, Block(4))
    assert masks["conv"].ravel().tolist() == [False] * 4 + [True] * 2


def test_cubic_schedule_is_equation_1() -> None:
    moments = [cubic_sparsity(p, 0.9, begin=0.2, end=0.6) for p in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert moments == pytest.approx([0, 0, 0.9 * (1 - 0.5**3), 0.9, 0.9])


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), sparsities)
def test_sparsity_never_falls(first: float, second: float, final: float) -> None:
    low, high = sorted((first, second))
    rises = [cubic_sparsity(p, final, begin=0.1, end=0.7) for p in (low, high)]
    assert 0 <= rises[0] <= rises[1] <= final


@pytest.mark.parametrize(
    ("importance", "sparsity", "message"),
    [
        (np.ones((2, 2)), 1.0, "out of range"),
        (np.ones((2, 2)), -0.1, "out of range"),
        (np.array([[1.0, np.nan]]), 0.5, "not finite"),
        (np.ones(4), 0.5, "shape"),
    ],
)
def test_wrong_values_are_named(importance: NDArray[Any], sparsity: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        find_masks({"conv": importance}, sparsity)


def test_nothing_gives_nothing() -> None:
    assert find_masks({}, 0.5) == {}
    assert measure_sparsity({}) == 0
