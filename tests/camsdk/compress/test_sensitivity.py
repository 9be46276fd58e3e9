"""Errors are those of the compressed layer alone; predicted bytes are those of an ideal coder."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress import sensitivity
from camsdk.compress.allocate import FLOAT_BITS, LayerChoice, Trial
from camsdk.compress.codes import CodedTensor, project
from camsdk.compress.graph.layers import list_layers
from camsdk.compress.options import CodeSet
from camsdk.compress.sensitivity import (
    compress_weights,
    measure_coded_layers,
    measure_sensitivity,
    predict_bytes,
    predict_float_bytes,
)
from camsdk.errors import InvalidInput, RuntimeFailure

RNG = np.random.default_rng(0)
FIRST = RNG.normal(size=(6, 3, 3, 3)).astype(np.float32)
LAST = RNG.normal(size=(6, 5)).astype(np.float32)  # inputs first, as MatMul stores it
VALUES = {"first": FIRST, "last": np.ascontiguousarray(LAST.T)}
INPUTS = [RNG.normal(size=(2, 3, 8, 8)).astype(np.float32) for _ in range(3)]


def model(first: np.ndarray = FIRST, last: np.ndarray = LAST) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("ReduceMean", ["b"], ["c"], "mean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["c", "w2"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(last, "w2")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def forward(first: np.ndarray, last: np.ndarray, x: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    hidden = np.einsum("nchwij,fcij->nfhw", windows, first)
    return np.maximum(hidden, 0).mean(axis=(2, 3)) @ last


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.square(found - expected).mean() / np.square(expected).mean())


@pytest.mark.parametrize("choice", [LayerChoice(2), LayerChoice(3, 0.5), LayerChoice(32, 0.5)])
def test_error_is_of_the_outputs_with_one_layer_compressed(choice: LayerChoice) -> None:
    layers = list_layers(model())
    found = measure_sensitivity(model(), layers, [choice], INPUTS)
    first, size = compress_weights(FIRST, choice)
    expected = np.mean([error(forward(first, LAST, x), forward(FIRST, LAST, x)) for x in INPUTS])
    assert found["first"][choice].error == pytest.approx(expected, rel=1e-3)
    assert found["first"][choice].size_bytes == size
    last = compress_weights(np.ascontiguousarray(LAST.T), choice)[0].T
    expected = np.mean([error(forward(FIRST, last, x), forward(FIRST, LAST, x)) for x in INPUTS])
    assert found["last"][choice].error == pytest.approx(expected, rel=1e-3)


def test_fewer_bits_and_more_zeros_hurt_more_and_take_less() -> None:
    choices = [LayerChoice(8), LayerChoice(4), LayerChoice(2), LayerChoice(2, 0.9)]
    layers = list_layers(model())
    found = measure_sensitivity(model(), layers, choices, INPUTS)
    for table in found.values():
        trials: list[Trial] = [table[choice] for choice in choices]
        assert all(a.error < b.error for a, b in pairwise(trials))
        assert all(a.size_bytes > b.size_bytes for a, b in pairwise(trials))


def test_inputs_unlike_the_data_have_half_a_say() -> None:
    """The other half is the change of the weights, alike in all layers."""
    choices = [LayerChoice(2), LayerChoice(3), LayerChoice(7)]
    layers = list_layers(model())
    measured = measure_sensitivity(model(), layers, choices, INPUTS)
    found = measure_sensitivity(model(), layers, choices, INPUTS, is_unlike_data=True)
    gains, added = [], []
    for name, weights in (("first", FIRST), ("last", np.ascontiguousarray(LAST.T))):
        for choice in choices:
            before, after = measured[name][choice], found[name][choice]
            assert after.size_bytes == before.size_bytes
            changed = np.square(compress_weights(weights, choice)[0] - weights).mean()
            noise = changed / np.square(weights).mean()
            gains.append(before.error / noise)
            added.append((after.error - before.error) / noise)
    assert added == pytest.approx([np.median(gains)] * len(added), rel=1e-3)
    assert max(gains) > 1.1 * min(gains)


def test_float_without_zeros_changes_nothing() -> None:
    choice = LayerChoice(FLOAT_BITS)
    found = measure_sensitivity(
        model(), list_layers(model()), {"first": [choice], "last": []}, INPUTS
    )
    assert found == {"first": {choice: Trial(0.0, 4.0 * FIRST.size)}, "last": {}}


def test_weights_in_a_constant_node_are_found_too() -> None:
    moved = model()
    tensor = moved.graph.initializer.pop()
    moved.graph.node.insert(0, helper.make_node("Constant", [], ["w2"], value=tensor))
    choice = LayerChoice(2)
    layers = list_layers(moved)
    assert measure_sensitivity(moved, layers, [choice], INPUTS) == measure_sensitivity(
        model(), layers, [choice], INPUTS
    )


def test_the_model_stays_as_it_was_and_progress_reaches_one() -> None:
    given = model()
    before = given.SerializeToString()
    seen: list[float] = []
    layers = list_layers(given)
    measure_sensitivity(given, layers, [LayerChoice(4)], INPUTS[:1], on_progress=seen.append)
    assert given.SerializeToString() == before
    assert seen == [0.5, 1.0]


def test_codes_of_one_layer_alone_are_measured() -> None:
    first = project(FIRST, CodeSet(2), "filter")
    last = project(np.ascontiguousarray(LAST.T), CodeSet(3), "filter")
    found = measure_coded_layers(model(), {"first": first, "last": last}, INPUTS, budget_s=60)
    for name, weights in (("first", (first.values, LAST)), ("last", (FIRST, last.values.T))):
        errors = [error(forward(*weights, x), forward(FIRST, LAST, x)) for x in INPUTS]
        assert found[name] == pytest.approx(np.mean(errors), rel=1e-3)
    alone = measure_coded_layers(model(), {"last": last}, INPUTS, budget_s=60)
    assert alone == pytest.approx({"last": found["last"]}, rel=1e-5)


def count_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second passes between two looks at the clock."""
    clock = SimpleNamespace(thread_time=iter(range(100)).__next__)
    monkeypatch.setattr(sensitivity, "time", clock)


