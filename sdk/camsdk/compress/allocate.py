"""Bits and sparsity for every layer, so that the whole stays within a budget at the least error.

Every layer has a table of choices, each with an error (how much the outputs change when only this
layer is compressed so) and a cost. Errors and costs are taken to add up over the layers, as in
HAWQ-V3 (arXiv:2011.10680, section 3.4). What remains is a multiple-choice knapsack. Its Lagrangian
relaxation, error + lambda cost, is solved by each layer alone on the lower convex hull of its
table; lambda need not be searched for, since it only matters between the slopes of the hulls: in
the order of the slopes, all layers step down from their cheapest choice until the budget is spent.
What is left over goes to the single changes that save most.

Invariants: never over budget; the error exceeds the relaxation's bound, and so the optimum, by less
than one step.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from camsdk.compress.graph.layers import Layer
from camsdk.compress.latency import FLOAT_BITS as FLOAT_BITS
from camsdk.compress.latency import DeviceProfile
from camsdk.compress.options import (
    MAX_POWER_OF_TWO_BITS,
    Budget,
    CodeSet,
    LayerOptions,
    QuantizeOptions,
    WeightOptions,
)
from camsdk.errors import InvalidInput


@dataclass(frozen=True, order=True)
class LayerChoice:
    """How one layer is compressed.

    Attributes:
        bit_width: Of the weights, 1 to 8; 32 leaves them in float.
        sparsity: Share of zeros, 0 to below 1.
    """

    bit_width: int
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.bit_width <= 8 or self.bit_width == FLOAT_BITS):
            raise InvalidInput(f"{self.bit_width}-bit weights are not to be had", "1 to 8, or 32")
        if not 0 <= self.sparsity < 1:
            raise InvalidInput(f"sparsity {self.sparsity} is out of range", "give 0 to below 1")


@dataclass(frozen=True)
class Trial:
    """What one choice does in one layer.

    Attributes:
        error: Of the model's outputs, 0 or above, in any unit that adds up.
        size_bytes: Of the layer's weights when packed.
    """

    error: float
    size_bytes: float


Sensitivity = Mapping[str, Mapping[LayerChoice, Trial]]
"""By layer name and choice."""


@dataclass(frozen=True)
class Solution:
    """Of a multiple-choice knapsack.

    Attributes:
        choices: By layer.
        error, cost: Their sums.
        bound: No choices within the limit have a smaller error.
    """

    choices: Mapping[str, LayerChoice]
    error: float
    cost: float
    bound: float


Point = tuple[float, float, LayerChoice]
"""Cost, error, choice."""


def allocate(
    layers: Iterable[Layer],
    sensitivity: Sensitivity,
    budget: Budget,
    *,
    profile: DeviceProfile | None = None,
    fixed_bytes: float = 0.0,
) -> Mapping[str, LayerChoice]:
    """The choice for each layer under a budget.

    Args:
        layers: Those to decide; each must be in ``sensitivity``.
        sensitivity: Measured, see ``sensitivity.measure_sensitivity``.
        budget: Non-zero multiply-accumulates, packed bytes, or milliseconds.
        profile: Of the budget's device, for "latency".
        fixed_bytes: What the file holds besides these layers' weights, for "bytes".

    Raises:
        OverBudgetError: The budget cannot be met; says the smallest that can.
        InvalidInput: Something is missing.
    """
    layers = list(layers)
    if missing := [layer.name for layer in layers if not sensitivity.get(layer.name)]:
        raise InvalidInput(
            f"no sensitivity is known of layer {missing[0]}", "measure all layers that are decided"
        )
    cost = _cost_of(budget, sensitivity, profile)
    errors = {
        layer.name: {choice: trial.error for choice, trial in sensitivity[layer.name].items()}
        for layer in layers
    }
    costs = {
        layer.name: {choice: cost(layer, choice) for choice in sensitivity[layer.name]}
        for layer in layers
    }
    limit = budget.limit - (fixed_bytes if budget.kind == "bytes" else 0.0)
    try:
        return solve(errors, costs, limit).choices
    except OverBudgetError as error:
        least = error.least + budget.limit - limit
        is_open = any(len(set(table.values())) > 1 for table in costs.values())
        raise too_little(
            budget, least, "" if is_open else ": all choices of bits and zeros cost the same"
        ) from None


def solve(
    errors: Mapping[str, Mapping[LayerChoice, float]],
    costs: Mapping[str, Mapping[LayerChoice, float]],
    limit: float,
) -> Solution:
    """One choice a layer with the least sum of errors whose costs stay within a limit.

    Args:
        errors, costs: By layer and choice, finite; costs 0 or above.
        limit: Of the sum of costs.

    Raises:
        OverBudgetError: Even the cheapest choices cost more.
    """
    hulls = {
        name: _hull([(costs[name][c], error, c) for c, error in table.items()])
        for name, table in errors.items()
    }
    least = sum(hull[0][0] for hull in hulls.values())
    if least > limit:
        raise OverBudgetError("the limit cannot be met", f"the least is {least:g}", least)
    chosen, bound = _descend(hulls, limit)
    chosen = _spend_rest(chosen, errors, costs, limit)
    return Solution(
        {name: point[2] for name, point in chosen.items()},
        sum(point[1] for point in chosen.values()),
        sum(point[0] for point in chosen.values()),
        bound,
    )


def _descend(hulls: Mapping[str, list[Point]], limit: float) -> tuple[dict[str, Point], float]:
    """From the cheapest points down the hulls, steepest step first, up to the limit.

    Returns:
        A point a layer, and what the relaxation's error is at the least.
    """
    chosen = {name: hull[0] for name, hull in hulls.items()}
    spent = sum(point[0] for point in chosen.values())
    steps = sorted(
        ((b[1] - a[1]) / (b[0] - a[0]), name, index)
        for name, hull in hulls.items()
        for index, (a, b) in enumerate(pairwise(hull), 1)
    )
    bound = sum(point[1] for point in chosen.values())
    for slope, name, index in steps:
        point = hulls[name][index]
        step = point[0] - chosen[name][0]
        if spent + step > limit:
            # The relaxation may take a part of this step, and nothing after it.
            bound += slope * (limit - spent)
            break
        spent += step
        bound += point[1] - chosen[name][1]
        chosen[name] = point
    return chosen, bound


def with_choices(
    options: QuantizeOptions, choices: Mapping[str, LayerChoice]
) -> tuple[QuantizeOptions, dict[str, float]]:
    """Options of quantization with each layer's bits, and the sparsity by layer for pruning."""
    layers = dict(options.layers)
    for name, choice in choices.items():
        if choice.bit_width == FLOAT_BITS:
            layers[name] = LayerOptions(weights=None, activations=None)
            continue
        before = options.of(name)
        weights = before.weights or WeightOptions()
        spacing = weights.code_set.spacing
        if choice.bit_width > MAX_POWER_OF_TWO_BITS:
            spacing = "uniform"
        code_set = CodeSet(choice.bit_width, spacing)
        layers[name] = replace(before, weights=replace(weights, code_set=code_set))
    return replace(options, layers=layers), {n: choice.sparsity for n, choice in choices.items()}


