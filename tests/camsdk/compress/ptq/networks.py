"""Small networks for the tests of quantization after training."""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
SHAPE = (1, 3, 12, 12)


def build(
    nodes: list[onnx.NodeProto], values: Mapping[str, NDArray[np.generic]], output: tuple[int, ...]
) -> onnx.ModelProto:
    """A model from "x" of ``SHAPE`` to "y"."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def chain(seed: int = 0, *, spread: float = 1.0, activation: str = "Relu") -> onnx.ModelProto:
    """Conv 3x3, activation, depthwise 3x3, activation, Conv 1x1, mean, Gemm.

    Args:
        spread: Filters of the first layer differ in size by up to e^spread either way, and
            what reads them makes up for it: equalization can undo that.
        activation: "Relu", "LeakyRelu" or "Clip" (Relu6).
    """
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(-spread, spread, (8, 1, 1, 1)))
    values: dict[str, NDArray[np.generic]] = {
        "w1": (rng.normal(size=(8, 3, 3, 3)) * sizes / 5).astype(np.float32),
        "b1": (rng.normal(size=8) * sizes.ravel() / 4).astype(np.float32),
        "w2": (rng.normal(size=(8, 1, 3, 3)) / sizes / 3).astype(np.float32),
        "b2": (rng.normal(size=8) / 4).astype(np.float32),
        "w3": (rng.normal(size=(6, 8, 1, 1)) / 3).astype(np.float32),
        "w4": (rng.normal(size=(5, 6)) / 2).astype(np.float32),
        "b4": (rng.normal(size=5) / 4).astype(np.float32),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    limits = ["zero", "six"] if activation == "Clip" else []
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["c1", *limits], ["r1"], name="r1"),
        helper.make_node(
            "Conv", ["r1", "w2", "b2"], ["c2"], name="deep", group=8, pads=[1] * 4, strides=[2, 2]
        ),
        helper.make_node(activation, ["c2", *limits], ["r2"], name="r2"),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], name="point"),
        helper.make_node("GlobalAveragePool", ["c3"], ["g"], name="mean"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], name="last", transB=1),
    ]
    if not limits:
        values = {key: value for key, value in values.items() if key not in ("zero", "six")}
    return build(nodes, values, (1, 5))


def normalised(seed: int = 0) -> onnx.ModelProto:
    """Conv, BatchNorm, Relu, Conv, BatchNorm, with statistics that no input has."""
    rng = np.random.default_rng(seed)
    values: dict[str, NDArray[np.generic]] = {
        "w1": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(size=(4, 8, 1, 1)).astype(np.float32),
    }
    for layer, count in (("1", 8), ("2", 4)):
        signs = rng.choice([-1.0, 1.0], count)  # a negative gamma turns a filter over
        values["gamma" + layer] = (rng.uniform(0.5, 1.5, count) * signs).astype(np.float32)
        values["beta" + layer] = rng.normal(size=count).astype(np.float32)
        values["mean" + layer] = rng.normal(size=count).astype(np.float32)
        values["var" + layer] = rng.uniform(0.5, 4, count).astype(np.float32)

    def norm(layer: str, before: str, after: str) -> onnx.NodeProto:
        names = [key + layer for key in ("gamma", "beta", "mean", "var")]
        return helper.make_node("BatchNormalization", [before, *names], [after], name="n" + layer)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        norm("1", "c1", "n1"),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second"),
        norm("2", "c2", "y"),
    ]
    return build(nodes, values, (1, 4, 12, 12))


def inputs(count: int, seed: int = 3) -> list[Floats]:
    """Noise on a colour that differs from picture to picture, so that outputs differ too."""
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=SHAPE) + 2 * rng.normal(size=(1, 3, 1, 1))).astype(np.float32)
        for _ in range(count)
    ]
