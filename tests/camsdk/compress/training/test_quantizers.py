"""Fake quantizers: what they compute, and the gradients that the papers give."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from camsdk.compress.options import CodeSet, WeightOptions
from camsdk.compress.training.quantizers import InputQuantizer, WeightQuantizer, sample_of


def quantizer(weight: torch.Tensor, bits: int, scale: float) -> WeightQuantizer:
    made = WeightQuantizer(weight, WeightOptions(CodeSet(bits)))
    with torch.no_grad():
        made.scale.fill_(scale)
    return made


def test_a_range_is_found_from_all_columns_of_a_picture() -> None:
    columns = torch.arange(64.0).expand(4, 16, 64, 64)
    drawn = sample_of(columns)
    assert torch.equal(drawn, sample_of(columns))
    assert len(drawn) < columns.numel() / 8
    assert torch.bincount(drawn.int()).min() > 0.5 * len(drawn) / 64
    assert sorted(sample_of(torch.arange(9.0)).tolist()) == list(range(9))


def test_scale_gradient_is_equation_3_of_lsq() -> None:
    weight = nn.Parameter(torch.tensor([[0.4, -1.2, 2.0, -9.0]]))
    made = quantizer(weight, 3, 1.0)  # codes -3 ... 3
    upstream = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    (made(weight) * upstream).sum().backward()
    # round(v/s) - v/s inside, -3 where clipped; times 1 / sqrt(n Qp), section 2.2
    slope = 1 * (0 - 0.4) + 2 * (-1 + 1.2) + 3 * (2 - 2.0) + 4 * -3
    assert made.scale.grad is not None
    assert weight.grad is not None
    assert math.isclose(float(made.scale.grad), slope / math.sqrt(4 * 3), rel_tol=1e-5)
    assert weight.grad.tolist() == upstream.tolist()


def test_binary_scale_gradient_is_the_exact_derivative() -> None:
    weight = nn.Parameter(torch.tensor([[0.4, -1.2]]))
    made = quantizer(weight, 1, 0.5)
    made(weight)[0, 1].backward()
    assert made.scale.grad is not None
    assert math.isclose(float(made.scale.grad), -1 / math.sqrt(2), rel_tol=1e-6)


def test_pruned_weights_are_zero_and_keep_their_gradient() -> None:
    weight = nn.Parameter(torch.tensor([[0.5, -0.5, 1.5]]))
    made = quantizer(weight, 1, 0.5)
    made.prune(weight.detach(), torch.tensor([[True, False, True]]))
    coded = made(weight)
    assert coded[0, 1] == 0
    assert (coded[0, [0, 2]] != 0).all()
    # mean of the kept over mean of all: 1 / (2.5 / 3)
    assert math.isclose(float(made.scale.detach()), 0.5 * 1.2, rel_tol=1e-6)
    coded.sum().backward()
    assert weight.grad is not None
    assert weight.grad[0, 1] == 1


def test_a_scale_that_an_optimizer_moved_below_zero_comes_back() -> None:
    made = quantizer(torch.ones(1, 4), 2, -0.3)
    made.keep_valid()
    assert (made.scale > 0).all()


@given(st.integers(0, 2**16), st.integers(2, 8), st.booleans())
def test_inputs_are_what_unsigned_integers_with_a_zero_point_give(
    seed: int, bits: int, is_signed: bool
) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 50)).astype(np.float32))
    values = values if is_signed else values.relu()
    made = InputQuantizer(values, bits)
    made.settle()
    low, high, width = made.range()
    assert low <= 0 < high
    assert width == bits
    assert is_signed or low == 0
    count = 2**bits - 1
    scale = (high - low) / count
    zero = round(-low / scale)
    codes = np.clip(np.rint(values.numpy() / float(made.step.detach())) + zero, 0, count)
    np.testing.assert_allclose(made(values).detach(), (codes - zero) * scale, rtol=1e-5, atol=1e-6)


def test_range_gradients_are_those_of_lsq_plus() -> None:
    made = InputQuantizer(torch.tensor([-1.0, 2.0]), 2)
    with torch.no_grad():
        made.step.fill_(1.0)
        made.low.fill_(-1.0)  # codes 0 ... 3 for -1 ... 2
    values = torch.tensor([[0.3, 5.0, -4.0]], requires_grad=True)
    (made(values) * torch.tensor([[1.0, 2.0, 4.0]])).sum().backward()
    factor = 1 / math.sqrt(3 * 3)
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0, 0.0, 0.0]]
    assert made.step.grad is not None
    assert made.low.grad is not None
    assert math.isclose(float(made.step.grad), (-0.3 + 2 * 2 - 4 * 1) * factor, rel_tol=1e-4)
    assert math.isclose(float(made.low.grad), (2 + 4) * factor, rel_tol=1e-5)


def test_a_range_found_from_samples_beats_their_extremes() -> None:
    values = torch.cat([torch.rand(1000), torch.tensor([4.0])])
    made = InputQuantizer(values, 3)
    step = 4 / 7
    extreme = ((values / step).round() * step - values).square().mean()
    assert (made(values[None]) - values).square().mean() < extreme
