"""What every imported model must be: valid ONNX that onnxruntime loads, of static shapes.

``runnable`` is the last step of an importer. It only loads the model, without optimising it:
folding all constants would already run a stranger's graph. What shapes are computed from alone is
folded, within limits (``shape_folding``).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import onnx
import onnxruntime
from onnx import TensorProto, helper

from camsdk.compress.importers.shape_folding import (
    ShapeFolding,
    deciding,
    depends_on_inputs,
    known_shapes,
)
from camsdk.compress.sessions import ENGINE_FAILURES
from camsdk.errors import NotFound, ResourceExhausted, UnsupportedModel

MAX_FILE_BYTES: Final = 512 << 20
"""Of one model file. The largest models that cameras run have a tenth of it."""

MAX_TENSOR_ELEMENTS: Final = 1 << 28
"""Of one tensor inside a model: 1 GiB of float32."""

MAX_VECTOR_ELEMENTS: Final = 1 << 22
"""Of one tensor of a single axis. ONNX's inference takes every such tensor for a shape and makes an
object of each of its numbers, 50 bytes or more: a constant of 2^31 numbers took 4 GiB."""

MAX_FOLLOWED: Final = 1 << 12
"""Elements of an initializer whose values inference is given: shapes, pads, scales, indices."""

CHECKER_ERRORS: Final = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    ValueError,
    RuntimeError,
    MemoryError,
)
"""What onnx raises about a model."""


def read_limited(path: Path, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a file that is not larger than ``limit_bytes``.

    Raises:
        NotFound: It is missing or no regular file.
        ResourceExhausted: It is larger.
    """
    try:
        if not path.is_file():
            raise NotFound(f"there is no file {path}", "give the path of the model file")
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise NotFound(f"the file {path} cannot be read: {error}") from error
    if len(data) > limit_bytes:
        raise ResourceExhausted(
            f"the file {path} is larger than {limit_bytes} bytes", "models for cameras are smaller"
        )
    return data


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with unique node names and without stated shapes inside, after all checks.

    Shapes that are computed from constants and from other shapes are constants in it.

    Raises:
        UnsupportedModel: The checker or onnxruntime refuses it, or a shape is not static.
        ResourceExhausted: A tensor in it would be too large.
    """
    name_nodes(model.graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except CHECKER_ERRORS as error:
        raise UnsupportedModel(f"the imported graph is not valid ONNX: {error}") from error
    check_bounded(model)
    _check_loads(model)
    return model


def check_bounded(model: onnx.ModelProto) -> None:
    """That no tensor can grow with what a picture shows.

    Forgets the stated shapes of those inside, and folds what they are computed from
    (``settle_shapes``).

    Raises:
        UnsupportedModel: A shape is not static.
        ResourceExhausted: A tensor would be too large.
    """
    del model.graph.value_info[:]  # inference would believe them
    inferred = settle_shapes(model)
    _check_inner_shapes(inferred.graph)
    for info in [*inferred.graph.input, *inferred.graph.output]:
        if not is_static(info.type.tensor_type):
            raise _refused(f"the shape of {info.name!r} is not known, or has a length of 0")


def settle_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """As ``with_shapes``, after the arithmetic that shapes follow from was folded, in place."""
    folding = ShapeFolding(model)
    inferred = with_shapes(model)
    while folding.fold(inferred.graph):
        inferred = with_shapes(model)
    return inferred


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same without large weights, with all shapes as far as they follow from the inputs'.

    Raises:
        UnsupportedModel: They do not fit, or something is no tensor.
        ResourceExhausted: A tensor would be too large.
    """
    light, count = _without_weights(model), len(model.graph.input)
    try:
        # Values are followed only through tensors of which the sizes are known to be moderate.
        _inferred(light, count, is_following=False)
        return _inferred(light, count, is_following=True)
    except CHECKER_ERRORS as error:
        raise UnsupportedModel(f"the shapes in the graph do not fit: {error}") from error


def _inferred(light: onnx.ModelProto, count: int, *, is_following: bool) -> onnx.ModelProto:
    """With shapes and without the inputs after the first ``count``; values may be followed."""
    found = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=is_following)
    del found.graph.input[count:]
    _check_sizes(found.graph)
    return found


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initializers are inputs, after the others: inference copies it all."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph, inputs = light.graph, {info.name for info in model.graph.input}
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= MAX_FOLLOWED:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            shape = list(tensor.dims)
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    return light


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name that no other has, in place; names that are unique stay."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for node in graph.node:
        name = node.name
        if not name or name in seen:
            stem = name or f"{node.op_type}_{node.output[0] if node.output else ''}"
            name, count = stem, 1
            while name in seen or name in taken:
                name, count = f"{stem}_{count}", count + 1
        seen.add(name)
        node.name = name


def _check_sizes(graph: onnx.GraphProto) -> None:
    for info in [*graph.input, *graph.output, *graph.value_info]:
        if info.type.WhichOneof("value") != "tensor_type":
            raise UnsupportedModel(
                f"tensor {info.name!r} is a {info.type.WhichOneof('value')}",
                "only graphs of tensors can be imported",
            )
        tensor = info.type.tensor_type
        elements = 1
        for dim in tensor.shape.dim:
            elements *= max(dim.dim_value, 1)
        limit = MAX_VECTOR_ELEMENTS if len(tensor.shape.dim) == 1 else MAX_TENSOR_ELEMENTS
        if elements > limit:
            raise ResourceExhausted(
                f"tensor {info.name!r} would have {elements} elements", f"at most {limit} are taken"
            )


def _check_inner_shapes(graph: onnx.GraphProto) -> None:
    """A length that is computed from a picture can be anything: of a few bytes, of 32 GiB."""
    known = known_shapes(graph)
    for node in graph.node:
        for name in node.output:
            if not name or name in known:
                continue
            if depends_on_inputs(graph).isdisjoint(deciding(node)):
                raise _refused(
                    f"the shape of {name!r} cannot be computed before the model runs, or what it "
                    "is computed from is too large"
                )
            raise _refused(f"the shape of {name!r} depends on data: on values of an input")


def _refused(what: str) -> UnsupportedModel:
    return UnsupportedModel(what, "export the model with fixed shapes, without its post-processing")


def is_static(tensor: onnx.TypeProto.Tensor) -> bool:
    """Whether a tensor type has a known shape with positive lengths."""
    return tensor.HasField("shape") and all(dim.dim_value > 0 for dim in tensor.shape.dim)


def _check_loads(model: onnx.ModelProto) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except ENGINE_FAILURES as error:
        raise UnsupportedModel(f"onnxruntime does not load the model: {error}") from error


ELEMENT_BITS: Final[Mapping[int, int]] = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.BOOL: 8,
}
"""Bits of one element, of every type that an imported model may store."""
