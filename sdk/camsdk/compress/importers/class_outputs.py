"""The output of a classifier or a segmentation network as its decoder has it: logits.

Frameworks put the classes along the last axis or the second, and often end in a Softmax. Decoders
take logits along axis 1: their scores are the Softmax, which costs devices nothing that they would
not compute anyway, and codes of logits lose less than codes of probabilities.
"""

from collections.abc import Iterator
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
_FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_TOLERANCE: Final = 1e-4
_HALF_TOLERANCE: Final = 0.02
"""Relative: logits of about 30 in float16 leave scores that far off."""
_TURNED: Final = {(0, 2, 3, 1): 3, (0, 3, 1, 2): 1}
"""Where the classes are after a Transpose between the two layouts of images."""
_RANDOM_INPUTS: Final = 4


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
        UnsupportedModel: It ends in a Softmax along another axis than that of the classes; holds
            scores from 0 to 1 of another making; or does not tell which axis has the classes.
        RuntimeFailure: The model does not run.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    (given,) = _answers(made, output, example)
    axes = _class_axes(given, output, kind, class_count)
    moves, softmax = _end(made.graph, output)
    if softmax is not None:
        softmax.op_type = "Identity"
        del softmax.attribute[:]
        (logits,) = _answers(made, output, example)
        axes = [axis for axis in axes if _are_scores(given, logits, axis)]
        if not axes:
            raise UnsupportedModel(
                f"the Softmax before {output!r} is not along the classes",
                "export the model without it",
            )
    axis = axes[0]
    if len(axes) > 1 and given.size > 1:
        axis = _told_axis(moves, output, given.shape, example.shape)
    _refuse_scores(made, output, example)
    if axis == 1:
        return made, output
    return made, _with_classes_second(made.graph, output, given.shape, kind)


def _answers(model: onnx.ModelProto, output: str, *inputs: Array) -> Iterator[Array]:
    session = Session(model.SerializeToString(deterministic=True))
    return (np.asarray(session.infer(each)[output]) for each in inputs)


def _are_scores(given: Array, logits: Array, axis: int) -> bool:
    """Whether an output is the Softmax of logits along an axis."""
    scores = class_scores(np.moveaxis(logits, axis, 0).astype(np.float32))
    wanted = np.moveaxis(given, axis, 0)
    return np.allclose(wanted, scores, rtol=_HALF_TOLERANCE, atol=_TOLERANCE)


def _refuse_scores(model: onnx.ModelProto, output: str, example: Array) -> None:
    """Of scores a decoder would take the Softmax once more; logits leave the range from 0 to 1."""
    generator, limits = np.random.default_rng(0), (float(example.min()), float(example.max()))
    others = (
        generator.uniform(*limits, example.shape).astype(example.dtype)
        for _ in range(_RANDOM_INPUTS)
    )
    if all(
        answer.min() >= -_TOLERANCE and answer.max() <= 1 + _TOLERANCE
        for answer in _answers(model, output, example, *others)
    ):
        raise UnsupportedModel(
            f"output {output!r} stays between 0 and 1 whatever the picture: it holds scores, where "
            "logits are needed",
            "export logits: leave out what makes scores of them at the end, such as Softmax or "
            "Sigmoid and what follows it",
        )


def _told_axis(
    moves: list[onnx.NodeProto], output: str, shape: tuple[int, ...], taken: tuple[int, ...]
) -> int:
    """The axis of the classes where sizes fit both: by a Transpose, or by the input's layout."""
    for node in moves:
        if node.op_type == "Transpose":
            perm = tuple(next((list(item.ints) for item in node.attribute), ()))
            if perm in _TURNED:
                return _TURNED[perm]
    layouts = [axis for axis in (1, 3) if len(taken) == 4 and taken[axis] == 3]
    if len(layouts) != 1:
        raise UnsupportedModel(
            f"output {output!r} of shape {shape} may have its classes at axis 1 or 3",
            "export the model for a picture of another size, so that rows or columns are not as "
            "many as classes",
        )
    return layouts[0]


def _class_axes(given: NDArray[np.generic], output: str, kind: Kind, class_count: int) -> list[int]:
    """The axes that may be that of the classes, by size."""
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
    return found


def _end(graph: onnx.GraphProto, output: str) -> tuple[list[onnx.NodeProto], onnx.NodeProto | None]:
    """The nodes before an output that only move values, last first; and the Softmax before them."""
    makers = {name: node for node in graph.node for name in node.output}
    moves, node = [], makers.get(output)
    while node is not None and (node.op_type in _MOVES or _is_float_cast(node)):
        moves.append(node)
        node = makers.get(node.input[0])
    return moves, node if node is not None and node.op_type == "Softmax" else None


def _is_float_cast(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        item.name == "to" and item.i in _FLOATS for item in node.attribute
    )


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
