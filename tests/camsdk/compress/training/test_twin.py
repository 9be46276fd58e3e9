"""The torch twin computes what onnxruntime computes, and gives back what it was trained to."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from camsdk import assets
from camsdk.compress import nanodet
from camsdk.compress.training.twin import to_torch
from camsdk.errors import UnsupportedModel
from support.onnx_graphs import Graph, residual, run, run_torch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def check_equal(model: onnx.ModelProto, *inputs: np.ndarray, relative: float = 1e-5) -> None:
    for expected, actual in zip(
        run(model, *inputs), run_torch(to_torch(model), *inputs), strict=True
    ):
        assert actual.shape == expected.shape
        size = max(float(np.abs(expected).max(initial=0)), 1e-3)
        assert float(np.abs(actual - expected).max(initial=0)) <= relative * size


@st.composite
def convolutions(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(5, 12)), draw(st.integers(5, 12))
    groups = draw(st.sampled_from([1, 2, 4]))
    graph = Graph((draw(st.integers(1, 2)), 4, *size), draw(st.integers(0, 99)))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    given: dict[str, Any] = {
        "strides": [draw(st.integers(1, 2)), draw(st.integers(1, 2))],
        "group": groups,
    }
    if draw(st.booleans()):
        given["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        given["pads"] = [draw(st.integers(0, 2)) for _ in range(4)]
        given["dilations"] = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    bias = [graph.random(8)] if draw(st.booleans()) else []
    graph.add("Conv", graph.random(8, 4 // groups, *kernel), *bias, **given)
    if draw(st.booleans()):
        graph.norm(8)
    activation = draw(st.sampled_from(ACTIVATIONS))
    graph.add(activation[0], **activation[1])
    return graph


ACTIVATIONS = [
    ("Relu", {}), ("LeakyRelu", {"alpha": 0.2}), ("Sigmoid", {}), ("HardSigmoid", {"alpha": 0.3}),
    ("HardSwish", {}), ("Tanh", {}), ("Softmax", {"axis": 1}), ("Exp", {}), ("Softplus", {}),
    ("Elu", {"alpha": 0.7}), ("Erf", {}), ("Identity", {}), ("Abs", {}), ("Neg", {}),
]  # fmt: skip


@given(convolutions())
@settings(max_examples=30, deadline=None)
def test_convolutions_and_activations_compute_the_same(graph: Graph) -> None:
    check_equal(graph.model(), graph.input())


@given(
    operator=st.sampled_from(["MaxPool", "AveragePool"]),
    size=st.tuples(st.integers(5, 11), st.integers(5, 11)),
    kernel=st.tuples(st.integers(2, 3), st.integers(2, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    is_ceiled=st.booleans(),
    is_counted=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_pooling_computes_the_same(
    operator, size, kernel, strides, pads, is_ceiled, is_counted
) -> None:
    graph = Graph((2, 3, *size))
    given: dict[str, Any] = {"count_include_pad": int(is_counted)}
    if operator == "MaxPool":
        given = {}
    graph.add(operator, kernel_shape=kernel, strides=strides, pads=pads,
              ceil_mode=int(is_ceiled), **given)  # fmt: skip
    check_equal(graph.model(), graph.input())


@given(
    mode=st.sampled_from(["nearest", "linear"]),
    place=st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    size=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    target=st.tuples(st.integers(2, 14), st.integers(2, 14)),
    by_size=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_resizing_computes_the_same(mode, place, rounding, size, target, by_size) -> None:
    graph = Graph((1, 3, *size))
    given = {"mode": mode, "coordinate_transformation_mode": place, "nearest_mode": rounding}
    if by_size:
        graph.add("Resize", "", "", graph.hold((1, 3, *target), np.int64), **given)
    else:
        graph.add("Resize", "", graph.hold((1, 1, 2, 2)), **given)
    check_equal(graph.model(), graph.input())


@given(
    stride=st.integers(1, 3),
    kernel=st.integers(1, 4),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    extra=st.integers(0, 1),
    groups=st.sampled_from([1, 2]),
)
@settings(max_examples=20, deadline=None)
def test_transposed_convolutions_compute_the_same_or_are_refused(
    stride, kernel, pads, extra, groups
) -> None:
    graph = Graph((1, 4, 6, 7))
    graph.add("ConvTranspose", graph.random(4, 3, kernel, kernel), graph.random(3 * groups),
              strides=[stride] * 2, pads=pads, group=groups,
              output_padding=[min(extra, stride - 1)] * 2)  # fmt: skip
    model = graph.model()
    cut = [pads[axis] - pads[2 + axis] + min(extra, stride - 1) for axis in (0, 1)]
    if all(0 <= more < max(stride, 1) for more in cut):
        check_equal(model, graph.input())
    else:
        with pytest.raises(UnsupportedModel, match=graph.nodes[0].name):
            to_torch(model)


def test_every_operator_of_shapes_computes_the_same() -> None:
    graph = Graph((2, 8, 6, 6))
    graph.add(
        "Pad", graph.hold([0, 0, 1, 0, 0, 0, 0, 1], np.int64), graph.hold(0.5), mode="constant"
    )
    graph.add("Pad", graph.hold([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="reflect")
    graph.add("Slice", *(graph.hold(v, np.int64) for v in ([1, -5], [100, -1], [2, 3], [2, 1])))
    parts = graph.add("Split", graph.hold([2, 3, 3], np.int64), axis=1, outputs=3)
    joined = [parts, parts.replace(":0", ":2"), parts.replace(":0", ":1")]
    graph.add("Concat", inputs=joined, axis=1)
    whole = graph.last
    graph.add("Transpose", perm=[0, 2, 3, 1])
    graph.add("Gather", graph.hold([0, -1, 3], np.int64), axis=-1)
    graph.add("ReduceMean", axes=[1], keepdims=0)
    graph.add("Unsqueeze", graph.hold([0, 3], np.int64))
    graph.add("Squeeze", graph.hold([0], np.int64))
    graph.add("Flatten", axis=1)
    flat = graph.last
    graph.last = whole
    graph.add("Shape")
    graph.add("Gather", graph.hold([0], np.int64), axis=0)
    graph.add("Cast", to=TensorProto.INT64)
    shape = graph.add("Concat", graph.hold([-1], np.int64), axis=0)
    graph.last = flat
    graph.add("Reshape", shape)
    graph.add("Clip", graph.hold(-0.5), graph.hold(0.7))
    graph.add("Pow", graph.hold(2.0))
    graph.add("Add", graph.hold(1.0))
    graph.add("Sqrt")
    graph.add("Div", graph.hold(3.0))
    graph.add("Mul", graph.last)
    graph.add("Sub", graph.hold(0.25))
    graph.add("Max", graph.hold(-0.1))
    graph.add("Dropout")
    model = graph.model()
    check_equal(model, graph.input())


def test_layers_are_real_modules_that_map_back_to_their_nodes() -> None:
    twin = to_torch(residual().model())
    kinds = [type(twin.module.get_submodule(name)).__name__ for name in twin.layer_of]
    assert kinds == ["Conv2d", "BatchNorm2d"] * 3 + ["Linear"]
    for name, node in twin.layer_of.items():
        assert twin.module_of[node] == name
        assert "." not in name


def test_a_larger_batch_than_exported_gives_each_example_its_own_answer() -> None:
    graph = residual()
    model, twin = graph.model(), to_torch(graph.model())
    inputs = [graph.input(seed=seed) for seed in range(3)]
    together = run_torch(twin, np.concatenate(inputs))[0]
    apart = np.concatenate([run(model, x)[0] for x in inputs])
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_trained_weights_and_statistics_are_written_back() -> None:
    graph = residual()
    twin = to_torch(graph.model())
    before = run(twin.model, graph.input())[0]
    twin.module.train()
    optimizer = torch.optim.SGD(twin.module.parameters(), lr=0.1)
    for step in range(3):
        x = torch.from_numpy(np.concatenate([graph.input(seed=s + step) for s in range(4)]))
        optimizer.zero_grad()
        twin.module(x).square().mean().backward()
        optimizer.step()
    written = twin.write_back()
    after = run(written, graph.input())[0]
    np.testing.assert_allclose(after, run_torch(twin, graph.input())[0], rtol=1e-4, atol=1e-5)
    assert np.abs(after - before).max() > 1e-2
    np.testing.assert_array_equal(run(twin.model, graph.input())[0], before)
    np.testing.assert_array_equal(run_torch(to_torch(written), graph.input()),
                                  run_torch(twin, graph.input()))  # fmt: skip


def test_a_shared_weight_becomes_one_for_each_node() -> None:
    graph = Graph((1, 4, 5, 5))
    weight = graph.random(4, 4, 1, 1)
    graph.add("Conv", weight)
    graph.add("Conv", weight)
    twin = to_torch(graph.model())
    check_equal(graph.model(), graph.input())
    first, second = (twin.module.get_submodule(name) for name in twin.layer_of)
    with torch.no_grad():
        first.weight.zero_()
    assert float(second.weight.detach().abs().max()) > 0
    assert np.abs(run(twin.write_back(), graph.input())[0]).max() == 0


def test_an_operator_that_cannot_be_trained_is_named_with_its_node() -> None:
    graph = Graph((1, 4, 5, 5))
    graph.add("LRN", size=3)
    with pytest.raises(UnsupportedModel, match=r"LRN/0.*LRN"):
        to_torch(graph.model())


def test_nodes_whose_names_mean_something_to_torch_get_others() -> None:
    graph = Graph((1, 4, 5, 5))
    for name in ("train", "a/b", "a.b", "forward"):
        graph.add("Conv", graph.random(4, 4, 1, 1))
        graph.nodes[-1].name = name
    twin = to_torch(graph.model())
    assert list(twin.layer_of) == ["layer_train", "a_b", "a_b_2", "layer_forward"]
    check_equal(graph.model(), graph.input())


@pytest.mark.slow
def test_the_published_detector_computes_the_same() -> None:
    model = nanodet.import_onnx(
        assets.pull("nanodet.json"), assets.pull("nanodet.bin"), size=(256, 192)
    )
    x = np.random.default_rng(0).standard_normal((1, 3, 192, 256)).astype(np.float32)
    check_equal(model, x)
