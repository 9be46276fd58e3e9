"""TensorFlow's raw boxes and scores become a detector of the classes that were named."""

import onnx
import pytest
from onnx import TensorProto, helper

from camsdk.compress.importers.ssd_boxes import as_detector
from camsdk.errors import InvalidInput


def raw_detector(score_count: int) -> onnx.ModelProto:
    """Boxes (1, 16, 4) and scores (1, 16, score_count) that are the picture's first values."""
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("x", (1, 8, 8, 3)), ("raw/boxes", (1, 16, 4)), ("raw/scores", (1, 16, score_count)),
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
        helper.make_node("Reshape", ["b", "raw/boxes/shape"], ["raw/boxes"]),
        helper.make_node("Reshape", ["s", "raw/scores/shape"], ["raw/scores"]),
    ]
    graph = helper.make_graph(nodes, "raw", infos[:1], infos[1:], sizes)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_the_background_is_no_class() -> None:
    made = as_detector(raw_detector(3), 2)
    assert [info.name for info in made.graph.output] == ["boxes", "scores", "classes"]


@pytest.mark.parametrize("class_count", [1, 3])
def test_another_number_of_classes_is_refused(class_count: int) -> None:
    wanted = rf"'raw/scores' has shape \(1, 16, 3\), .* say \(1, 16, {class_count + 1}\)"
    with pytest.raises(InvalidInput, match=wanted):
        as_detector(raw_detector(3), class_count)
