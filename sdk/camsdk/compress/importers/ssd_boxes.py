"""The outputs of TensorFlow's detection models as the decoder ``boxes-scores-classes`` has them.

TensorFlow's Object Detection API gives corners as fractions, top first, and a score for each class
with a background before them; the decoder takes corners in pixels, left first, and one class a box.
"""

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from camsdk.compress.importers.grafting import Graft
from camsdk.compress.importers.runnable import runnable
from camsdk.errors import InvalidInput

_OUTPUTS: Final = ("boxes", "scores", "classes")


def as_detector(model: onnx.ModelProto, class_count: int) -> onnx.ModelProto:
    """Appends the conversion.

    Args:
        model: Input (1, height, width, 3); outputs in this order: boxes (1, n, 4) as top, left,
            bottom, right from 0 to 1, and scores (1, n, classes + 1), background first. Unchanged.
        class_count: Of the classes that were named, the background not among them.

    Returns:
        The model with the outputs ``boxes`` (1, n, 4), ``scores`` (1, n) and ``classes`` (1, n),
        float32.

    Raises:
        InvalidInput: Other outputs, or of another number of classes.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    shapes = [
        tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) for info in graph.output
    ]
    given = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    if len(shapes) != 2 or len(shapes[1]) != 3 or shapes[0] != (*shapes[1][:2], 4):
        raise InvalidInput(
            f"outputs of shapes {shapes} are not raw boxes and scores",
            "choose them with --output, boxes first",
        )
    if len(given) != 4 or shapes[1][2] < 2:
        raise InvalidInput(f"an input of shape {given} with {shapes[1][2]} scores is no detector")
    if shapes[1][2] != class_count + 1:
        raise InvalidInput(
            f"the model's output {graph.output[1].name!r} has shape {shapes[1]}, its {class_count} "
            f"classes say {(*shapes[1][:2], class_count + 1)}",
            "name all its classes but the background, which comes first and is none of them",
        )
    _convert(made, given[2], given[1], shapes[1])
    del graph.output[:]
    count = shapes[0][1]
    for name, shape in zip(_OUTPUTS, ((1, count, 4), (1, count), (1, count)), strict=True):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return runnable(made)


def _convert(model: onnx.ModelProto, width: int, height: int, shape: tuple[int, ...]) -> None:
    """Append the nodes that make ``_OUTPUTS``, which nothing else is called any more.

    Args:
        width, height: Of the picture.
        shape: Of the scores.
    """
    graph, graft = model.graph, Graft(model)
    graft.make_room(_OUTPUTS)
    raw_boxes, raw_scores = (info.name for info in graph.output)
    boxes, scores, classes = _OUTPUTS
    order = graft.store("ssd/order", np.array([1, 0, 3, 2], np.int64))
    size = graft.store("ssd/size", np.array([width, height, width, height], np.float32))
    limits = [
        graft.store(f"ssd/{what}", np.array([value], np.int64))
        for what, value in (("first", 1), ("last", shape[2]), ("axis", 2))
    ]
    corners, objects, best = (graft.free(f"ssd/{what}") for what in ("corners", "objects", "best"))
    graph.node.extend(
        [
            helper.make_node("Gather", [raw_boxes, order], [corners], corners, axis=2),
            helper.make_node("Mul", [corners, size], [boxes], boxes),
            helper.make_node("Slice", [raw_scores, *limits], [objects], objects),
            graft.reduction("ReduceMax", objects, scores, [2], scores, keepdims=0),
            helper.make_node("ArgMax", [objects], [best], best, axis=2, keepdims=0),
            helper.make_node("Cast", [best], [classes], classes, to=TensorProto.FLOAT),
        ]
    )