def test_when_the_time_is_up_layers_are_left_out_those_that_changed_least_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {
        "first": project(FIRST, CodeSet(8), "filter"),
        "last": project(np.ascontiguousarray(LAST.T), CodeSet(2), "filter"),
    }

    def measured(seconds: float) -> set[str]:
        count_seconds(monkeypatch)
        return set(measure_coded_layers(model(), weights, INPUTS, budget_s=seconds))

    assert measured(0.5) == set()
    assert measured(1.5) == {"last"}
    assert measured(2.5) == {"last", "first"}


def test_an_input_that_not_all_layers_have_seen_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {name: project(values, CodeSet(3), "filter") for name, values in VALUES.items()}
    expected = measure_coded_layers(model(), weights, INPUTS[:1], budget_s=60)
    count_seconds(monkeypatch)
    assert measure_coded_layers(model(), weights, INPUTS, budget_s=3.5) == expected


def test_no_inputs_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no inputs"):
        measure_coded_layers(model(), {}, [], budget_s=1)
    with pytest.raises(InvalidInput, match="calibration"):
        measure_sensitivity(model(), list_layers(model()), [LayerChoice(4)], [])


def test_bytes_are_the_entropy_of_the_codes_and_the_scales() -> None:
    codes = np.array([[0, 0, 0, 0], [1, 1, -1, -1]], np.int8)
    coded = CodedTensor(codes, np.ones(2, np.float32), CodeSet(2))
    # Half zeros, a quarter each of 1 and -1: 1.5 bits a code.
    assert predict_bytes(coded) == pytest.approx(8 * 1.5 / 8 + 2 * 4)
    # Half zeros: one bit each to say which, and 4 floats.
    assert predict_float_bytes(codes.astype(np.float32)) == pytest.approx(8 / 8 + 4 * 4)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_compressed_weights_have_the_zeros_asked_for(bits: int, sparsity: float) -> None:
    values, _ = compress_weights(FIRST, LayerChoice(bits, sparsity))
    assert np.mean(values == 0) >= sparsity - 0.5 / FIRST.size
    smallest_kept = np.abs(FIRST[values != 0]).min()
    assert np.sort(np.abs(FIRST).ravel())[round(sparsity * FIRST.size)] <= smallest_kept


def test_what_the_engine_cannot_do_is_a_failure_of_the_model() -> None:
    layers, misfit = list_layers(model()), [INPUTS[0][..., :-1]]
    with pytest.raises(RuntimeFailure, match=r"cannot be run: .*nvalid dimensions"):
        measure_sensitivity(model(), layers, [LayerChoice(4)], misfit)
    unknown = model()
    unknown.graph.node[1].op_type = "Nonsense"
    with pytest.raises(RuntimeFailure, match=r"cannot be loaded: .*Nonsense"):
        measure_sensitivity(unknown, layers, [LayerChoice(4)], INPUTS)
