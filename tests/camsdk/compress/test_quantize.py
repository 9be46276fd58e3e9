"""Quantization keeps the numbers close, the bytes equal and its promises about saturation."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.onnx_check import check_model
from camsdk.compress.quantize import Array, Int8Options, quantize_int8
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput, RuntimeFailure

SHAPE = (1, 4, 12, 12)


def small_network() -> onnx.ModelProto:
    """Conv, LeakyRelu, Conv, Split: the shapes of a detector's layers."""
    rng = np.random.default_rng(1)
    values = {
        "w1": rng.normal(size=(8, 4, 3, 3)) / 6,
        "b1": rng.normal(size=8) / 4,
        "w2": rng.normal(size=(6, 8, 1, 1)) / 3,
        "b2": rng.normal(size=6) / 4,
    }
    initializers = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()
    ]
    initializers.append(numpy_helper.from_array(np.array([2, 4]), "sizes"))
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["c1"], ["r1"], name="leaky", alpha=0.1),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="last"),
        helper.make_node("Split", ["c2", "sizes"], ["y", "z"], name="split", axis=1),
    ]
    outputs = [("y", (1, 2, 12, 12)), ("z", (1, 4, 12, 12))]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def inputs(count: int, seed: int = 3) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=SHAPE).astype(np.float32) for _ in range(count)]


def int8_weights(model: onnx.ModelProto) -> list[Array]:
    stored = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return [value for value in stored if value.dtype == np.int8 and value.ndim == 4]


def test_outputs_stay_within_a_few_steps() -> None:
    model = small_network()
    # Extreme ranges clip nothing of what was seen, so the largest error has a bound too.
    quantized = quantize_int8(model, inputs(12), options=Int8Options(is_mean_range=False))
    exact, coarse = Session(model.SerializeToString()), Session(quantized.model.SerializeToString())
    for tensor in inputs(5, seed=99):
        for name, value in exact.infer(tensor).items():
            step = np.ptp(value) / 255
            error = np.abs(coarse.infer(tensor)[name] - value)
            assert error.mean() < 2 * step
            assert error.max() < 12 * step


def test_weights_of_seven_bits_cannot_saturate_pairs_in_sixteen() -> None:
    narrow = int8_weights(quantize_int8(small_network(), inputs(4)).model)
    assert len(narrow) == 2
    assert all(2 * 255 * int(np.abs(value).max()) < 2**15 for value in narrow)
    wide = quantize_int8(small_network(), inputs(4), options=Int8Options(weight_bits=8))
    assert all(np.abs(value).max() == 127 for value in int8_weights(wide.model))


def test_the_same_inputs_give_the_same_bytes_and_say_what_they_were() -> None:
    first, second = (quantize_int8(small_network(), inputs(6)) for _ in range(2))
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert first.calibration_sha256 == second.calibration_sha256
    assert first.calibration_count == 6
    assert quantize_int8(small_network(), inputs(5)).calibration_sha256 != first.calibration_sha256


def test_mean_ranges_are_not_set_by_one_outlier() -> None:
    calm = inputs(9)
    outlier = calm[0] * 40
    sample = inputs(1, seed=50)[0]
    exact = Session(small_network().SerializeToString()).infer(sample)["y"]

    def error(options: Int8Options) -> float:
        model = quantize_int8(small_network(), [*calm, outlier], options=options).model
        found = Session(model.SerializeToString()).infer(sample)["y"]
        return float(np.abs(found - exact).mean())

    assert error(Int8Options(is_mean_range=True)) < error(Int8Options(is_mean_range=False))


def test_devices_accept_the_result_and_progress_is_told() -> None:
    seen: list[int] = []
    quantized = quantize_int8(small_network(), iter(inputs(3)), on_input=seen.append)
    check_model(quantized.model.SerializeToString())
    assert seen == [1, 2, 3]


def test_layers_may_stay_in_float() -> None:
    options = Int8Options(float_layers=("last",))
    quantized = quantize_int8(small_network(), inputs(3), options=options)
    assert len(int8_weights(quantized.model)) == 1
    with pytest.raises(InvalidInput, match="no layer nothing"):
        quantize_int8(small_network(), inputs(3), options=Int8Options(float_layers=("nothing",)))


def test_without_inputs_there_is_nothing_to_calibrate_on() -> None:
    with pytest.raises(InvalidInput, match="no input to calibrate on"):
        quantize_int8(small_network(), [])


def test_a_model_that_does_not_load_or_run_is_a_runtime_failure() -> None:
    with pytest.raises(RuntimeFailure, match="loaded"):
        Session(b"no model")
    session = Session(small_network().SerializeToString())
    with pytest.raises(RuntimeFailure, match="run"):
        session.infer(np.zeros((1, 5, 12, 12), np.float32))


def test_inputs_that_do_not_fit_are_a_failure_of_the_model() -> None:
    with pytest.raises(RuntimeFailure, match=r"cannot be calibrated: .*nvalid dimensions"):
        quantize_int8(small_network(), [inputs(1)[0][..., :-1]])
