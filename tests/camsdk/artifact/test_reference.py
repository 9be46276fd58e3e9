"""The reference interpreter against float kernels, and against arithmetic done by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from camsdk.artifact.reference import Reference
from camsdk.artifact.reference_operators import OPERATORS
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput, UnsupportedModel
from support import models
from support.qdq_net import QdqNet

IMAGE = np.random.default_rng(0).normal(size=(2, 4, 7, 9)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def case(operator: str, *constants: Any, x: np.ndarray = IMAGE, **attributes: Any) -> Any:
    """A model of one operator with these further inputs, and its input."""
    names = [f"c{index}" for index in range(len(constants))]
    outputs = ["y", "z"] if operator == "Split" else ["y"]
    node = helper.make_node(operator, ["x", *names], outputs, **attributes)
    arrays = {name: np.asarray(value) for name, value in zip(names, constants, strict=True)}
    kind = onnx.TensorProto.INT64 if operator == "Shape" else onnx.TensorProto.FLOAT
    return pytest.param(
        models.make_model([node], x.shape, out_dtype=kind, **arrays), x, id=operator
    )


CASES = [
    case("Add", weights(4, 1, 1)),
    case("AveragePool", kernel_shape=[2, 3], strides=[2, 2], pads=[0, 1, 1, 1]),
    case("BatchNormalization", weights(4), weights(4), weights(4), np.abs(weights(4))),
    case("Clip", np.float32(-0.5), np.float32(0.5)),
    case("Concat", weights(2, 1, 7, 9), axis=1),
    case("Conv", weights(6, 2, 3, 3), weights(6), group=2, strides=[2, 1], pads=[1, 0, 1, 1]),
    case("ConvTranspose", weights(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", weights(4, 3, 2, 2), group=2, strides=[2, 2], output_padding=[1, 0]),
    case("Div", np.float32(3)),
    case("Exp"),
    case("Flatten", axis=2),
    case("Gather", np.array([3, 0]), axis=1),
    case("Gemm", weights(8, 6), weights(8), x=ROWS, transB=1, alpha=0.5, beta=2.0),
    case("GlobalAveragePool"),
    case("HardSigmoid", alpha=0.3),
    case("HardSwish"),
    case("Identity"),
    case("LeakyRelu", alpha=0.2),
    case("MatMul", weights(6, 3), x=ROWS),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("Mul", weights(7, 9)),
    case("PRelu", weights(4, 1, 1)),
    case("Pad", np.array([0, 0, 1, 2, 0, 0, 0, 3]), np.float32(7)),
    case("ReduceMean", axes=[2, 3], keepdims=0),
    case("Relu"),
    case("Reshape", np.array([0, -1, 3])),
    case("Resize", np.zeros(0, np.float32), np.array([1, 1, 2, 3], np.float32), mode="linear"),
    case("Shape"),
    case("Sigmoid"),
    case("Slice", np.array([1, -2]), np.array([3, -99]), np.array([1, 3]), np.array([1, -2])),
    case("Softmax", axis=1),
    case("Split", np.array([1, 3]), axis=1),
    case("Sqrt", x=np.abs(IMAGE)),
    case("Squeeze", np.array([0]), x=IMAGE[:1]),
    case("Sub", weights(9)),
    case("Sum", weights(9), weights(7, 1)),
    case("Tanh"),
    case("Transpose", perm=[0, 2, 3, 1]),
    case("Unsqueeze", np.array([0, 2])),
]


@pytest.mark.parametrize(("model", "x"), CASES)
def test_float_operators_compute_as_onnxruntime(model: onnx.ModelProto, x: np.ndarray) -> None:
    expected = Session(model.SerializeToString()).infer(x)["y"]
    found = Reference(model.SerializeToString()).run({"x": x})["y"]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


def test_every_operator_has_a_case() -> None:
    assert {param.id for param in CASES} | {"Constant"} == set(OPERATORS)


def test_a_convolution_rounds_as_computed_by_hand() -> None:
    """One pixel, one weight: 0.5 * (x - 3) * 0.25 * w / 0.5, half to even."""
    net = QdqNet((1, 1, 1, 9), 0)
    x = net.quantized("x", scale=0.5, zero_point=3)
    codes, scale, zero = (
        net.constant(value)
        for value in (np.full((1, 1, 1, 1), 2, np.int8), np.float32([0.25]), np.zeros(1, np.int8))
    )
    w = net.node("DequantizeLinear", [codes, scale, zero], axis=0)
    y = net.quantized(net.node("Conv", [x, w]), scale=0.5, zero_point=10)
    content = net.model(y).SerializeToString()
    reference = Reference(content)
    name = reference.quantized_tensors[-1]
    image = np.array([-99, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 999], np.float32).reshape(1, 1, 1, 9)
    found = Reference(content, [name]).run({"x": image})[name]
    # Codes less 3 are -3 -3 -2 -1 0 1 2 3 252; halved: -1.5 and 1.5 go to 2, 0.5 to 0.
    assert found.ravel().tolist() == [8, 8, 9, 10, 10, 10, 11, 12, 136]
    assert dict(reference.unit_operators) == {name: "Conv"}


def test_a_bound_between_operator_and_quantization_clips_the_codes() -> None:
    net = QdqNet((1, 4), 0)
    x = net.quantized("x", scale=1, zero_point=100)
    doubled = net.node("Relu", [net.node("Add", [x, x])])
    y = net.quantized(doubled, scale=1, zero_point=100)
    content = net.model(y).SerializeToString()
    name = Reference(content).quantized_tensors[-1]
    image = np.array([[-9, -1, 1, 9]], np.float32)
    found = Reference(content, [name]).run({"x": image})[name]
    assert found.tolist() == [[100, 100, 102, 118]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("antialias", 1),
        ("axes", [2, 3]),
        ("exclude_outside", 1),
        ("keep_aspect_ratio_policy", "not_larger"),
    ],
)
def test_what_later_opsets_added_to_resize_is_refused(name: str, value: Any) -> None:
    node = helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear", **{name: value})
    model = models.make_model([node], IMAGE.shape, s=np.array([2, 4, 4, 4]))
    with pytest.raises(UnsupportedModel, match=f"Resize with {name}"):
        Reference(model.SerializeToString()).run({"x": IMAGE})


def build(make: Callable[[], Sequence[onnx.NodeProto]]) -> bytes:
    return models.make_model(make(), [4]).SerializeToString()


def test_what_it_does_not_know_is_said_before_it_runs() -> None:
    with pytest.raises(UnsupportedModel, match="Hardmax"):
        Reference(build(lambda: [helper.make_node("Hardmax", ["x"], ["y"])]))
    relu = build(lambda: [helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(InvalidInput, match="nowhere"):
        Reference(relu, ["nowhere"])
    with pytest.raises(InvalidInput, match="x is missing"):
        Reference(relu).run({})
