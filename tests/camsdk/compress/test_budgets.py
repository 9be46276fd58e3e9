"""What is made within a budget, where only making it tells what it costs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camsdk.compress.allocate import OverBudgetError
from camsdk.compress.budgets import meet
from camsdk.compress.options import Budget

LEAST = 100.0


@given(
    limit=st.integers(50, 2000),
    base=st.integers(0, 400),
    slope=st.floats(0.2, 1.5),
    step=st.integers(1, 300),
)
def test_a_budget_is_met_whenever_the_cheapest_choices_meet_it(
    limit: int, base: int, slope: float, step: int
) -> None:
    """Costs rise with what is allowed, in steps, from a base that no estimate knew of."""
    asked: list[float] = []
    costs: list[float] = []

    def make(allowed: float) -> tuple[float, float]:
        asked.append(allowed)
        costs.append(base + slope * step * math.floor(allowed / step))
        return costs[-1], costs[-1]

    cheapest = base + slope * step * math.floor(LEAST / step)
    if cheapest <= limit:
        assert meet(Budget("bytes", limit), LEAST, make) <= limit
    else:
        with pytest.raises(OverBudgetError, match="cannot be reached") as caught:
            meet(Budget("bytes", limit), LEAST, make)
        assert caught.value.least == min(costs) == cheapest
        assert caught.value.hint.split()[-1] == str(math.ceil(cheapest))
    assert min(asked) >= LEAST
    assert len(asked) <= 8


def test_what_fits_is_found_though_small_steps_lead_nowhere() -> None:
    """The cost stays where it is until much less is allowed."""

    def make(allowed: float) -> tuple[float, float]:
        cost = 1005.0 if allowed > 700 else 0.95 * allowed + 100
        return cost, cost

    assert 0.7 * 1000 < meet(Budget("bytes", 1000), LEAST, make) <= 1000
