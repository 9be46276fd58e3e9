"""From a float model to codes and ranges, with inputs and without."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from camsdk.compress.graph.layers import list_layers
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.options import (
    ActivationOptions,
    CodeSet,
    Granularity,
    LayerOptions,
    QuantizeOptions,
    RangeRule,
    Rounding,
    WeightOptions,
)
from camsdk.compress.ptq.folding import doubles, prepare, weights_of, write
from camsdk.compress.ptq.probing import probe
from camsdk.compress.ptq.quantized import Ptq
from camsdk.compress.ptq.quantizing import quantize_after_training
from camsdk.compress.ptq.rounding import towards
from camsdk.compress.ptq.synthetic import Synthesis, synthesise
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput, UnsupportedModel

from .networks import SHAPE, chain, inputs, normalised

FEW = Synthesis(count=4)


def options(bits: int = 8, rounding: Rounding = "nearest", **changes: object) -> QuantizeOptions:
    given = {
        "weights": WeightOptions(CodeSet(bits)),
        "activations": ActivationOptions(8, "extreme"),  # which clips nothing
        "rounding": rounding,
        **changes,
    }
    return QuantizeOptions(**given)  # type: ignore[arg-type] # of the test's own making


def error(model: onnx.ModelProto, quantized: Ptq) -> float:
    """Root of the mean squared error of the QDQ file's outputs, over that of float outputs."""
    emitted = emit_qdq(quantized.model, quantized.weights, quantized.activations)
    exact, coarse = Session(model.SerializeToString()), Session(emitted.SerializeToString())
    tensors = inputs(20, seed=99)
    expected = np.stack([exact.infer(tensor)["y"] for tensor in tensors])
    found = np.stack([coarse.infer(tensor)["y"] for tensor in tensors])
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.var(expected)))


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Clip"])
@pytest.mark.parametrize("granularity", ["filter", "tensor"])
def test_8_bits_hardly_change_outputs(activation: str, granularity: Granularity) -> None:
    model = chain(activation=activation, spread=1.5)
    wanted = options(weights=WeightOptions(CodeSet(8), granularity))
    assert error(model, quantize_after_training(model, wanted, inputs(16))) < 0.12


def test_equalization_saves_one_scale_a_tensor() -> None:
    model = chain(spread=3)
    weights = WeightOptions(CodeSet(4), "tensor")
    with_it, without = (
        error(
            model,
            quantize_after_training(model, options(weights=weights, equalize=on), inputs(16)),
        )
        for on in (True, False)
    )
    assert with_it < 0.7 * without


def test_gptq_gives_closer_outputs_than_nearest() -> None:
    ratios = []
    for seed in range(4):
        model = chain(seed)
        near = error(model, quantize_after_training(model, options(3), inputs(32)))
        gptq = error(model, quantize_after_training(model, options(3, "gptq"), inputs(32)))
        ratios.append(gptq / near)
    assert np.exp(np.mean(np.log(ratios))) < 0.9


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaround"])
def test_bias_correction_leaves_no_mean_error(rounding: Rounding) -> None:
    """On the inputs that it was measured on, in float: ranges come after it."""
    model, tensors = chain(), inputs(12)
    means = []
    for is_corrected in (True, False):
        wanted = options(2, rounding, correct_bias=is_corrected)
        quantized = quantize_after_training(model, wanted, tensors)
        coarse = prepare(quantized.model).model
        for layer in list_layers(coarse):
            values = layer.as_stored(quantized.weights[layer.name].values)
            write(coarse, {layer.weight: values})
        exact, session = Session(model.SerializeToString()), Session(coarse.SerializeToString())
        difference = [session.infer(t)["y"] - exact.infer(t)["y"] for t in tensors]
        means.append(float(np.abs(np.mean(difference, axis=0)).max()))
    assert means[0] < 1e-4 < 0.05 < means[1]


def test_without_data_ranges_are_those_that_batchnorm_promises() -> None:
    model = normalised()
    quantized = quantize_after_training(model, options(equalize=False), None, synthesis=FEW)
    assert quantized.report.is_synthetic
    assert quantized.report.has_statistics
    for number, tensor in (("1", "n1"), ("2", "y")):
        mean, std = doubles(model, f"beta{number}"), np.abs(doubles(model, f"gamma{number}"))
        found = quantized.activations[tensor]
        assert (mean + std).max() < found.high < (mean + 9 * std).max()
        assert (mean - std).min() > found.low > (mean - 9 * std).min()


