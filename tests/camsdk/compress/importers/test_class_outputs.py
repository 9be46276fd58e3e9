"""Scores become logits or are refused, and classes are found at their axis."""

import numpy as np
import onnx
import pytest

from camsdk.compress.importers.class_outputs import as_logits
from camsdk.compress.sessions import Session
from camsdk.errors import UnsupportedModel

EXAMPLE = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def network(tail: str, result: str, taken: str = "1,3,8,8", channels: int = 8) -> onnx.ModelProto:
    """Logits ``z`` (1, channels, 8, 8) of random weights; the tail makes ``y`` of them."""
    head = "" if taken == "1,3,8,8" else "c = Transpose <perm = [0, 3, 1, 2]> (x)"
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> net (float[{taken}] x) => (float[{result}] y) '
        f"{{ {head} z = Conv({'c' if head else 'x'}, w) {tail} }}"
    )
    weights = np.random.default_rng(2).normal(size=(channels, 3, 1, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.checker.check_model(model)
    return model


def answer(model: onnx.ModelProto, output: str, example: np.ndarray = EXAMPLE) -> np.ndarray:
    return np.asarray(Session(model.SerializeToString()).infer(example)[output])


POOL = "p = GlobalAveragePool(z) f = Flatten(p)"
HALF = "h = Cast <to = 10> (f) s = Softmax <axis = 1> (h) y = Cast <to = 1> (s)"


@pytest.mark.parametrize(
    "tail",
    [
        "s = Softmax <axis = 1> (f) y = Identity(s)",
        HALF,
        "s = Softmax <axis = 1> (f) h = Cast <to = 10> (s) y = Cast <to = 1> (h)",
    ],
)
def test_a_softmax_is_taken_off_through_casts(tail: str) -> None:
    wanted = answer(network(f"{POOL} y = Identity(f)", "1,8"), "y")
    made, output = as_logits(network(f"{POOL} {tail}", "1,8"), "y", "classifier", 8, EXAMPLE)
    np.testing.assert_allclose(answer(made, output), wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    "tail",
    [
        "s = Softmax <axis = 1> (f) a = Constant <value_float = 0.0> () "
        "b = Constant <value_float = 1.0> () y = Clip(s, a, b)",
        "y = Sigmoid(f)",
        "e = Exp(f) i = Constant <value_ints = [1]> () s = ReduceSum(e, i) y = Div(e, s)",
        "s = Softmax <axis = 1> (f) y = Softmax <axis = 1> (s)",
        "s = Softmax <axis = 1> (f) i = Cast <to = 7> (s) y = Cast <to = 1> (i)",
    ],
)
def test_other_scores_are_refused(tail: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"between 0 and 1.*export logits"):
        as_logits(network(f"{POOL} {tail}", "1,8"), "y", "classifier", 8, EXAMPLE)


def test_logits_that_one_picture_leaves_between_0_and_1_are_taken() -> None:
    model = network(f"{POOL} y = Identity(f)", "1,2", channels=2)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]).reshape(2, 3)
    means = np.linalg.pinv(weights) @ np.array([0.5, 0.4])
    pattern = np.where(np.indices((8, 8)).sum(0) % 2, 5, -5)
    example = (means.reshape(1, 3, 1, 1) + pattern).astype(np.float32)
    np.testing.assert_allclose(answer(model, "y", example), [[0.5, 0.4]], atol=1e-4)
    made, output = as_logits(model, "y", "classifier", 2, example)
    assert output == "y"
    assert made == model


def test_scores_of_a_network_of_whole_pixels_are_refused() -> None:
    model = network(f"{POOL} y = Sigmoid(f)", "1,8")
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.graph.node[0].input[0] = "xf"
    cast = onnx.helper.make_node("Cast", ["x"], ["xf"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    pixels = np.random.default_rng(4).integers(0, 256, EXAMPLE.shape, np.uint8)
    with pytest.raises(UnsupportedModel, match="export logits"):
        as_logits(model, "y", "classifier", 8, pixels)


def test_a_softmax_along_another_axis_is_refused() -> None:
    wrong = network("y = Softmax <axis = 2> (z)", "1,8,8,8")
    with pytest.raises(UnsupportedModel, match="not along the classes"):
        as_logits(wrong, "y", "segmenter", 8, EXAMPLE)
    few = network("y = Softmax <axis = 3> (z)", "1,5,8,8", channels=5)
    with pytest.raises(UnsupportedModel, match="not along the classes"):
        as_logits(few, "y", "segmenter", 5, EXAMPLE)


LAST = "t = Transpose <perm = [0, 2, 3, 1]> (z)"


@pytest.mark.parametrize(
    ("tail", "taken"),
    [
        ("y = Softmax <axis = 1> (z)", "1,3,8,8"),
        (f"{LAST} y = Softmax <axis = 3> (t)", "1,3,8,8"),
        (f"{LAST} r = Relu(t) n = Neg(r) y = Softmax <axis = 3> (n)", "1,3,8,8"),
        ("y = Identity(z)", "1,3,8,8"),
        (f"{LAST} y = Identity(t)", "1,3,8,8"),
        (f"{LAST} y = Neg(t)", "1,8,8,3"),
        (f"{LAST} n = Neg(t) y = Transpose <perm = [0, 3, 1, 2]> (n)", "1,8,8,3"),
    ],
)
def test_as_many_rows_as_classes(tail: str, taken: str) -> None:
    """The classes are told by the Softmax, by a Transpose at the end, or by the input's layout."""
    example = EXAMPLE if taken == "1,3,8,8" else np.moveaxis(EXAMPLE, 1, 3).copy()
    model = network(tail, "1,8,8,8", taken)
    made, output = as_logits(model, "y", "segmenter", 8, example)
    wanted = answer(network("y = Identity(z)", "1,8,8,8", taken), "y", example)
    if "Relu" in tail:
        wanted = -np.maximum(wanted, 0)
    elif "Neg" in tail:
        wanted = -wanted
    np.testing.assert_allclose(answer(made, output, example), wanted, rtol=1e-5, atol=1e-5)


def test_an_axis_that_nothing_tells_is_asked_for() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]>'
        "net (float[1,3,3,3] x) => (float[1,3,3,3] y) { y = Neg(x) }"
    )
    with pytest.raises(UnsupportedModel, match=r"axis 1 or 3.*another size"):
        as_logits(model, "y", "segmenter", 3, EXAMPLE[..., :3, :3])
