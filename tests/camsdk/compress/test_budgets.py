"""What is made within a budget, where only making it tells what it costs."""

import math
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.hardware import local_hardware
from camsdk.compress.allocate import FLOAT_BITS, OverBudgetError
from camsdk.compress.budgets import Allotment, Allotter, inputs_to_measure, meet
from camsdk.compress.graph.layers import list_layers
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.options import (
    Budget,
    Element,
    LayerOptions,
    NOfM,
    PruneGranularity,
    PruneOptions,
    QuantizeOptions,
)
from camsdk.compress.pack_model import pack_model
from camsdk.compress.ptq.quantizing import quantize_after_training

LEAST = 100.0
SIZE = 12
FACTORS = {"a": 0.05, "b": 1.0}
"""Of the weights of two layers."""
Parts = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def conv(name: str, source: str, weights: np.ndarray, norm: dict[str, float]) -> Parts:
    """A convolution with BatchNorm behind it: nodes and initializers; its output is ``name``."""
    filters = len(weights)
    usual = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": 1.0}
    values = {key: np.full(filters, value) for key, value in (usual | norm).items()}
    parameters = {f"{name}.weight": weights} | {f"{name}.{key}": v for key, v in values.items()}
    nodes = [
        helper.make_node("Conv", [source, f"{name}.weight"], [f"{name}.c"], name, pads=[1] * 4),
        helper.make_node(
            "BatchNormalization", [f"{name}.c", *list(parameters)[1:]], [name], f"{name}.norm"
        ),
    ]
    stored = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in parameters.items()]
    return nodes, stored