def test_filters_that_batchnorm_never_saw_change_become_constant() -> None:
    model = normalised()
    variance = doubles(model, "var1")
    variance[[2, 5]] = 1e-12
    still = np.zeros((8, 3, 3, 3))  # what such a filter gets is nearly nothing; its weights stay
    weights = doubles(model, "w1")
    still[[2, 5]] = weights[[2, 5]] * 1e-7
    weights[[2, 5]] = still[[2, 5]]
    write(model, {"var1": variance, "w1": weights})
    prepared = prepare(model)
    assert set(np.flatnonzero(prepared.normalised["first"].std == 0)) == {2, 5}
    folded = weights_of(prepared.model, list_layers(prepared.model))["first"]
    assert not folded[[2, 5]].any()
    assert folded[[0, 1, 3, 4, 6, 7]].any(axis=(1, 2, 3)).all()
    tensor = inputs(1)[0]
    found = next(probe(prepared.model, ["n1"], [tensor]))["n1"]
    np.testing.assert_allclose(found[0, 2], doubles(model, "beta1")[2], rtol=1e-5)


def test_a_small_variance_keeps_its_true_spread() -> None:
    """Epsilon is larger than the variance, so the output does not reach gamma."""
    model = normalised()
    write(model, {"var1": np.full(8, 1e-5)})  # as large as epsilon
    std = prepare(model).normalised["first"].std
    np.testing.assert_allclose(std, np.abs(doubles(model, "gamma1")) / np.sqrt(2), rtol=1e-4)


def test_a_still_filter_does_not_spoil_one_scale_a_tensor() -> None:
    model = normalised()
    variance = doubles(model, "var1")
    variance[0] = 0
    write(model, {"var1": variance})
    wanted = options(weights=WeightOptions(CodeSet(4), "tensor"), equalize=False)
    quantized = quantize_after_training(model, wanted, None, synthesis=FEW)
    codes = quantized.weights["second"].codes
    assert np.mean(quantized.weights["first"].codes[1:] != 0) > 0.5
    assert codes.any()


def test_folding_keeps_the_function_and_the_statistics() -> None:
    model = normalised()
    prepared = prepare(model)
    assert "BatchNormalization" not in {node.op_type for node in prepared.model.graph.node}
    for tensor in inputs(3):
        np.testing.assert_allclose(
            Session(prepared.model.SerializeToString()).infer(tensor)["y"],
            Session(model.SerializeToString()).infer(tensor)["y"],
            rtol=1e-3,
            atol=1e-4,
        )
    np.testing.assert_allclose(prepared.normalised["first"].mean, doubles(model, "beta1"))
    np.testing.assert_allclose(
        prepared.normalised["first"].std, np.abs(doubles(model, "gamma1")), rtol=1e-4
    )


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaround"])
def test_the_same_seed_gives_the_same_bytes(calibrated: bool, rounding: Rounding) -> None:
    first, second = (
        quantize_after_training(
            normalised(),
            options(4, rounding),
            inputs(5) if calibrated else None,
            seed=7,
            synthesis=FEW,
        )
        for _ in range(2)
    )
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert first.activations == second.activations
    for name, coded in first.weights.items():
        np.testing.assert_array_equal(coded.codes, second.weights[name].codes)


def test_layers_can_differ_and_stay_in_float() -> None:
    wanted = options(
        3,
        activations=ActivationOptions(4),
        layers={
            "first": LayerOptions(WeightOptions(CodeSet(8)), ActivationOptions(8)),
            "point": LayerOptions(None, None),
        },
    )
    quantized = quantize_after_training(chain(), wanted, inputs(4))
    assert quantized.weights["first"].code_set.bit_width == 8
    assert quantized.weights["deep"].code_set.bit_width == 3
    assert "point" not in quantized.weights
    assert quantized.activations["x"].bit_width == 8
    assert quantized.activations["r1"].bit_width == 4
    assert "r2" not in quantized.activations
    with pytest.raises(InvalidInput, match="no layer nobody"):
        quantize_after_training(chain(), options(layers={"nobody": LayerOptions()}), inputs(1))


