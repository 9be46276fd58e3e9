"""The outputs of TensorFlow's detection models as the decoder ``boxes-scores-classes`` has them.

TensorFlow's Object Detection API gives corners as fractions, top first, and a score for each class
with a background before them; the decoder takes corners in pixels, left first, and one class a box.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers.runnable import runnable
from camsdk.errors import InvalidInput


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
    boxes, scores = (info.name for info in graph.output)
    if shapes[1][2] != class_count + 1:
        raise InvalidInput(
            f"the model's output {scores!r} has shape {shapes[1]}, its {class_count} classes say "
            f"{(*shapes[1][:2], class_count + 1)}",
            "name all its classes but the background, which comes first and is none of them",
        )
    height, width = given[1:3]
    stored: dict[str, NDArray[Any]] = {
        "ssd/order": np.array([1, 0, 3, 2], np.int64),
        "ssd/size": np.array([width, height, width, height], np.float32),
        "ssd/first": np.array([1], np.int64),
        "ssd/last": np.array([shapes[1][2]], np.int64),
        "ssd/axis": np.array([2], np.int64),
    }
    for name, value in stored.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    rows: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Gather", [boxes, "ssd/order"], "ssd/corners", {"axis": 2}),
        ("Mul", ["ssd/corners", "ssd/size"], "boxes", {}),
        ("Slice", [scores, "ssd/first", "ssd/last", "ssd/axis"], "ssd/objects", {}),
        ("ReduceMax", ["ssd/objects"], "scores", {"axes": [2], "keepdims": 0}),
        ("ArgMax", ["ssd/objects"], "ssd/best", {"axis": 2, "keepdims": 0}),
        ("Cast", ["ssd/best"], "classes", {"to": TensorProto.FLOAT}),
    ]
    for op, inputs, output, attributes in rows:
        graph.node.append(helper.make_node(op, inputs, [output], name=output, **attributes))
    del graph.output[:]
    count = shapes[0][1]
    for name, shape in {
        "boxes": (1, count, 4),
        "scores": (1, count),
        "classes": (1, count),
    }.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return runnable(made)
