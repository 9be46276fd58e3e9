"""Optimised graphs compute the same, with less in them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from camsdk import assets
from camsdk.compress import nanodet
from camsdk.compress.codes import project
from camsdk.compress.graph.equivalence import check_equivalent
from camsdk.compress.graph.folding import fold
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.graph.layout import cancel_transposes
from camsdk.compress.graph.optimise import optimise
from camsdk.compress.options import CodeSet
from camsdk.errors import UnsupportedModel

_TO_NHWC, _TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
_STEPS = (
    "conv", "depthwise", "transposed", "bn", "relu", "clip", "add", "concat", "pool", "round trip",
    "nhwc relu", "nhwc add", "nhwc concat", "identity", "dropout", "mul", "div", "sub", "from",
    "pad", "dead", "same", "constant",
)  # fmt: skip


class Network:
    """Grows a random network, step by step, that ends in a product."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, NDArray[np.generic]] = {}
        self.last, self.shape = "x", (1, 3, 8, 8)
        self.count = 0

    def array(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        name = f"constant{len(self.arrays)}"
        self.arrays[name] = self.rng.uniform(low, high, shape).astype(np.float32)
        return name

    def emit(self, op: str, inputs: Sequence[str], **attributes: object) -> str:
        self.count += 1
        name = f"t{self.count}"
        # As many exporters do, every other node goes without a name.
        named = f"n{self.count}" if self.count % 2 else ""
        self.nodes.append(helper.make_node(op, list(inputs), [name], named, **attributes))
        return name

    def conv(self, groups: int = 1) -> str:
        channels = self.shape[1]
        weight = self.array(4 if groups == 1 else channels, channels // groups, 3, 3)
        bias = [self.array(self.arrays[weight].shape[0])] if self.rng.random() < 0.5 else []
        return self.emit("Conv", [self.last, weight, *bias], pads=[1] * 4, group=groups)

    def bn(self, channels: int) -> str:
        values = [self.array(channels), self.array(channels), self.array(channels)]
        variance = self.array(channels, low=0.1)
        return self.emit("BatchNormalization", [self.last, *values, variance], epsilon=1e-3)

    def step(self, kind: str) -> None:
        """One of ``_STEPS``."""
        batch, channels, rows, columns = self.shape
        last = self.last
        if kind == "conv":
            self.last, channels = self.conv(), 4
        elif kind == "depthwise":
            self.last = self.conv(channels)
        elif kind == "transposed":
            self.last = self.emit("ConvTranspose", [last, self.array(channels, 2, 1, 1)])
            channels = 2
        elif kind == "bn":
            self.last = self.bn(channels)
        elif kind == "relu":
            self.last = self.emit("Relu", [last])
        elif kind == "clip":
            self.arrays["six"] = np.array(6, np.float32)
            self.last = self.emit("Clip", [last, "", "six"])
        elif kind == "add":
            self.last = self.emit("Add", [last, self.emit("Sigmoid", [last])])
        elif kind == "concat":
            self.last = self.emit("Concat", [last, self.emit("Tanh", [last])], axis=1)
            channels *= 2
        elif kind == "pool":
            self.last = self.emit("MaxPool", [last], kernel_shape=[3, 3], pads=[1] * 4)
        elif kind == "round trip":
            inner = self.emit("Transpose", [last], perm=_TO_NHWC)
            self.last = self.emit("Transpose", [inner], perm=_TO_NCHW)
        elif kind.startswith("nhwc"):
            channels *= self.nhwc(kind.split()[1])
        elif kind in ("identity", "dropout"):
            self.last = self.emit(kind.capitalize(), [last])
        elif kind in ("mul", "div", "sub"):
            self.last = self.emit(kind.capitalize(), [last, self.array(channels, 1, 1, low=0.5)])
        elif kind == "from":
            self.last = self.emit("Sub", [self.array(channels, 1, 1), last])
        elif kind == "pad":
            self.arrays["pads"] = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
            padded = self.emit("Pad", [last, "pads"])
            self.last = self.emit("Conv", [padded, self.array(4, channels, 3, 3)])
            channels = 4
        elif kind == "dead":
            self.emit("Relu", [self.conv()])
        elif kind == "same":
            self.last = self.emit("Add", [self.emit("Relu", [last]), self.emit("Relu", [last])])
        elif kind == "constant":
            value = self.emit("Exp", [self.array(channels, 1, 1)])
            self.last = self.emit("Add", [last, value])
        self.shape = (batch, channels, rows, columns)

    def nhwc(self, kind: str) -> int:
        """A step in the other layout; how many times as many channels there are then."""
        inner = self.emit("Transpose", [self.last], perm=_TO_NHWC)
        if kind == "concat":
            other = self.emit("Transpose", [self.emit("Relu", [self.last])], perm=_TO_NHWC)
            inner = self.emit("Concat", [inner, other], axis=-1)
        elif kind == "add":
            inner = self.emit("Add", [inner, self.array(self.shape[1])])
        else:
            inner = self.emit("Relu", [inner])
        self.last = self.emit("Transpose", [inner], perm=_TO_NCHW)
        return 2 if kind == "concat" else 1

    def model(self) -> onnx.ModelProto:
        """With global pooling, a product and a bias at the end."""
        pooled = self.emit("Flatten", [self.emit("GlobalAveragePool", [self.last])])
        product = self.emit("MatMul", [pooled, self.array(self.shape[1], 5)])
        result = self.emit("Add", [product, self.array(5)])
        outputs = {result: (1, 5), self.last: self.shape}
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
            [helper.make_tensor_value_info(*item) for item in _typed(outputs)],
            [numpy_helper.from_array(value, name) for name, value in self.arrays.items()],
        )
        return _valid(graph)


def _typed(outputs: Mapping[str, tuple[int, ...]]) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(name, TensorProto.FLOAT, shape) for name, shape in outputs.items() if name != "x"]


