"""The projection in torch against the one in numpy."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from camsdk.compress.codes import nearest, project
from camsdk.compress.options import CodeSet, Granularity
from camsdk.compress.training.projection import nearest_codes, project_scale, project_weight

CODE_SETS = st.sampled_from(
    [CodeSet(bits) for bits in range(1, 9)] + [CodeSet(bits, "power-of-two") for bits in (3, 4)]
)
WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=5),
    elements=st.floats(-4, 4, width=32),
)
F32 = NDArray[np.float32]


@given(WEIGHTS, CODE_SETS)
def test_codes_are_those_of_numpy(scaled: F32, code_set: CodeSet) -> None:
    expected = nearest(scaled, np.ones(1), code_set)
    np.testing.assert_array_equal(nearest_codes(torch.from_numpy(scaled), code_set), expected)


@settings(deadline=None)
@given(
    st.integers(0, 2**16),
    CODE_SETS,
    st.sampled_from(("filter", "tensor")),
    st.booleans(),
)
def test_error_is_about_that_of_the_exact_projection(
    seed: int, code_set: CodeSet, granularity: Granularity, is_masked: bool
) -> None:
    random = np.random.default_rng(seed)
    weights = random.laplace(size=(3, 4, 3, 3)).astype(np.float32)
    mask = random.random(weights.shape) < 0.5 if is_masked else None
    exact = project(weights, code_set, granularity, mask).values
    kept = None if mask is None else torch.from_numpy(mask)
    tensor = torch.from_numpy(weights)
    scale = project_scale(tensor, code_set, granularity, kept)
    made = project_weight(tensor, scale, code_set, kept).numpy()
    wanted = weights if mask is None else weights * mask
    least = np.square(exact - wanted).sum()
    assert np.square(made - wanted).sum() <= least * 1.1 + 1e-6
    if mask is not None:
        assert not made[~mask].any()


@given(st.integers(0, 2**16), CODE_SETS)
def test_a_warm_start_never_raises_the_error(seed: int, code_set: CodeSet) -> None:
    weights = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 20)).astype(np.float32))
    start = torch.tensor([0.3, 0.7])
    before = (project_weight(weights, start, code_set) - weights).square().sum(dim=1)
    scale = project_scale(weights, code_set, start=start)
    after = (project_weight(weights, scale, code_set) - weights).square().sum(dim=1)
    assert (after <= before * 1.0001).all()


def test_a_filter_without_weights_has_scale_1() -> None:
    scale = project_scale(torch.tensor([[0.0, 0.0], [1.0, -1.0]]), CodeSet(2))
    assert scale.tolist() == [1.0, 1.0]
