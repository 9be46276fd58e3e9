"""What a report measures itself: every coded layer, every engine, in bounded time."""

from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import helper

from camsdk.compress.coded_model import CodedModel
from camsdk.compress.codes import project
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.graph.qdq import ActivationRange, emit_qdq
from camsdk.compress.mnn import from_quantized
from camsdk.compress.options import CodeSet
from camsdk.compress.packaging import Draft
from camsdk.compress.report.probes import probe
from support import models
from support.artifacts import make_manifest
from support.engines import leave_only_our_own

pytestmark = pytest.mark.engines

TENSOR = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
NAMES = ("first", "second", "third")


def network() -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    shapes = {"a": (8, 3, 3, 3), "b": (8, 8, 3, 3), "c": (4, 8, 1, 1)}
    arrays = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], "first"),
        helper.make_node("Relu", ["1"], ["2"], "relu"),
        helper.make_node("Conv", ["2", "b"], ["3"], "second"),
        helper.make_node("Conv", ["3", "c"], ["y"], "third"),
    ]
    return models.make_model(nodes, list(TENSOR.shape), **arrays)


def coded(bits: int = 4) -> CodedModel:
    model = network()
    stored = constants(model)
    weights = {
        layer.name: project(layer.filters_first(stored[layer.weight]), CodeSet(bits), "filter")
        for layer in list_layers(model)
        if layer.name != "third"
    }
    ranges = {name: ActivationRange(-4.0, 4.0) for name in ("x", "2")}
    return CodedModel(model, weights, ranges)


def drafts(made: CodedModel) -> tuple[Draft, Draft]:
    quantized = emit_qdq(made.model, made.weights, made.activations)
    source, draft = (
        Draft(make_manifest(), {"model.onnx": model.SerializeToString()})
        for model in (made.model, quantized)
    )
    return source, draft


def test_coded_layers_and_the_own_engine_are_always_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_only_our_own(monkeypatch)
    made = coded()
    source, draft = drafts(made)
    found = probe(source, draft, made, [TENSOR], 1.0)
    assert found.sensitivity.keys() == {"first", "second"}
    assert all(0 < value < 1 for value in found.sensitivity.values())
    medians = {(of.engine, of.variant): of.median_ms for of in found.latency}
    for variant in ("float", "compressed"):
        own, openvino, mnn = (
            medians[engine, variant] for engine in ("onnxruntime", "OpenVINO", "MNN")
        )
        assert own is not None
        assert own > 0
        assert openvino is mnn is None
    assert found.duration_s.keys() == {"sensitivity", "latency"}


def test_what_the_engine_cannot_do_is_absent_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_only_our_own(monkeypatch)
    made = coded()
    source, draft = drafts(made)
    found = probe(source, draft, made, [TENSOR[..., :-1]], 1.0)
    assert found.sensitivity == {}
    assert found.unprobed.startswith("the model cannot be run: ")
    assert [of.median_ms for of in found.latency] == [None] * len(found.latency)
    assert "the model cannot be run: " in found.latency[0].reason


@pytest.mark.slow
@pytest.mark.skipif(find_spec("MNN") is None, reason="the extra mnn is not installed")
def test_mnn_runs_both_models() -> None:
    made = coded()
    source, draft = drafts(made)
    timings = {
        of.variant: of
        for of in probe(source, draft, made, [TENSOR], 1.0).latency
        if of.engine == "MNN"
    }
    assert [timings[variant].runs for variant in ("float", "compressed")] == [15, 15]


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
def test_a_quantized_model_is_float_again_with_the_bits_of_its_codes(bits: int) -> None:
    made = coded(bits)
    quantized = emit_qdq(made.model, made.weights, made.activations)
    before = quantized.SerializeToString()
    model, found = from_quantized(quantized)
    assert found == bits
    assert quantized.SerializeToString() == before
    assert not [node for node in model.graph.node if "Quantize" in node.op_type]
    stored = constants(model)
    layers = {layer.name: layer for layer in list_layers(model)}
    for name, of in made.weights.items():
        values = layers[name].filters_first(stored[layers[name].weight])
        np.testing.assert_allclose(values, of.values, rtol=1e-6)
    assert from_quantized(network())[1] is None
