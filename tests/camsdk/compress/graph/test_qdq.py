"""Emitted models against fake quantization in numpy, and what onnxruntime makes of them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from camsdk import assets
from camsdk.compress import nanodet
from camsdk.compress.codes import CodedTensor, project
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.graph.optimise import optimise
from camsdk.compress.graph.qdq import ActivationRange, emit_qdq
from camsdk.compress.options import CodeSet
from camsdk.compress.quantize import quantize_int8
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput, UnsupportedModel

Floats = NDArray[np.float32]
_STEP = 2.0**-5


def _model(
    nodes: list[onnx.NodeProto],
    arrays: Mapping[str, NDArray[np.generic]],
    shape: tuple[int, ...],
    out: tuple[int, ...] | None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return model


def _fused(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators that onnxruntime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "fused.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return Counter(node.op_type for node in onnx.load(str(folder / "fused.onnx")).graph.node)


def _fake(value: Floats, of: ActivationRange) -> Floats:
    codes = np.clip(np.rint(value / of.scale) + of.zero_point, 0, of.largest)
    return ((codes - of.zero_point) * of.scale).astype(np.float32)


def _convolved(value: Floats, weights: Floats, bias: Floats, groups: int) -> Floats:
    """3x3 or 1x1, stride 1, same padding."""
    side = weights.shape[-1] // 2
    padded = np.pad(value, ((0, 0), (0, 0), (side, side), (side, side)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], axis=(2, 3))
    parts = [
        np.einsum("nchwij,ocij->nohw", window, filters)
        for window, filters in zip(
            np.split(windows, groups, axis=1), np.split(weights, groups), strict=True
        )
    ]
    return np.asarray(np.concatenate(parts, axis=1) + bias[:, np.newaxis, np.newaxis], np.float32)


def _random_coded(
    rng: np.random.Generator, shape: tuple[int, ...], bits: int, is_per_filter: bool
) -> CodedTensor:
    """Codes with scales that are powers of two, so that float32 holds every sum exactly."""
    code_set = CodeSet(bits)
    codes = rng.choice(code_set.levels, size=shape).astype(np.int8)
    exponents = rng.integers(-8, -5, size=shape[:1] if is_per_filter else ())
    return CodedTensor(codes, np.exp2(exponents).astype(np.float32), code_set)


def _exact_range(rng: np.random.Generator, bits: int, is_positive: bool) -> ActivationRange:
    zero = 0 if is_positive else int(rng.integers(0, 2**bits - 1))
    step = _STEP * 2.0 ** (8 - bits)
    return ActivationRange(-zero * step, (2**bits - 1 - zero) * step, bits)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.sampled_from([2, 4, 8]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["Add", "Concat"]),
)
def test_network_computes_what_fake_quantization_computes(
    seed: int, bits: int, activation_bits: int, is_per_filter: bool, is_depthwise: bool, join: str
) -> None:
    rng = np.random.default_rng(seed)
    groups = 4 if is_depthwise else 1
    coded = {
        "first": _random_coded(rng, (4, 3, 3, 3), bits, is_per_filter),
        "second": _random_coded(rng, (4, 4 // groups, 1, 1), bits, is_per_filter),
    }
    biases = {name: rng.integers(-64, 64, 4).astype(np.float32) * _STEP for name in coded}
    arrays = {f"{name}.w": np.zeros(of.codes.shape, np.float32) for name, of in coded.items()}
    arrays |= {f"{name}.b": bias for name, bias in biases.items()}
    nodes = [
        helper.make_node("Conv", ["x", "first.w", "first.b"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "second.w", "second.b"], ["c"], "second", group=groups),
        helper.make_node(
            join, ["r", "c"], ["j"], "join", **({"axis": 1} if join == "Concat" else {})
        ),
        helper.make_node("MaxPool", ["j"], ["y"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    model = _model(nodes, arrays, (1, 3, 6, 6), (1, 8 if join == "Concat" else 4, 3, 3))
    joined = _exact_range(rng, activation_bits, is_positive=False)
    ranges = {
        "x": _exact_range(rng, 8, is_positive=False),
        "r": _exact_range(rng, activation_bits, is_positive=True),
        "c": _exact_range(rng, activation_bits, is_positive=False),
        "j": joined,
        "y": joined,
    }
    emitted = emit_qdq(model, coded, ranges)
    x = rng.uniform(-4, 4, (1, 3, 6, 6)).astype(np.float32)

    first = _convolved(_fake(x, ranges["x"]), coded["first"].values, biases["first"], 1)
    r = _fake(np.maximum(first, 0), ranges["r"])
    c = _fake(_convolved(r, coded["second"].values, biases["second"], groups), ranges["c"])
    both = r + c if join == "Add" else np.concatenate([r, c], axis=1)
    expected = _fake(both, joined).reshape(1, -1, 3, 2, 3, 2).max(axis=(3, 5))
    np.testing.assert_array_equal(Session(emitted.SerializeToString()).infer(x)["y"], expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["Gemm", "GemmT", "MatMul"]), st.booleans())
def test_product_is_within_one_step_of_fake_quantization(
    seed: int, kind: str, is_per_filter: bool
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(5, 16)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32) if kind != "MatMul" else np.zeros(5, np.float32)
    # 7 bits: the products of 8 do not fit the 16 bits of x86 processors without VNNI.
    coded = project(weights, CodeSet(7), "filter" if is_per_filter else "tensor")
    arrays = {"w": weights if kind == "GemmT" else np.ascontiguousarray(weights.T)}
    inputs = ["x", "w"]
    if kind != "MatMul":
        arrays["b"] = bias
        inputs.append("b")
    operator = kind.removesuffix("T")
    node = helper.make_node(
        operator, inputs, ["y"], "product", **({"transB": 1} if kind == "GemmT" else {})
    )
    model = _model([node], arrays, (3, 16), (3, 5))
    ranges = {"x": ActivationRange(-1.7, 2.1), "y": ActivationRange(-9.0, 11.0)}
    x = rng.uniform(-2, 2.5, (3, 16)).astype(np.float32)

    expected = _fake(_fake(x, ranges["x"]) @ coded.values.T + bias, ranges["y"])
    got = Session(emit_qdq(model, {"product": coded}, ranges).SerializeToString()).infer(x)["y"]
    assert np.abs(got - expected).max() <= 1.01 * ranges["y"].scale


def _convolution(bias: Floats, *after: onnx.NodeProto) -> tuple[onnx.ModelProto, CodedTensor]:
    weights = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    output = "a" if after else "y"
    conv = helper.make_node("Conv", ["x", "w", "b"], [output], "conv", pads=[1] * 4)
    arrays: dict[str, NDArray[np.generic]] = {"w": weights, "b": bias}
    arrays |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    model = _model([conv, *after], arrays, (1, 3, 8, 8), (1, 4, 8, 8))
    return model, project(weights, CodeSet(7))


def test_onnxruntime_runs_every_node_in_integers(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["a"], ["y"], "relu")
    model, coded = _convolution(np.ones(4, np.float32), relu)
    ranges = {"x": ActivationRange(-1, 1), "y": ActivationRange(0, 8)}
    emitted = emit_qdq(model, {"conv": coded}, ranges)
    assert _fused(emitted, tmp_path) == Counter(
        {"QuantizeLinear": 1, "QLinearConv": 1, "DequantizeLinear": 1}
    )


def test_low_bits_keep_the_convolution_in_integers(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["a"], ["y"], "relu")
    model, coded = _convolution(np.ones(4, np.float32), relu)
    ranges = {"x": ActivationRange(-1, 1), "y": ActivationRange(0, 8, 4)}
    emitted = emit_qdq(model, {"conv": coded}, ranges)
    assert _fused(emitted, tmp_path)["QLinearConv"] == 1
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    y = Session(emitted.SerializeToString()).infer(x)["y"]
    assert len(np.unique(y)) == 16
    assert y.max() == pytest.approx(8)


@pytest.mark.parametrize("operator", ["Relu", "Clip"])
def test_limits_hold_where_the_range_is_wider(operator: str) -> None:
    inputs = ["a"] if operator == "Relu" else ["a", "low", "high"]
    limit = helper.make_node(operator, inputs, ["y"], "limit")
    model, coded = _convolution(np.zeros(4, np.float32), limit)
    ranges = {"x": ActivationRange(-4, 4), "y": ActivationRange(-10, 10)}
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    y = Session(emit_qdq(model, {"conv": coded}, ranges).SerializeToString()).infer(x)["y"]
    assert y.min() == 0
    assert (y.max() > 6.1) == (operator == "Relu")


def test_bias_beyond_int32_is_kept() -> None:
    model, coded = _convolution(np.array([5, -3, 0, 1], np.float32))
    tiny = CodedTensor(coded.codes, np.full(4, 1e-12, np.float32), coded.code_set)
    ranges = {"x": ActivationRange(-1, 1), "y": ActivationRange(-8, 8)}
    emitted = emit_qdq(model, {"conv": tiny}, ranges)
    y = Session(emitted.SerializeToString()).infer(np.ones((1, 3, 8, 8), np.float32))["y"]
    np.testing.assert_allclose(y[0, :, 4, 4], [5, -3, 0, 1], atol=8 / 255)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_has_the_values_of_its_codes(groups: int) -> None:
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(4, 6 // groups, 2, 2)).astype(np.float32)
    node = helper.make_node(
        "ConvTranspose", ["x", "w", "b"], ["y"], "up", strides=[2, 2], group=groups
    )
    arrays = {"w": stored, "b": rng.normal(size=6).astype(np.float32)}
    model = _model([node], arrays, (1, 4, 3, 3), (1, 6, 6, 6))
    (layer,) = list_layers(model)
    assert layer.shape == (6, 4 // groups, 2, 2)
    coded = project(layer.filters_first(stored), CodeSet(8))
    ranges = {"x": ActivationRange(-3, 3), "y": ActivationRange(-9, 9)}
    x = rng.normal(size=(1, 4, 3, 3)).astype(np.float32)
    got = Session(emit_qdq(model, {"up": coded}, ranges).SerializeToString()).infer(x)["y"]
    same = Session(model.SerializeToString()).infer(x)["y"]
    assert np.abs(got - same).max() < 0.2  # a step of the output is 0.07
    assert np.abs(same).max() > 2


def test_layers_that_are_not_named_stay_in_float() -> None:
    model, _ = _convolution(np.ones(4, np.float32))
    ranges = {"x": ActivationRange(-1, 1), "y": ActivationRange(-8, 8)}
    emitted = emit_qdq(model, {}, ranges)
    np.testing.assert_array_equal(constants(emitted)["w"], constants(model)["w"])


def test_codes_are_stored_as_they_are() -> None:
    model, coded = _convolution(np.ones(4, np.float32))
    ranges = {"x": ActivationRange(-1, 1), "y": ActivationRange(-8, 8)}
    stored = constants(emit_qdq(model, {"conv": coded}, ranges))
    integers = [value for value in stored.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(integers) == 1
    np.testing.assert_array_equal(integers[0], coded.codes)


@pytest.mark.parametrize("has_input_range", [True, False])
@pytest.mark.parametrize("granularity", ["filter", "tensor"])
def test_layer_without_output_range_has_codes_and_a_float_output(
    has_input_range: bool, granularity: Literal["filter", "tensor"]
) -> None:
    model, _ = _convolution(np.ones(4, np.float32))
    coded = project(constants(model)["w"].astype(np.float32), CodeSet(3), granularity)
    ranges = {"x": ActivationRange(-1, 1, 4)} if has_input_range else {}
    emitted = emit_qdq(model, {"conv": coded}, ranges)
    stored = [value for value in constants(emitted).values() if value.ndim == 4]
    assert [value.dtype for value in stored] == [np.int8]
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    seen = _fake(x, ranges["x"]) if has_input_range else x
    expected = _convolved(seen, coded.values, np.ones(4, np.float32), 1)
    got = Session(emitted.SerializeToString()).infer(x)["y"]
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("bits", [(8, 4), (4, 8)])
def test_pooling_before_relu_has_the_range_before_it(bits: tuple[int, int]) -> None:
    pool = helper.make_node("MaxPool", ["a"], ["p"], "pool", kernel_shape=[3, 3], pads=[1] * 4)
    relu = helper.make_node("Relu", ["p"], ["y"], "relu")
    model, coded = _convolution(np.full(4, -3, np.float32), pool, relu)
    ranges = {"x": ActivationRange(-1, 1)}
    ranges |= {"a": ActivationRange(-9, 9, bits[0]), "p": ActivationRange(-3, 3, bits[1])}
    ranges["y"] = ActivationRange(0, 6)
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    got = Session(emit_qdq(model, {"conv": coded}, ranges).SerializeToString()).infer(x)["y"]
    weighed = _convolved(_fake(x, ranges["x"]), coded.values, np.full(4, -3, np.float32), 1)
    padded = np.pad(
        _fake(weighed, ranges["a"]), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-99
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    expected = _fake(np.maximum(windows.max(axis=(4, 5)), 0), ranges["y"])
    assert np.abs(got - expected).max() <= ranges["a"].scale + ranges["y"].scale
    assert (
        np.mean(np.abs(got - expected) > 1e-4) < 0.01
    )  # ties that the two round to different sides
    assert got.max() > 2
    assert got.min() == 0


def test_nodes_without_names_are_refused() -> None:
    model, _ = _convolution(np.ones(4, np.float32), helper.make_node("Relu", ["a"], ["y"]))
    with pytest.raises(UnsupportedModel, match="no names"):
        emit_qdq(model, {}, {})


@pytest.mark.slow
def test_nanodet_is_as_much_in_integers_as_onnxruntime_would_have_it(tmp_path: Path) -> None:
    """Given the codes and ranges that its own quantizer chose: the same results, the same work."""
    model = nanodet.import_onnx(
        assets.pull("nanodet.json"), assets.pull("nanodet.bin"), size=(128, 96)
    )
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1, 3, 96, 128)).astype(np.float32) for _ in range(3)]
    theirs = quantize_int8(model, inputs[:2]).model
    stored = constants(theirs)
    makers = {node.output[0]: node for node in theirs.graph.node}
    nodes = {node.name: node for node in theirs.graph.node}
    coded = {}
    for layer in list_layers(model):
        codes, scale, _ = makers[nodes[layer.name].input[1]].input
        filters = layer.filters_first(stored[codes]).astype(np.int8)
        coded[layer.name] = CodedTensor(filters, stored[scale].astype(np.float32), CodeSet(8))
    ranges = {}
    for node in theirs.graph.node:
        if node.op_type == "QuantizeLinear":
            step, zero = float(stored[node.input[1]]), int(stored[node.input[2]])
            ranges[node.input[0]] = ActivationRange(-zero * step, (255 - zero) * step)
    ours = emit_qdq(model, coded, ranges)
    expected = Session(theirs.SerializeToString()).infer(inputs[2])
    for name, value in Session(ours.SerializeToString()).infer(inputs[2]).items():
        np.testing.assert_array_equal(value, expected[name])
    assert _fused(ours, tmp_path) == _fused(theirs, tmp_path)
    optimised = emit_qdq(optimise(model).model, coded, ranges)
    assert _fused(optimised, tmp_path)["QLinearConv"] == len(coded)


def test_wrong_names_shapes_and_ranges_are_refused() -> None:
    model, coded = _convolution(np.ones(4, np.float32))
    with pytest.raises(InvalidInput, match="no layer other"):
        emit_qdq(model, {"other": coded}, {})
    cut = CodedTensor(coded.codes[:2], coded.scale[:2], coded.code_set)
    with pytest.raises(InvalidInput, match="shape"):
        emit_qdq(model, {"conv": cut}, {})
    with pytest.raises(InvalidInput, match="does not contain 0"):
        ActivationRange(0.5, 1)
    with pytest.raises(InvalidInput, match="9-bit"):
        ActivationRange(0, 1, 9)
