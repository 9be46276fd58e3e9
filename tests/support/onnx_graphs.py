"""Small ONNX models built node by node, and how they run in onnxruntime and as torch twins."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.graph.qdq import ActivationRange

OPSET = 17


def run(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def run_torch(twin: Any, *inputs: np.ndarray) -> list[np.ndarray]:
    twin.module.eval()
    with torch.no_grad():
        outputs = twin.module(*(torch.from_numpy(x) for x in inputs))
    return [y.numpy() for y in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs)]


class Graph:
    """Builds a model node by node."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []
        self.last = "x"

    def hold(self, array: Any, kind: type = np.float32) -> str:
        name = f"held_{len(self.held)}"
        self.held.append(numpy_helper.from_array(np.asarray(array, kind), name))
        return name

    def random(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.hold(self.rng.standard_normal(shape) / np.sqrt(fan))

    def add(self, operator: str, *others: str, outputs: int = 1, inputs=None, **given: Any) -> str:
        name = f"{operator}/{len(self.nodes)}"
        names = [f"{name}:{index}" for index in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, inputs or [self.last, *others], names, name=name, **given)
        )
        self.last = names[0]
        return self.last

    def norm(self, channels: int) -> str:
        gamma = self.rng.uniform(0.5, 1.5, channels) * self.rng.choice([-1, 1], channels)
        values = (gamma, self.rng.normal(size=channels), self.rng.normal(size=channels) * 0.1,
                  self.rng.uniform(0.5, 2.0, channels))  # fmt: skip
        return self.add("BatchNormalization", *(self.hold(v) for v in values))

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
             for name in outputs or (self.last,)],
            self.held,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 9
        return onnx.shape_inference.infer_shapes(model)

    def input(self, *, seed: int = 1) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(self.shape).astype(np.float32)


def residual(seed: int = 0, *, batch: int = 1) -> Graph:
    """A small residual classifier with BatchNorm everywhere."""
    graph = Graph((batch, 3, 12, 12), seed)
    graph.add("Conv", graph.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    graph.norm(8)
    shortcut = graph.add("Relu")
    graph.add("Conv", graph.random(8, 1, 3, 3), pads=[1] * 4, group=8)
    graph.norm(8)
    graph.add("Relu")
    graph.add("Conv", graph.random(8, 8, 1, 1))
    graph.norm(8)
    graph.add("Add", shortcut)
    graph.add("Relu")
    graph.add("GlobalAveragePool")
    graph.add("Reshape", graph.hold([batch, -1], np.int64))
    graph.add("Gemm", graph.random(8, 5), graph.random(5))
    return graph


def chain(seed: int = 0) -> Graph:
    """Like ``residual``, without a shortcut: every tensor enters one layer."""
    graph = Graph((1, 3, 12, 12), seed)
    graph.add("Conv", graph.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    graph.norm(8)
    graph.add("Relu")
    graph.add("Conv", graph.random(8, 1, 3, 3), pads=[1] * 4, group=8)
    graph.norm(8)
    graph.add("Relu")
    graph.add("Conv", graph.random(5, 8, 1, 1))
    return graph


def rounded(model: onnx.ModelProto, ranges: Mapping[str, ActivationRange]) -> onnx.ModelProto:
    """The float model with these tensors, and no others, rounded to their steps."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    behind: dict[str, list[onnx.NodeProto]] = {}
    for name, of in ranges.items():
        constants = {"scale": np.float32(of.scale), "zero": np.uint8(of.zero_point),
                     "most": np.uint8(of.largest)}  # fmt: skip
        for kind, value in constants.items():
            result.graph.initializer.append(
                numpy_helper.from_array(np.array(value), f"{name}.{kind}")
            )
        steps = [f"{name}.scale", f"{name}.zero"]
        behind[name] = [
            helper.make_node("QuantizeLinear", [name, *steps], [f"{name}.codes"]),
            helper.make_node("Clip", [f"{name}.codes", "", f"{name}.most"], [f"{name}.few"]),
            helper.make_node("DequantizeLinear", [f"{name}.few", *steps], [f"{name}.rounded"]),
        ]
    nodes = [node for value in result.graph.input for node in behind.get(value.name, ())]
    for source in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        del node.input[:]
        node.input.extend(f"{t}.rounded" if t in behind else t for t in source.input)
        nodes += [node, *(more for t in node.output for more in behind.get(t, ()))]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result
