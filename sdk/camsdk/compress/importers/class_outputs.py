"""The output of a classifier or a segmentation network as its decoder has it: logits.

Frameworks put the classes along the last axis or the second, and often end in a Softmax. Decoders
take logits along axis 1: their scores are the Softmax, which costs devices nothing that they would
not compute anyway, and codes of logits lose less than codes of probabilities.
"""

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.decode import class_scores
from camsdk.artifact.manifest import Kind
from camsdk.compress.sessions import Array, Session
from camsdk.errors import InvalidInput, UnsupportedModel

_MOVES: Final = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
"""Operators that move values and change none."""
_TOLERANCE: Final = 1e-4


def as_logits(
    model: onnx.ModelProto, output: str, kind: Kind, class_count: int, example: Array
) -> tuple[onnx.ModelProto, str]:
    """Takes a Softmax off the end, and moves the classes to axis 1.

    Args:
        model: Unchanged.
        output: Of the model: (1, classes), (1, classes, 1, 1) or (1, 1, 1, classes) of a
            classifier; (1, classes, rows, columns) or (1, rows, columns, classes) of a segmenter.
        kind: ``classifier`` or ``segmenter``.
        class_count: How many names there are.
        example: An input, to look at the output of.

    Returns:
        The model, and the name of the output that holds its logits.

    Raises:
        InvalidInput: The output has another shape, or another number of classes.
        UnsupportedModel: It ends in a Softmax along another axis than that of the classes.
        RuntimeFailure: The model does not run.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    given = np.asarray(_answer(made, output, example))
    axis = _class_axis(given, output, kind, class_count)
    softmax = _last_softmax(made.graph, output)
    if softmax is not None:
        softmax.op_type = "Identity"
        del softmax.attribute[:]
        logits = np.moveaxis(_answer(made, output, example), axis, 0).astype(np.float32)
        if not np.allclose(class_scores(logits), np.moveaxis(given, axis, 0), atol=_TOLERANCE):
            raise UnsupportedModel(
                f"the Softmax before {output!r} is not along the classes",
                "export the model without it",
            )
    if axis == 1:
        return made, output
    return made, _with_classes_second(made.graph, output, given.shape, kind)


def _answer(model: onnx.ModelProto, output: str, example: Array) -> Array:
    return Session(model.SerializeToString(deterministic=True)).infer(example)[output]


def _class_axis(given: NDArray[np.generic], output: str, kind: Kind, class_count: int) -> int:
    shape = given.shape
    axes: tuple[int, ...] = (1, 3) if given.ndim == 4 else (1,)
    is_shaped = np.issubdtype(given.dtype, np.floating) and given.ndim > 1 and shape[0] == 1
    wanted = "(1, classes, rows, columns)"
    if kind == "classifier":
        wanted = "(1, classes)"
        axes = tuple(axis for axis in axes if is_shaped and shape[axis] == given.size)
    elif given.ndim != 4:
        axes = ()
    if not is_shaped or not axes:
        raise InvalidInput(
            f"output {output!r}, {given.dtype} of shape {shape}, is no {kind}'s: it takes float "
            f"logits {wanted}",
            "export the model with its batch of one and without ArgMax, or name another output",
        )
    found = [axis for axis in axes if shape[axis] == class_count]
    if not found:
        counts = " or ".join(dict.fromkeys(str(shape[axis]) for axis in axes))
        raise InvalidInput(
            f"output {output!r} of shape {shape} has {counts} classes, and {class_count} are named",
            "give one name for each class, in the order of the model, a background included",
        )
    return found[0]


def _last_softmax(graph: onnx.GraphProto, output: str) -> onnx.NodeProto | None:
    """The Softmax that the output comes from, if between the two values are only moved."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _MOVES:
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "Softmax" else None


def _with_classes_second(
    graph: onnx.GraphProto, output: str, shape: tuple[int, ...], kind: Kind
) -> str:
    """Appends what turns (1, rows, columns, classes) round; the new output's name."""
    name, (rows, columns, classes) = f"{output}/logits", shape[1:]
    if kind == "classifier":
        graph.initializer.append(
            numpy_helper.from_array(np.array([-1, classes], np.int64), f"{name}/shape")
        )
        node = helper.make_node("Reshape", [output, f"{name}/shape"], [name], name)
        after: tuple[int, ...] = (1, classes)
    else:
        node = helper.make_node("Transpose", [output], [name], name, perm=[0, 3, 1, 2])
        after = (1, classes, rows, columns)
    graph.node.append(node)
    index = [info.name for info in graph.output].index(output)
    graph.output[index].CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, after))
    return name
