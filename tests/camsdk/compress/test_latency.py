"""Profiles say what they were told, survive a file, and measure every layer of a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.layers import Layer, list_layers
from camsdk.compress.latency import (
    DeviceProfile,
    load_profile,
    measure_profile,
    predict_model_ms,
    profile_layers,
    save_profile,
)
from camsdk.compress.options import CodeSet
from camsdk.errors import InvalidInput, RuntimeFailure

LAYER = Layer("first", "Conv", "w", None, (8, 8, 3, 3), 0, 1, "x", "y", 2_000_000)
PROFILE = DeviceProfile(
    "cpu-x86_64",
    "measured",
    {"first": {8: 0.5, 32: 1.0}},
    {"Conv": {8: 0.1, 32: 0.3}},
    origin="board 7, 2026-01-02",
)


def model() -> onnx.ModelProto:
    """Two convolutions, a large and a small one, and a linear layer."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(32, 16, 3, 3)),
        "w2": rng.normal(size=(16, 32, 1, 1)),
        "w3": rng.normal(size=(16, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "large", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "small"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["e"], "flatten"),
        helper.make_node("Gemm", ["e", "w3"], ["y"], "linear"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_layer_runs_in_the_next_wider_kernel() -> None:
    assert [PROFILE.predict_ms(LAYER, bits) for bits in (2, 8, 32)] == [0.5, 0.5, 1.0]


def test_a_model_takes_the_sum_of_its_layers_with_their_bits_and_zeros() -> None:
    rows = {"large": {8: 1.0, 32: 4.0}, "small": {8: 0.5, 32: 1.0}, "linear": {8: 0.1, 32: 0.2}}
    layers = {layer.name: layer for layer in list_layers(model())}
    codes = np.zeros(layers["large"].shape, np.int8)
    codes[:8] = 1  # a quarter
    coded = {"large": CodedTensor(codes, np.ones(32, np.float32), CodeSet(3))}
    profile = DeviceProfile("npu", "model", rows)
    assert predict_model_ms(profile, model(), coded) == pytest.approx(
        {"npu, float": 5.2, "npu, compressed": 2.2}
    )
    skipping = replace(profile, skips_zeros=True)
    assert predict_model_ms(skipping, model(), coded)["npu, compressed"] == pytest.approx(1.45)
    only_8 = replace(profile, ms_by_layer={name: {8: row[8]} for name, row in rows.items()})
    everything = {
        name: CodedTensor(np.ones(layer.shape, np.int8), np.ones((), np.float32), CodeSet(8))
        for name, layer in layers.items()
    }
    assert predict_model_ms(only_8, model(), everything) == pytest.approx({"npu, compressed": 1.6})


def test_unlisted_layers_are_predicted_from_their_operator() -> None:
    other = Layer("other", "Conv", "w", None, (8, 8, 3, 3), 0, 1, "x", "y", 2_000_000)
    assert PROFILE.predict_ms(other, 4) == pytest.approx(0.2)
    linear = Layer("other", "Gemm", "w", None, (8, 8), 1, 1, "x", "y", 64)
    with pytest.raises(InvalidInput, match="4-bit Gemm, layer other"):
        PROFILE.predict_ms(linear, 4)


def test_an_operators_kernel_of_fewer_bits_goes_before_a_layers_own_of_more() -> None:
    profile = replace(PROFILE, ns_per_mac={"Conv": {4: 0.05, 8: 0.1, 32: 0.3}})
    assert [profile.predict_ms(LAYER, bits) for bits in (3, 4, 5)] == pytest.approx([0.1, 0.1, 0.5])
    hidden = replace(PROFILE, ms_by_layer={"first": {8: 0.5}})
    assert hidden.predict_ms(LAYER, 32) == pytest.approx(0.6)


@pytest.mark.parametrize(("skips_zeros", "expected"), [(False, 0.5), (True, 0.125)])
def test_zeros_save_time_only_where_the_engine_skips_them(
    skips_zeros: bool, expected: float
) -> None:
    profile = DeviceProfile("x", "model", PROFILE.ms_by_layer, skips_zeros=skips_zeros)
    assert profile.predict_ms(LAYER, 8, 0.75) == expected


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    save_profile(PROFILE, tmp_path / "profile.yaml")
    assert load_profile(tmp_path / "profile.yaml") == PROFILE


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"device": "d", "provenance": "model", "ns_per_mac": {"Conv": {"8": 2}}}')
    assert load_profile(path).ns_per_mac == {"Conv": {8: 2.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device: d", "has no provenance"),
        ("[1, 2]", "no profile"),
        ("{", "cannot be read"),
        ("{device: d, provenance: guessed}", "guessed"),
        ("{device: d, provenance: model, speed: 3}", "no profile has, speed"),
        ("{device: d, provenance: model, ns_per_mac: {Conv: 3}}", "ns_per_mac"),
        ("{device: d, provenance: model, ms_by_layer: {c: {8: fast}}}", "ms_by_layer"),
        ("{device: d, provenance: model, ms_by_layer: {c: {8: -1}}}", "below 0"),
        ("{device: d, provenance: model, ms_by_layer: {c: {8: .nan}}}", "not finite"),
        ("{device: d, provenance: model, ns_per_mac: {Conv: {8: .inf}}}", "not finite"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        load_profile(path)


def test_every_layer_is_measured_and_the_large_one_takes_longest() -> None:
    times = profile_layers(model(), runs=5)
    assert set(times) == {layer.name for layer in list_layers(model())}
    # 9 times the work of the small one.
    assert times["large"] > times["small"] > 0


def test_a_measured_profile_predicts_what_it_measured() -> None:
    profile = measure_profile("here", model())
    large, small, _ = list_layers(model())
    assert profile.predict_ms(large, 8) == profile.ms_by_layer["large"][32]
    total = sum(profile.ms_by_layer[layer.name][32] for layer in (large, small))
    expected = total * 1e6 / (large.macs + small.macs)
    assert profile.ns_per_mac["Conv"][32] == pytest.approx(expected)
    assert profile.provenance == "measured"


def test_layers_before_a_batchnorm_are_measured_too() -> None:
    """The engine fuses it, and names the kernel after what it writes."""
    made = model()
    norm = {key: np.ones(32, np.float32) for key in ("gamma", "beta", "mean", "variance")}
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in norm.items())
    made.graph.node.insert(
        1, helper.make_node("BatchNormalization", ["a", *norm], ["normalised"], "norm")
    )
    made.graph.node[2].input[0] = "normalised"
    onnx.checker.check_model(made, full_check=True)
    assert set(profile_layers(made, runs=2)) == {"large", "small", "linear"}


def test_a_dynamic_input_is_refused() -> None:
    dynamic = model()
    dynamic.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    with pytest.raises(InvalidInput, match="static shape"):
        profile_layers(dynamic)


def test_a_model_that_the_engine_cannot_load_is_a_failure_of_the_model() -> None:
    unknown = model()
    unknown.graph.node[1].op_type = "Nonsense"
    with pytest.raises(RuntimeFailure, match=r"cannot be timed: .*Nonsense"):
        profile_layers(unknown)
