"""Tiny ONNX models for tests, well-behaved and hostile. Every one maps ``x`` to ``y``."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.generic]


def make_model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    *,
    dtype: int = TensorProto.FLOAT,
    out_dtype: int = TensorProto.FLOAT,
    **initializers: Array,
) -> onnx.ModelProto:
    """A model of these nodes from ``x`` (``dtype``, ``shape``) to ``y`` (any shape)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", out_dtype, None)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def conv(size: int = 32, *, stride: int = 16, seed: int = 0) -> onnx.ModelProto:
    """One 3x3 convolution, float32 (1, 3, size, size) to 4 channels."""
    weights = np.random.default_rng(seed).normal(size=(4, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride, stride])
    return make_model([node], [1, 3, size, size], w=weights)


def endless_loop() -> onnx.ModelProto:
    """A Loop of 2**60 rounds over a float32 (1,)."""
    nothing: list[int] = []
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Mul", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, nothing),
            helper.make_tensor_value_info("c", TensorProto.BOOL, nothing),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, nothing),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
        ],
    )
    node = helper.make_node("Loop", ["n", "go", "x"], ["y"], body=body)
    return make_model([node], [1], n=np.array(2**60), go=np.array(True))


def slow_products(size: int = 1024, count: int = 400) -> onnx.ModelProto:
    """A chain of matrix products of allowed operators only: minutes of work from a few bytes."""
    nodes = [helper.make_node("Expand", ["x", "size"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(count)]
    nodes += [helper.make_node("ReduceMax", [f"m{count}"], ["y"])]
    return make_model(nodes, [1], size=np.array([size, size]))


def fill() -> onnx.ModelProto:
    """ConstantOfShape of as many float32 as ``x`` says, summed: the input decides on the memory."""
    nodes = [
        helper.make_node("Cast", ["x"], ["count"], to=TensorProto.INT64),
        helper.make_node("ConstantOfShape", ["count"], ["filled"]),
        helper.make_node("ReduceSum", ["filled"], ["y"]),
    ]
    return make_model(nodes, [1])


def constant_of_8_gib() -> onnx.ModelProto:
    """ConstantOfShape with a constant shape: the optimiser may fold it while loading."""
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["filled"]),
        helper.make_node("Add", ["filled", "x"], ["y"]),
    ]
    return make_model(nodes, [1], count=np.array([2 << 30]))


def external_data(location: str, offset: int | None = None) -> onnx.ModelProto:
    """Adds a tensor whose data lies in another file."""
    model = make_model([helper.make_node("Add", ["x", "w"], ["y"])], [4], w=np.ones(4, np.float32))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if offset is not None:
        tensor.external_data.add(key="offset", value=str(offset))
    return model


def custom_operator(domain: str = "evil.example", name: str = "Relu") -> onnx.ModelProto:
    """A node of a foreign domain."""
    return make_model([helper.make_node(name, ["x"], ["y"], domain=domain)], [4])


def wide_output(count: int) -> onnx.ModelProto:
    """Expands ``x`` to this many float32."""
    return make_model([helper.make_node("Expand", ["x", "s"], ["y"])], [1], s=np.array([count]))
