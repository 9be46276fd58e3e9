"""TensorFlow's raw boxes and scores become a detector of the classes that were named."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from camsdk.compress.importers.ssd_boxes import as_detector
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput


def raw_detector(
    score_count: int, *, opset: int = 17, names: tuple[str, str] = ("raw/boxes", "raw/scores")
) -> onnx.ModelProto:
    """Boxes (1, 16, 4) and scores (1, 16, score_count) that are the picture's first values."""
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("x", (1, 8, 8, 3)), (names[0], (1, 16, 4)), (names[1], (1, 16, score_count)),
        )
    ]  # fmt: skip
    sizes = [helper.make_tensor("n", TensorProto.INT64, [2], [64, 16 * score_count])]
    sizes += [
        helper.make_tensor(f"{info.name}/shape", TensorProto.INT64, [3], [1, 16, width])
        for info, width in zip(infos[1:], (4, score_count), strict=True)
    ]
    sizes.append(helper.make_tensor("all", TensorProto.INT64, [2], [1, -1]))
    sizes.append(helper.make_tensor("rest", TensorProto.INT64, [1], [64 + 16 * score_count]))
    sizes += [
        helper.make_tensor("start", TensorProto.INT64, [1], [0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        helper.make_node("Reshape", ["x", "all"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "rest", "axis"], ["used"]),
        helper.make_node("Split", ["used", "n"], ["b", "s"], axis=1),
        helper.make_node("Reshape", ["b", f"{names[0]}/shape"], [names[0]]),
        helper.make_node("Reshape", ["s", f"{names[1]}/shape"], [names[1]]),
    ]
    graph = helper.make_graph(nodes, "raw", infos[:1], infos[1:], sizes)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def test_the_background_is_no_class() -> None:
    made = as_detector(raw_detector(3), 2)
    assert [info.name for info in made.graph.output] == ["boxes", "scores", "classes"]


@pytest.mark.parametrize("opset", [17, 18, 20])
@pytest.mark.parametrize("names", [("raw", "ssd/order"), ("boxes", "scores"), ("classes", "boxes")])
def test_any_opset_and_any_names_compute_the_same(names: tuple[str, str], opset: int) -> None:
    picture = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    made = as_detector(raw_detector(3, opset=opset, names=names), 2)
    found = Session(made.SerializeToString()).infer(picture)
    raw_boxes, raw_scores = np.split(picture.reshape(-1)[:112], [64])
    np.testing.assert_allclose(found["boxes"][0], raw_boxes.reshape(16, 4)[:, [1, 0, 3, 2]] * 8)
    scores = raw_scores.reshape(16, 3)[:, 1:]
    np.testing.assert_array_equal(found["scores"][0], scores.max(axis=1))
    np.testing.assert_array_equal(found["classes"][0], scores.argmax(axis=1))


@pytest.mark.parametrize("class_count", [1, 3])
def test_another_number_of_classes_is_refused(class_count: int) -> None:
    wanted = rf"'raw/scores' has shape \(1, 16, 3\), .* say \(1, 16, {class_count + 1}\)"
    with pytest.raises(InvalidInput, match=wanted):
        as_detector(raw_detector(3), class_count)