def network(
    nodes: Sequence[onnx.NodeProto], stored: Sequence[onnx.TensorProto], channels: int
) -> onnx.ModelProto:
    """From ``x`` of three channels to ``y``."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, count, SIZE, SIZE))
        for name, count in (("x", 3), ("y", channels))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def widths(allotment: Allotment) -> dict[str, int]:
    """Bits by layer name."""
    layers = allotment.quantize.layers.items()
    return {n: of.weights.code_set.bit_width for n, of in layers if of.weights is not None}


def allotter(
    model: onnx.ModelProto,
    budget: Budget,
    *,
    quantize: QuantizeOptions = QuantizeOptions(),  # noqa: B008 - a frozen value
    granularity: PruneGranularity = Element(),  # noqa: B008 - a frozen value
    is_synthetic: bool = False,
) -> Allotter:
    rng = np.random.default_rng(3)
    inputs = [rng.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32) for _ in range(2)]
    prune = PruneOptions(0.0, granularity)
    return Allotter(model, budget, quantize, prune, inputs, is_synthetic=is_synthetic)


def six_layers(bits: int) -> onnx.ModelProto:
    rng = np.random.default_rng(bits)
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    source, channels = "x", 3
    for index in range(6):
        weights = rng.normal(size=(32, channels, 3, 3)) * math.sqrt(2 / (9 * channels))
        made = conv(f"layer{index}", source, weights, {"beta": 0.1 * index})
        nodes += [
            *made[0],
            helper.make_node("Relu", [f"layer{index}"], [f"r{index}"], f"relu{index}"),
        ]
        stored, source, channels = stored + made[1], f"r{index}", 32
    nodes[-1].output[0] = "y"
    return network(nodes, stored, 32)


def test_layers_may_stay_in_float_within_a_budget_of_bytes() -> None:
    model, limit = six_layers(4), 1e9
    mixed = allotter(model, Budget("bytes", limit, bit_widths=(4, FLOAT_BITS), sparsities=(0.0,)))
    coded = allotter(model, Budget("bytes", limit, bit_widths=(4,), sparsities=(0.0,)))
    assert mixed.least() == coded.least()
    assert mixed.allot(limit).quantize.of("layer3").weights is None


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_what_is_predicted_is_what_is_packed(bits: int) -> None:
    """BatchNorm is not in the file; scales of activations and biases, and tables of codes, are."""
    model = six_layers(bits)
    # Other choices are there, which the cheapest or the dearest of all layers are not.
    choices = (bits, 7) if bits < 7 else (2, 7)
    of = allotter(model, Budget("bytes", 1e9, bit_widths=choices, sparsities=(0.0,)))
    if bits < 7:
        limit = of.least()
    else:
        only = Budget("bytes", 1e9, bit_widths=(7,), sparsities=(0.0,))
        limit = allotter(model, only).least()
    allotment = of.allot(limit)
    assert set(widths(allotment).values()) == {bits}
    ptq = quantize_after_training(model, allotment.quantize)
    content = emit_qdq(ptq.model, ptq.weights, ptq.activations).SerializeToString()
    assert len(pack_model(content)) == pytest.approx(limit, rel=0.02)


def test_layers_before_a_batchnorm_have_times_in_float() -> None:
    kept = QuantizeOptions(layers={"layer2": LayerOptions(None, None)})
    of = allotter(six_layers(4), Budget("latency", 1e9, local_hardware()), quantize=kept)
    assert of.profile is not None
    times = of.profile.ms_by_layer
    assert {name: set(row) for name, row in times.items()} == {
        f"layer{index}": {8, FLOAT_BITS} for index in range(6)
    }
    assert of.allot(1e9).quantize.of("layer2").weights is None


def test_what_a_pattern_does_not_suit_stays_dense_and_counts_so() -> None:
    """Three inputs are no groups of four; 32 are."""
    model = six_layers(4)
    of = allotter(model, Budget("macs", 1e9, bit_widths=(7,)), granularity=NOfM())
    first, *others = [layer.macs for layer in list_layers(model)]
    assert of.least() == pytest.approx(first + sum(others) / 2)
    found = of.allot(of.least())
    assert found.layer_sparsity == {f"layer{index}": 0.5 for index in range(1, 6)}
    assert found.prune is not None
    made = quantize_after_training(
        model, found.quantize, prune=found.prune, layer_sparsity=found.layer_sparsity
    )
    zeros = {name: float(np.mean(coded.codes == 0)) for name, coded in made.weights.items()}
    assert {name for name, share in zeros.items() if share >= 0.5} == set(found.layer_sparsity)


def test_made_up_inputs_weigh_layers_as_the_training_data_did() -> None:
    """On the training data b says more than a; on what is made up, far less."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(16, 3, 3, 3))
    first, second = (
        conv("a", "x", weights, {"variance": 27.0}),
        conv("b", "x", weights, {"variance": 2700.0, "gamma": 3.0}),
    )
    total = helper.make_node("Add", ["a", "b"], ["y"], "sum")
    model = network([*first[0], *second[0], total], first[1] + second[1], 16)
    budget = Budget("bytes", 1e9, bit_widths=(2, 6), sparsities=(0.0,))

    def better(*, is_synthetic: bool) -> set[str]:
        of = allotter(model, budget, is_synthetic=is_synthetic)
        limits = np.arange(of.least(), of.least() + 2000, 20.0)
        found = (
            {n for n, bits in widths(of.allot(limit)).items() if bits == 6} for limit in limits
        )
        return next(names for names in found if names)

    assert better(is_synthetic=True) == {"b"}
    assert better(is_synthetic=False) == {"a"}  # what is real counts as it is


def test_what_made_up_inputs_hardly_move_is_not_given_away() -> None:
    """Without statistics nobody knows whether the data moves it."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", f"w{name}"], [name], name, pads=[1] * 4) for name in "ab"
    ]
    stored = [numpy_helper.from_array(weights * np.float32(f), f"w{n}") for n, f in FACTORS.items()]
    model = network([*nodes, helper.make_node("Add", ["a", "b"], ["y"], "sum")], stored, 16)
    budget = Budget("bytes", 1e9, bit_widths=(2, 3, 6), sparsities=(0.0,))

    def found(*, is_synthetic: bool) -> list[dict[str, int]]:
        of = allotter(model, budget, is_synthetic=is_synthetic)
        limits = np.arange(of.least(), of.least() + 500, 10.0)
        return [widths(of.allot(limit)) for limit in limits]

    assert {"a": 3, "b": 3} in found(is_synthetic=True)
    assert {"a": 2, "b": 6} in found(is_synthetic=False)
    assert {"a": 2, "b": 6} not in found(is_synthetic=True)


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


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 3, 64, 64), 16), ((1, 3, 224, 224), 6), ((1, 3, 320, 416), 4)]
)
def test_small_inputs_are_many(shape: tuple[int, ...], count: int) -> None:
    assert inputs_to_measure(shape) == count