def test_inputs_are_taken_once_and_without_a_batch_axis_too() -> None:
    def once() -> Iterator[np.ndarray]:
        yield from (tensor[0].astype(np.float64) for tensor in inputs(3))

    steps: list[tuple[int, int]] = []
    quantized = quantize_after_training(
        chain(), options(), once(), on_progress=lambda done, total: steps.append((done, total))
    )
    assert quantized.report.inputs == 3
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "no input to calibrate on"),
        ([np.zeros(SHAPE), np.full(SHAPE, np.nan)], "input 2 holds NaN"),
        ([np.full(SHAPE, np.inf)], "input 1 holds NaN or infinity"),
        ([np.zeros((1, 3, 12, 13))], "has shape"),
    ],
)
def test_bad_inputs_are_named(tensors: list[np.ndarray], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        quantize_after_training(chain(), options(), tensors)


def test_an_open_input_shape_is_refused() -> None:
    model = chain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    with pytest.raises(UnsupportedModel, match="fixed shape"):
        quantize_after_training(model, options(), inputs(1))


def test_a_damaged_model_is_not_calibrated() -> None:
    model = chain()
    write(model, {"w2": np.full((8, 1, 3, 3), np.nan, np.float32)})
    with pytest.raises(InvalidInput, match=r"NaN|no finite"):
        quantize_after_training(model, options(), inputs(1))


def test_a_layer_named_by_its_end_alone_is_told_in_full() -> None:
    names = [layer.name for layer in list_layers(chain())]
    end = names[0][1:]
    with pytest.raises(InvalidInput) as error:
        quantize_after_training(chain(), options(layers={end: LayerOptions()}), inputs(1))
    assert names[0] in str(error.value.hint)


@pytest.mark.parametrize(
    ("model", "has_data", "is_aimed"),
    [(chain(), False, False), (chain(), True, True), (normalised(), False, True)],
)
def test_only_what_is_tied_to_the_model_tells_what_earlier_layers_got_wrong(
    model: onnx.ModelProto, has_data: bool, is_aimed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    aimed = []

    def note(weights: np.ndarray, second: np.ndarray, cross: np.ndarray) -> np.ndarray:
        aimed.append(weights.shape)
        return towards(weights, second, cross)

    monkeypatch.setattr("camsdk.compress.ptq.quantizing.towards", note)
    coarse = LayerOptions(WeightOptions(CodeSet(4)))  # edges would get 7 bits, unless named
    layers = {layer.name: coarse for layer in list_layers(model)}
    wanted = QuantizeOptions(layers=layers, rounding="gptq")
    quantize_after_training(model, wanted, inputs(4) if has_data else None)
    assert bool(aimed) is is_aimed


@pytest.mark.parametrize(("bits", "is_wild", "better"), [(2, False, "mse"), (8, True, "extreme")])
def test_the_best_ranges_are_those_that_leave_outputs_nearest(
    bits: int, is_wild: bool, better: RangeRule
) -> None:
    model, tensors = chain(), inputs(16)
    if is_wild:
        tensors = [tensor * (1 + 20 * (at % 2)) for at, tensor in enumerate(tensors)]

    def quantized(rule: RangeRule) -> Ptq:
        wanted = options(activations=ActivationOptions(bits, rule))
        return quantize_after_training(model, wanted, tensors)

    by_rule: dict[RangeRule, Ptq] = {"extreme": quantized("extreme"), "mse": quantized("mse")}
    assert by_rule["extreme"].activations != by_rule["mse"].activations
    assert {of.report.best_range_rule for of in by_rule.values()} == {None}
    best = quantized("best")
    assert best.activations == by_rule[better].activations
    assert best.report.best_range_rule == better


def test_made_up_inputs_leave_room_for_scores_and_for_pooled_features() -> None:
    """Softmax keeps its bounds, maps the range that was seen."""
    model = chain()
    model.graph.node.append(onnx.helper.make_node("Softmax", ["y"], ["p"], name="soft"))
    model.graph.output[0].name = "p"
    wanted = options(activations=ActivationOptions(8, "extreme"))
    made = quantize_after_training(model, wanted, synthesis=FEW)
    tensors = synthesise(SHAPE, FEW.count_for(SHAPE), 0, FEW.mean, FEW.std)
    seen = list(probe(made.model, ["y", "g", "r1", "p"], tensors))
    for name, factor in (("y", 3.0), ("g", 3.0), ("r1", 1.0), ("p", 1.0)):
        highest = max(float(found[name].max()) for found in seen)
        assert made.activations[name].high == pytest.approx(factor * max(0.0, highest), rel=0.1)


@pytest.mark.parametrize(("bits", "is_corrected"), [(8, False), (4, True)])
def test_made_up_inputs_correct_biases_only_of_what_is_coarsely_rounded(
    bits: int, is_corrected: bool
) -> None:
    model = chain()
    wanted = options(bits, "gptq")
    corrected = quantize_after_training(model, wanted, synthesis=FEW).model
    wanted = options(bits, "gptq", correct_bias=False)
    plain = quantize_after_training(model, wanted, synthesis=FEW).model
    assert (corrected != plain) == is_corrected
