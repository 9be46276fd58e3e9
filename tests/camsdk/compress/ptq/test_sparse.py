"""Pruning after training: the sparsity asked for, and the others make up for what is gone."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from camsdk.compress.codes import project
from camsdk.compress.graph.layers import Layer, count_macs, list_layers
from camsdk.compress.options import (
    ActivationOptions,
    Block,
    CodeSet,
    Element,
    NOfM,
    PruneGranularity,
    PruneOptions,
    QuantizeOptions,
    WeightOptions,
)
from camsdk.compress.ptq.quantizing import quantize_after_training
from camsdk.compress.ptq.rounding import weighted_error
from camsdk.compress.ptq.sparse import losses, prune_and_round
from camsdk.compress.sparsity import find_masks
from camsdk.errors import InvalidInput
from support.small_detector import small_detector

from .networks import chain, inputs


def layer(filters: int, columns: int) -> Layer:
    shape = (filters, columns)
    return Layer("fc", "Gemm", "w", None, shape, 0, 1, "x", "y", filters * columns)


def problem(seed: int, filters: int = 16, columns: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Weights and second moments of inputs whose columns go together."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(columns, columns)) / np.sqrt(columns) + 0.3
    samples = rng.normal(size=(4 * columns, columns)) @ mixed
    return rng.normal(size=(filters, columns)), (samples.T @ samples / len(samples))[np.newaxis]


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize(
    ("granularity", "sparsity"), [(Element(), 0.7), (NOfM(2, 4), 0.5), (Block(4, 1), 0.75)]
)
def test_the_sparsity_is_reached_in_the_pattern(
    bits: int, granularity: PruneGranularity, sparsity: float
) -> None:
    weights, second = problem(0)
    options = WeightOptions(CodeSet(bits))
    made = prune_and_round(weights, second, layer(16, 64), sparsity, granularity, options)
    assert np.isin(made.codes, [0, *options.code_set.levels]).all()
    assert made.sparsity >= sparsity - 1e-9
    kept = made.codes != 0
    if isinstance(granularity, NOfM):
        assert (kept.reshape(16, -1, 4).sum(axis=2) <= 2).all()
    if isinstance(granularity, Block):
        gone = ~kept.reshape(4, 4, 64)
        assert gone.all(axis=1).mean() >= sparsity - 1e-9


def test_what_stays_makes_up_for_what_goes() -> None:
    """Half of the error of the same sparsity by magnitude, at no more bits."""
    weights, second = problem(1)
    options = WeightOptions(CodeSet(8))
    made = prune_and_round(weights, second, layer(16, 64), 0.6, Element(), options)
    mask = find_masks({"": np.abs(weights)}, 0.6)[""]
    plain = project(weights, options.code_set, "filter", mask)
    ours, theirs = (
        weighted_error((weights - coded.values)[np.newaxis], second).sum()
        for coded in (made, plain)
    )
    assert ours < 0.5 * theirs


def test_the_loss_of_one_weight_is_that_of_the_best_move_of_the_others() -> None:
    weights, second = problem(2, 3, 12)
    damping = 0.01 * np.trace(second[0]) / 12
    damped = second[0] + damping * np.eye(12)
    found = losses(weights[np.newaxis], second)[0]
    for column in (0, 7):
        others = np.delete(np.arange(12), column)
        cross = damped[np.ix_(others, [column])]
        schur = damped[column, column] - cross.T @ np.linalg.solve(
            damped[np.ix_(others, others)], cross
        )
        assert found[:, column] == pytest.approx(weights[:, column] ** 2 * float(schur[0, 0]))


def test_layers_share_the_sparsity_by_what_they_add_to_their_outputs() -> None:
    model = chain(3)
    options = QuantizeOptions(WeightOptions(CodeSet(8)), ActivationOptions(8), rounding="gptq")
    made = quantize_after_training(model, options, inputs(16), prune=PruneOptions(0.6))
    sizes = {x.name: int(np.prod(x.shape)) for x in list_layers(made.model)}
    zeros = sum(made.weights[name].sparsity * size for name, size in sizes.items())
    assert zeros / sum(sizes.values()) == pytest.approx(0.6, abs=0.02)
    assert len({round(coded.sparsity, 2) for coded in made.weights.values()}) > 1
    even = PruneOptions(0.6, is_global=False)
    made = quantize_after_training(model, options, inputs(16), prune=even)
    for name, coded in made.weights.items():
        assert coded.sparsity >= 0.6 - 1 / sizes[name]


def test_a_layer_stays_dense_if_asked_to_or_if_2_of_4_does_not_divide_its_inputs() -> None:
    model = small_detector_model()
    options = QuantizeOptions(WeightOptions(CodeSet(8)), ActivationOptions(8), rounding="gptq")
    dense = PruneOptions(0.7, dense=("conv1",))
    made = quantize_after_training(model, options, prune=dense).weights
    assert made["conv1"].sparsity < 0.1
    others = [made[name] for name in ("conv0", "conv2", "head")]
    zeros = sum(int((coded.codes == 0).sum()) for coded in others)
    assert zeros / sum(coded.codes.size for coded in others) == pytest.approx(0.7, abs=0.02)
    made = quantize_after_training(model, options, prune=PruneOptions(0.5, NOfM())).weights
    assert made["conv0"].sparsity < 0.1  # 3 inputs
    assert all(made[name].sparsity >= 0.5 for name in ("conv1", "conv2", "head"))
    with pytest.raises(InvalidInput, match="nowhere"):
        quantize_after_training(model, options, prune=replace(dense, dense=("nowhere",)))


def test_what_is_saved_may_be_multiply_accumulates() -> None:
    model = small_detector_model()
    options = QuantizeOptions(WeightOptions(CodeSet(8)), ActivationOptions(8), rounding="gptq")
    made = quantize_after_training(model, options, prune=PruneOptions(0.6, saves="macs"))
    macs = count_macs(made.model, made.weights)
    assert 1 - macs.nonzero / macs.total == pytest.approx(0.6, abs=0.03)


def small_detector_model() -> onnx.ModelProto:
    return onnx.load_from_string(small_detector().model)


def test_a_layer_may_have_a_sparsity_of_its_own() -> None:
    model = chain(3)
    first = list_layers(model)[0].name
    options = QuantizeOptions(WeightOptions(CodeSet(8)))
    made = quantize_after_training(
        model, options, inputs(4), prune=PruneOptions(0.0), layer_sparsity={first: 0.75}
    )
    assert made.weights[first].sparsity >= 0.75
    assert all(c.sparsity < 0.3 for name, c in made.weights.items() if name != first)
    with pytest.raises(InvalidInput, match="out of range"):
        quantize_after_training(
            model, options, inputs(4), prune=PruneOptions(0.0), layer_sparsity={first: 1.0}
        )