def _valid(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return model


def _network(*steps: str) -> onnx.ModelProto:
    network = Network(0)
    for step in steps:
        network.step(step)
    network.last = network.emit("Sigmoid", [network.last])  # outputs keep what is before them
    return network.model()


@example(0, ["dropout"], False)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(_STEPS), max_size=10), st.booleans())
def test_random_networks_compute_the_same(
    seed: int, steps: list[str], keep_batchnorm: bool
) -> None:
    network = Network(seed)
    for step in steps:
        network.step(step)
    model = network.model()
    as_given = model.SerializeToString()
    optimised = optimise(model, keep_batchnorm=keep_batchnorm)
    assert model.SerializeToString() == as_given
    assert check_equivalent(model, optimised.model, random=3).worst < 1e-4
    report = optimised.report
    assert report.after.nodes <= report.before.nodes
    assert report.after.macs.total <= report.before.macs.total
    names = [node.name for node in optimised.model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert "Dropout" not in report.after.operators
    # An output that is an input or another output can only be an Identity.
    assert report.after.operators.get("Identity", 0) <= 1
    used = {name for node in optimised.model.graph.node for name in node.input}
    assert set(constants(optimised.model)) <= used


@pytest.mark.parametrize(
    ("steps", "operators"),
    [
        (("conv", "bn", "relu"), {"Conv": 1, "Relu": 1}),
        (("depthwise", "mul", "bn"), {"Conv": 1}),
        (("transposed", "bn", "mul"), {"ConvTranspose": 1}),
        (("conv", "mul", "constant", "sub", "div", "from"), {"Conv": 1}),
        *((("conv", step), {"Conv": 1}) for step in ("mul", "div", "sub", "from", "constant")),
        (("relu", "pad"), {"Relu": 1, "Conv": 1}),
        (("conv", "identity", "dropout", "bn"), {"Conv": 1}),
        (("conv", "dead", "bn"), {"Conv": 1}),
        (("round trip", "conv"), {"Conv": 1}),
        (("conv", "nhwc relu", "nhwc add"), {"Conv": 1, "Relu": 1, "Add": 1}),
        (("conv", "nhwc add"), {"Conv": 1}),
        (("conv", "nhwc concat"), {"Conv": 1, "Relu": 1, "Concat": 1}),
        (("conv", "same"), {"Conv": 1, "Relu": 1, "Add": 1}),
    ],
)
def test_what_is_left(steps: tuple[str, ...], operators: dict[str, int]) -> None:
    left = dict(optimise(_network(*steps)).report.after.operators)
    end = {"Sigmoid": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert left == {**operators, **end}


def test_batchnorm_stays_for_training_and_is_folded_later() -> None:
    model = _network("conv", "bn", "relu", "depthwise", "bn", "round trip")
    kept = optimise(model, keep_batchnorm=True).model
    assert [node.op_type for node in kept.graph.node][:5] == [
        "Conv", "BatchNormalization", "Relu", "Conv", "BatchNormalization",
    ]  # fmt: skip
    folded = fold(kept).model
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    assert check_equivalent(model, folded).worst < 1e-5
    names = [layer.name for layer in list_layers(kept)]
    assert names == [layer.name for layer in list_layers(folded)]
    assert names[0] in {node.name for node in model.graph.node}


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([CodeSet(1), CodeSet(2), CodeSet(3, "power-of-two"), CodeSet(8)]),
    st.sampled_from(["filter", "tensor"]),
)
def test_folding_leaves_codes_but_for_signs(seed: int, code_set: CodeSet, shared: str) -> None:
    network = Network(seed)
    for step in ("conv", "bn", "relu", "transposed", "bn", "mul"):
        network.step(step)
    kept = optimise(network.model(), keep_batchnorm=True).model
    stored = constants(kept)
    coded = {
        layer.name: project(
            layer.filters_first(stored[layer.weight]).astype(np.float32),
            code_set,
            "filter" if shared == "filter" else "tensor",
        )
        for layer in list_layers(kept)
    }
    for layer in list_layers(kept):  # the model whose weights are the codes
        values = layer.as_stored(coded[layer.name].values)
        for tensor in kept.graph.initializer:
            if tensor.name == layer.weight:
                tensor.CopyFrom(numpy_helper.from_array(values, layer.weight))
    folded = fold(kept, coded)
    assert check_equivalent(kept, folded.model).worst < 1e-5
    after = constants(folded.model)
    for layer in list_layers(folded.model):
        now = folded.weights[layer.name]
        np.testing.assert_array_equal(np.abs(now.codes), np.abs(coded[layer.name].codes))
        np.testing.assert_array_equal(layer.filters_first(after[layer.weight]), now.values)
        assert np.all(now.scale > 0)


def test_channels_that_batchnorm_switches_off_have_no_codes() -> None:
    network = Network(0)
    network.step("conv")
    network.step("bn")
    network.arrays[network.nodes[-1].input[1]] = np.array([0, 1, 1, 1], np.float32)
    network.step("relu")
    kept = optimise(network.model(), keep_batchnorm=True).model
    layer = list_layers(kept)[0]
    coded = project(constants(kept)[layer.weight].astype(np.float32), CodeSet(8))
    now = fold(kept, {layer.name: coded}).weights[layer.name]
    assert not now.codes[0].any()
    assert now.codes[1].any()
    assert np.all(now.scale > 0)


def test_equal_initializers_are_shared_and_gemm_factors_folded() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(40, 40)).astype(np.float32)
    layers = [
        helper.make_node("Gemm", [a, w, "b"], [b], b, alpha=0.5, beta=2.0)
        for (a, b), w in zip(pairwise(["x", "middle", "y"]), ("w", "w2"), strict=True)
    ]
    graph = helper.make_graph(
        layers,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 40))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 40))],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(weights, "w2"),
            numpy_helper.from_array(weights[0], "b"),
        ],
    )
    optimised = optimise(_valid(graph))
    assert optimised.report.before.parameters == 3240
    assert optimised.report.after.parameters == 1640
    assert not any(
        item.name in ("alpha", "beta")
        for node in optimised.model.graph.node
        for item in node.attribute
    )


