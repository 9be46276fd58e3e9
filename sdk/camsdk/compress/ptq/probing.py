"""Runs a model on calibration inputs and hands out tensors from inside it, one input at a time."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

from camsdk.compress.graph.layers import constants
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput, UnsupportedModel

Floats = NDArray[np.float32]


def input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """Of the model's only input.

    Raises:
        UnsupportedModel: It has more than one, or a size is open.
    """
    fixed = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in fixed]
    if len(inputs) != 1:
        raise UnsupportedModel(
            f"the model has {len(inputs)} inputs, calibration needs exactly one",
            "make the others constants before",
        )
    kind = inputs[0].type.tensor_type
    shape = tuple(size.dim_value for size in kind.shape.dim)
    if (
        kind.elem_type != TensorProto.FLOAT
        or not kind.HasField("shape")
        or min(shape, default=1) < 1
    ):
        raise UnsupportedModel(
            f"input {inputs[0].name!r} is no float32 tensor of a fixed shape",
            "import the model with a fixed input shape",
        )
    return shape


def float_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of all float32 tensors that depend on the input, in the order of the graph."""
    graph = shape_inference.infer_shapes(model).graph
    floats = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    fixed = constants(model)
    produced = [name for node in model.graph.node for name in node.output]
    names = [value.name for value in model.graph.input] + produced
    return tuple(name for name in names if name in floats and name not in fixed)


def prefix(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """The part of a model that computes ``tensors``, which become its outputs."""
    wanted, nodes = set(tensors), []
    outputs = sorted(wanted)
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= {name for name in node.input if name}
    part = onnx.ModelProto()
    part.ir_version = model.ir_version
    part.opset_import.extend(model.opset_import)
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.input.extend(model.graph.input)
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in wanted)
    part.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs
    )
    return part


def probe(
    model: onnx.ModelProto, tensors: Iterable[str], inputs: Iterable[Floats]
) -> Iterator[Mapping[str, Floats]]:
    """Values of tensors inside a model, one input after the other.

    Args:
        model: Float; one input.
        tensors: Names; the model's input is among those that can be named.
        inputs: Arrays of the input's shape.

    Returns:
        Per input, float32 arrays by name.

    Raises:
        RuntimeFailure: onnxruntime cannot run the model.
        InvalidInput: A tensor holds NaN or infinity for this input.
    """
    name = model.graph.input[0].name
    wanted = list(dict.fromkeys(tensors))
    inside = [tensor for tensor in wanted if tensor != name]
    session = Session(prefix(model, inside).SerializeToString()) if inside else None
    for number, tensor in enumerate(inputs, start=1):
        found: dict[str, Floats] = {name: tensor} if name in wanted else {}
        if session is not None:
            found.update({k: np.asarray(v, np.float32) for k, v in session.infer(tensor).items()})
        for key, value in found.items():
            if not np.isfinite(value).all():
                raise InvalidInput(
                    f"tensor {key!r} holds NaN or infinity for calibration input {number}",
                    "the model or this input is damaged",
                )
        yield found
