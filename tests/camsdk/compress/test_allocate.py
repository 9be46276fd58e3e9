"""Never over budget; as good as brute force but for the gap; what cannot be met says what can."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camsdk.compress.allocate import (
    FLOAT_BITS,
    LayerChoice,
    Trial,
    allocate,
    solve,
    with_choices,
)
from camsdk.compress.graph.layers import Layer
from camsdk.compress.latency import DeviceProfile
from camsdk.compress.options import Budget, CodeSet, QuantizeOptions, WeightOptions
from camsdk.errors import InvalidInput

Table = dict[str, dict[LayerChoice, float]]

CHOICES = [LayerChoice(bits, share) for bits in (2, 4, 8) for share in (0.0, 0.5)]


@st.composite
def instances(draw: st.DrawFn) -> tuple[Table, Table, float]:
    """Up to 4 layers of up to 6 choices, and a limit from too little to more than enough."""
    errors: Table = {}
    costs: Table = {}
    number = st.floats(0, 100, allow_subnormal=False)
    for index in range(draw(st.integers(1, 4))):
        choices = draw(st.lists(st.sampled_from(CHOICES), min_size=1, unique=True))
        errors[f"l{index}"] = {choice: draw(number) for choice in choices}
        costs[f"l{index}"] = {choice: draw(number) for choice in choices}
    most = sum(max(table.values()) for table in costs.values())
    return errors, costs, draw(st.floats(0, 1)) * most


def brute_force(errors: Table, costs: Table, limit: float) -> float:
    """The least error within the limit, by trying everything; infinite if nothing fits."""
    best = math.inf
    for combination in itertools.product(*(table.items() for table in errors.values())):
        spent = sum(
            costs[name][choice] for name, (choice, _) in zip(errors, combination, strict=True)
        )
        if spent <= limit:
            best = min(best, sum(error for _, error in combination))
    return best


@settings(deadline=None)
@given(instances())
def test_within_budget_and_within_one_step_of_the_optimum(
    instance: tuple[Table, Table, float],
) -> None:
    errors, costs, limit = instance
    optimum = brute_force(errors, costs, limit)
    if math.isinf(optimum):
        with pytest.raises(InvalidInput):
            solve(errors, costs, limit)
        return
    solution = solve(errors, costs, limit)
    chosen = solution.choices
    assert sum(costs[name][chosen[name]] for name in errors) <= limit
    assert solution.error == pytest.approx(sum(errors[name][chosen[name]] for name in errors))
    slack = 1e-6 * (1 + abs(optimum))
    assert solution.bound <= optimum + slack
    assert optimum <= solution.error + slack
    step = max(max(table.values()) - min(table.values()) for table in errors.values())
    assert solution.error <= solution.bound + step + slack


@settings(deadline=None)
@given(instances())
def test_with_room_for_everything_every_layer_gets_its_best(
    instance: tuple[Table, Table, float],
) -> None:
    errors, costs, _ = instance
    solution = solve(errors, costs, 1000.0)
    assert solution.error == pytest.approx(sum(min(table.values()) for table in errors.values()))


def test_more_budget_never_hurts_on_a_convex_table() -> None:
    table = {LayerChoice(bits): 100 / 4**bits for bits in range(1, 9)}
    costs = {LayerChoice(bits): float(bits) for bits in range(1, 9)}
    errors = {"a": table, "b": {choice: 10 * error for choice, error in table.items()}}
    found = [solve(errors, {"a": costs, "b": costs}, limit) for limit in range(2, 17)]
    assert all(a.error >= b.error for a, b in itertools.pairwise(found))
    # On convex tables of equal steps the greedy solution is the optimum.
    for limit, solution in enumerate(found, 2):
        assert solution.error == pytest.approx(brute_force(errors, {"a": costs, "b": costs}, limit))
    # The more sensitive layer gets more bits.
    assert found[4].choices["b"].bit_width > found[4].choices["a"].bit_width


def layer(name: str, macs: int = 1000) -> Layer:
    return Layer(name, "Conv", "w", None, (4, 4, 3, 3), 0, 1, "x", "y", macs)


SENSITIVITY = {
    name: {
        LayerChoice(8): Trial(0.1 * scale, 144),
        LayerChoice(2): Trial(1.0 * scale, 36),
        LayerChoice(2, 0.5): Trial(2.0 * scale, 20),
    }
    for name, scale in (("calm", 1.0), ("nervous", 10.0))
}
LAYERS = [layer("calm"), layer("nervous")]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget("bytes", 180), {"calm": LayerChoice(2), "nervous": LayerChoice(8)}),
        (Budget("bytes", 56), {"calm": LayerChoice(2, 0.5), "nervous": LayerChoice(2)}),
        (Budget("macs", 1500), {"calm": LayerChoice(2, 0.5), "nervous": LayerChoice(8)}),
        (Budget("latency", 1.5, "fpga"), {"calm": LayerChoice(2), "nervous": LayerChoice(8)}),
    ],
)
def test_each_kind_of_budget_counts_its_own_cost(
    budget: Budget, expected: dict[str, LayerChoice]
) -> None:
    profile = DeviceProfile("fpga", "model", ns_per_mac={"Conv": {2: 500.0, 8: 1000.0}})
    assert dict(allocate(LAYERS, SENSITIVITY, budget, profile=profile)) == expected


def test_what_the_file_holds_besides_counts() -> None:
    choices = allocate(LAYERS, SENSITIVITY, Budget("bytes", 180 + 30), fixed_bytes=30)
    assert choices == allocate(LAYERS, SENSITIVITY, Budget("bytes", 180))


def test_a_budget_that_cannot_be_met_says_the_smallest() -> None:
    with pytest.raises(InvalidInput, match=r"39 bytes cannot be reached.*is 40"):
        allocate(LAYERS, SENSITIVITY, Budget("bytes", 39))
    with pytest.raises(InvalidInput, match="is 1070"):
        allocate(LAYERS, SENSITIVITY, Budget("bytes", 39), fixed_bytes=1030)


@settings(deadline=None)
@given(st.floats(0.001, 1e9))
def test_the_smallest_budget_named_can_be_met(cost: float) -> None:
    sensitivity = {"calm": {LayerChoice(8): Trial(0.0, cost)}}
    with pytest.raises(InvalidInput) as raised:
        allocate(LAYERS[:1], sensitivity, Budget("bytes", cost / 2))
    smallest = float(raised.value.hint.rsplit(" ", 1)[1])
    assert allocate(LAYERS[:1], sensitivity, Budget("bytes", smallest))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidInput, match="layer other"):
        allocate([layer("other")], SENSITIVITY, Budget("bytes", 100))
    with pytest.raises(InvalidInput, match="profile"):
        allocate(LAYERS, SENSITIVITY, Budget("latency", 1.0, "fpga"))
    with pytest.raises(InvalidInput, match="9-bit"):
        LayerChoice(9)


def test_choices_become_options() -> None:
    options = QuantizeOptions(WeightOptions(CodeSet(3, "power-of-two"), "tensor"))
    result, sparsity = with_choices(
        options, {"a": LayerChoice(2, 0.5), "b": LayerChoice(8), "c": LayerChoice(FLOAT_BITS)}
    )
    first, second = result.of("a").weights, result.of("b").weights
    assert first == WeightOptions(CodeSet(2, "power-of-two"), "tensor")
    assert second == WeightOptions(CodeSet(8), "tensor")
    assert result.of("c").weights is None
    assert result.of("d") == options.of("d")
    assert sparsity == {"a": 0.5, "b": 0.0, "c": 0.0}