def test_transpose_that_others_read_stays() -> None:
    network = Network(0)
    inner = network.emit("Transpose", ["x"], perm=_TO_NHWC)
    relu = network.emit("Relu", [inner])
    back = network.emit("Transpose", [relu], perm=_TO_NCHW)
    both = [("s", TensorProto.FLOAT, (1, 8, 8, 3)), (back, TensorProto.FLOAT, (1, 3, 8, 8))]
    network.nodes.append(helper.make_node("Sigmoid", [inner], ["s"], "s"))
    graph = helper.make_graph(
        network.nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info(*item) for item in both],
    )
    model = _valid(graph)
    left = [node.op_type for node in cancel_transposes(model).graph.node]
    assert left.count("Transpose") == 2
    assert check_equivalent(model, optimise(model).model).worst == 0


def test_transpose_before_a_sum_of_more_axes_stays() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], "t", perm=[0, 2, 1]),
            helper.make_node("Add", ["t", "c"], ["y"], "a"),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 4, 3))],
        [numpy_helper.from_array(np.ones((1, 1, 1, 3), np.float32), "c")],
    )
    model = _valid(graph)
    left = [node.op_type for node in cancel_transposes(model).graph.node]
    assert left == ["Transpose", "Add"]


def test_branch_that_is_never_taken_is_gone() -> None:
    info = helper.make_tensor_value_info("r", TensorProto.FLOAT, (1, 3))
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["x"], ["r"], f"{name} {op}")], name, [], [info]
        )
        for name, op in (("then_branch", "Relu"), ("else_branch", "Sigmoid"))
    }
    graph = helper.make_graph(
        [
            helper.make_node("Not", ["no"], ["yes"], "not"),
            helper.make_node("If", ["yes"], ["chosen"], "if", **branches),
            helper.make_node("Tanh", ["chosen"], ["y"], "tanh"),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3))],
        [numpy_helper.from_array(np.array(False), "no")],
    )
    assert optimise(_valid(graph)).report.after.operators == {"Relu": 1, "Tanh": 1}


def test_inputs_that_nothing_reads_stay() -> None:
    model = _network("conv")
    model.graph.input.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, (2,)))
    optimised = optimise(model).model
    assert [value.name for value in optimised.graph.input] == ["x", "unused"]
    assert [v.name for v in optimised.graph.output] == [v.name for v in model.graph.output]


def test_open_shape_is_refused() -> None:
    model = _network("conv")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedModel, match="open"):
        optimise(model)


@pytest.mark.slow
def test_nanodet_computes_the_same() -> None:
    model = nanodet.import_onnx(assets.pull("nanodet.json"), assets.pull("nanodet.bin"))
    report = optimise(model).report
    assert report.before.operators["Identity"] == 3
    assert "Identity" not in report.after.operators
    assert report.after.macs == report.before.macs
    assert report.equivalence.worst < 1e-5
