"""Codes and scales of a layer, by what its output needs."""

import numpy as np
import pytest

from camsdk.compress.graph.layers import Layer
from camsdk.compress.options import CodeSet, Granularity, WeightOptions
from camsdk.compress.ptq.coding import first_scale, round_to_output
from camsdk.compress.ptq.rounding import weighted_error

LAYER = Layer("layer", "Conv", "w", "b", (6, 4, 3, 3), 0, 1, "x", "y", 1)


def problem() -> tuple[np.ndarray, np.ndarray]:
    """Weights, one filter of nothing, and second moments of inputs whose columns go together."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=LAYER.shape) * np.exp(rng.normal(size=(6, 1, 1, 1)))
    weights[2] = 0
    inputs = rng.normal(size=(200, 36)) @ (rng.normal(size=(36, 36)) / 6 + 0.3)
    return weights, (inputs.T @ inputs / 200)[np.newaxis]


@pytest.mark.parametrize("granularity", ["filter", "tensor"])
@pytest.mark.parametrize("bits", [3, 7, 8])
def test_a_first_scale_reaches_the_largest_weight_where_codes_are_many(
    bits: int, granularity: Granularity
) -> None:
    weights, _ = problem()
    code_set = CodeSet(bits)
    scale = first_scale(weights, WeightOptions(code_set, granularity))
    largest = np.abs(weights).reshape(6, -1).max(axis=1)
    if granularity == "tensor":
        assert scale.shape == ()
        largest = largest.max()
    else:
        assert scale[2] == 1
        scale, largest = np.delete(scale, 2), np.delete(largest, 2)
    if bits >= 7:
        np.testing.assert_allclose(scale * code_set.largest, largest, rtol=1e-6)
    else:
        assert (scale * code_set.largest < 0.95 * largest).any()


@pytest.mark.parametrize("granularity", ["filter", "tensor"])
def test_each_bit_more_leaves_about_a_quarter_of_the_error(granularity: Granularity) -> None:
    weights, second = problem()
    grouped = weights.reshape(1, 6, -1)
    errors = []
    for bits in (4, 5, 6, 7, 8):
        code_set = CodeSet(bits)
        start = first_scale(weights, WeightOptions(code_set, granularity))
        coded = round_to_output(weights, start, second, LAYER, code_set, is_learned=False)
        assert coded.scale.shape == start.shape
        assert not coded.codes[2].any()
        difference = grouped - coded.values.reshape(grouped.shape)
        errors.append(float(weighted_error(difference, second).sum()))
    ratios = np.divide(errors[1:], errors[:-1])
    assert ((ratios > 0.1) & (ratios < 0.4)).all()
