"""What passes as the same, and what does not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.graph.equivalence import check_equivalent, relative_error
from camsdk.errors import InternalError, RuntimeFailure, UnsupportedModel


def _model(
    *nodes: onnx.NodeProto,
    shape: tuple[int | str, ...] = (2, 3),
    output: str = "y",
    factor: float = 2,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


_TWICE = helper.make_node("Mul", ["x", "factor"], ["y"])


def test_same_function_in_other_words() -> None:
    found = check_equivalent(_model(_TWICE), _model(helper.make_node("Add", ["x", "x"], ["y"])))
    assert found.worst == 0
    assert found.inputs == 6


def test_worst_error_is_relative_to_the_output() -> None:
    found = check_equivalent(_model(_TWICE), _model(_TWICE, factor=2.0001), tolerance=1e-3)
    assert found.worst == pytest.approx(5e-5, rel=0.01)
    assert found.tensor == "y"
    with pytest.raises(InternalError, match=r"'y' differs by 0\.000"):
        check_equivalent(_model(_TWICE), _model(_TWICE, factor=2.001))


@pytest.mark.parametrize(
    "other",
    [
        helper.make_node("Abs", ["x"], ["y"]),  # differs below zero only
        helper.make_node("Clip", ["x", "", "factor"], ["y"]),  # above two only
    ],
)
def test_extremes_are_tried(other: onnx.NodeProto) -> None:
    same = helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(InternalError):
        check_equivalent(_model(same), _model(other), random=0)


def test_real_inputs_are_tried() -> None:
    """A model that is wrong between 5000 and 6000 only: nothing made up finds it."""
    clip = helper.make_node("Clip", ["x", "", "factor"], ["y"])
    same = helper.make_node("Identity", ["x"], ["y"])
    before, after = _model(same), _model(clip, factor=5000)
    assert check_equivalent(before, after).worst == 0
    real = {"x": np.full((2, 3), 5500, np.float32)}
    with pytest.raises(InternalError):
        check_equivalent(before, after, [real])


def test_open_shape_needs_real_inputs() -> None:
    model = _model(_TWICE, shape=("rows", 3))
    with pytest.raises(UnsupportedModel, match="open"):
        check_equivalent(model, model)
    found = check_equivalent(model, model, [{"x": np.ones((4, 3), np.float32)}])
    assert found.inputs == 1


def test_other_outputs_and_broken_models_are_refused() -> None:
    renamed = _model(helper.make_node("Mul", ["x", "factor"], ["z"]), output="z")
    with pytest.raises(InternalError, match="become"):
        check_equivalent(_model(_TWICE), renamed)
    broken = _model(helper.make_node("NoSuchOperator", ["x"], ["y"]))
    with pytest.raises(RuntimeFailure, match="loaded"):
        check_equivalent(_model(_TWICE), broken)


@pytest.mark.parametrize(
    ("expected", "got", "error"),
    [
        (np.float32([1, -4]), np.float32([1, -3]), 0.25),
        (np.float32([0, 0]), np.float32([0, 0]), 0),
        (np.float32([np.nan, np.inf, 2]), np.float32([np.nan, np.inf, 1]), 0.5),
        (np.float32([np.nan, 2]), np.float32([1, 2]), np.inf),
        (np.float32([1, 2]), np.float32([np.nan, 2]), np.inf),
        (np.float32([np.inf]), np.float32([-np.inf]), np.inf),
        (np.float32([1]), np.float32([[1]]), np.inf),
        (np.float32([1]), np.float64([1]), np.inf),
        (np.array([1, 2]), np.array([1, 2]), 0),
        (np.array([1, 2]), np.array([1, 3]), np.inf),
    ],
)
def test_relative_error(expected: np.ndarray, got: np.ndarray, error: float) -> None:
    assert relative_error(expected, got) == error