UNITS: Final = {"macs": "non-zero multiply-accumulates", "bytes": "bytes", "latency": "ms"}


class OverBudgetError(InvalidInput):
    """Even the cheapest choices cost more; ``least`` is what they cost."""

    def __init__(self, message: str, hint: str, least: float) -> None:
        super().__init__(message, hint)
        self.least = least


def too_little(budget: Budget, least: float, why: str = "") -> OverBudgetError:
    """The error that names the nearest budget: what the cheapest choices cost."""
    text = str(math.ceil(least)) if budget.kind == "bytes" else rounded_up(least)
    return OverBudgetError(
        f"{budget.limit:.10g} {UNITS[budget.kind]} cannot be reached{why}",
        f"the smallest budget that these choices can meet is {text}",
        least,
    )


def _cost_of(
    budget: Budget, sensitivity: Sensitivity, profile: DeviceProfile | None
) -> Callable[[Layer, LayerChoice], float]:
    if budget.kind == "macs":
        return lambda layer, choice: layer.macs * (1 - choice.sparsity)
    if budget.kind == "bytes":
        return lambda layer, choice: sensitivity[layer.name][choice].size_bytes
    if profile is None or profile.device != budget.device:
        raise InvalidInput(
            f"a latency on {budget.device or 'no device'} needs that device's profile",
            "give the device's name in the budget and its profile",
        )
    known = profile
    return lambda layer, choice: known.predict_ms(layer, choice.bit_width, choice.sparsity)


def _hull(points: Iterable[Point]) -> list[Point]:
    """The lower convex hull: from the cheapest point, errors fall at ever flatter slopes."""
    hull: list[Point] = []
    for point in sorted(points):
        if hull and point[1] >= hull[-1][1]:
            continue
        while len(hull) > 1 and _is_above(hull[-2], hull[-1], point):
            hull.pop()
        if hull and point[0] == hull[-1][0]:
            hull.pop()
        hull.append(point)
    return hull


def _is_above(a: Point, b: Point, c: Point) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def _spend_rest(
    chosen: Mapping[str, Point],
    errors: Mapping[str, Mapping[LayerChoice, float]],
    costs: Mapping[str, Mapping[LayerChoice, float]],
    limit: float,
) -> dict[str, Point]:
    """Single changes that still fit, the one that saves most error first; hull or not."""
    result = dict(chosen)
    while True:
        room = limit - sum(point[0] for point in result.values())
        moves = [
            (error - result[name][1], name, (costs[name][choice], error, choice))
            for name, table in errors.items()
            for choice, error in table.items()
            if error < result[name][1] and costs[name][choice] - result[name][0] <= room
        ]
        if not moves:
            return result
        _, name, point = min(moves)
        trial = result | {name: point}
        if sum(point[0] for point in trial.values()) > limit:
            # Sums of floats: the difference fitted, the sum does not.
            return result
        result = trial


def rounded_up(value: float) -> str:
    """Four digits that are no less than the value."""
    text = f"{value:.4g}"
    return text if float(text) >= value else f"{value * 1.0005:.4g}"
