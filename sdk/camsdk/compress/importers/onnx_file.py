"""ONNX files of other tools become what the rest of the compression works on.

That is: opset 17 where ONNX can convert to it, float32, static shapes, constants as initializers,
unique node names, one file, and neither control flow nor sequences (``onnx_inlining``). Refused are
files that reach outside of themselves (external data), operators of other domains, functions,
control flow that depends on the input and models that are quantized already.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers.given_shapes import check_names, lacks_shape
from camsdk.compress.importers.onnx_fidelity import check_same
from camsdk.compress.importers.onnx_functions import expand
from camsdk.compress.importers.onnx_inlining import constant_of, inline
from camsdk.compress.importers.onnx_opsets import opset_of, to_opset
from camsdk.compress.importers.runnable import (
    ELEMENT_BITS,
    MAX_TENSOR_ELEMENTS,
    read_limited,
    runnable,
    settle_shapes,
)
from camsdk.errors import DataCorrupted, InvalidInput, ResourceExhausted, UnsupportedModel

MAX_NODES: Final = 100_000
MAX_RANK: Final = 8
MAX_LENGTH: Final = 1 << 20
"""Of one dimension of an input."""

_WIDE: Final = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
"""Element types that become float32."""

_QUANTIZED: Final = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)


def import_onnx_file(
    path: Path, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> onnx.ModelProto:
    """Import an ONNX file.

    Args:
        path: The file; it must hold all of its weights.
        input_shapes: Shape of each input that the file leaves free. A batch that alone is free
            becomes 1.

    Returns:
        A float32 model with static input and output shapes; opset 17, or the file's own newer one
        if ONNX cannot convert it down.

    Raises:
        NotFound: There is no such file.
        DataCorrupted: It is not an ONNX file, or truncated.
        UnsupportedModel: It uses external data, another domain, functions, control flow that
            depends on the input, an opset that cannot be converted, or is already quantized; names
            the node or tensor.
        InvalidInput: A free shape is missing in ``input_shapes``, or one there does not fit.
        ResourceExhausted: The file, or a tensor in it, is too large.
    """
    data = read_limited(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise DataCorrupted(f"{path} is not an ONNX file: {error}") from error
    if not model.HasField("graph") or not model.graph.node:
        raise DataCorrupted(f"{path} holds no ONNX graph", "it may be truncated")
    try:
        made = normalise(model, input_shapes=input_shapes)
        check_same(_in_float32(data), made)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError) as error:
        # Such as a name that is no text: protobuf hands it out as bytes.
        raise DataCorrupted(f"{path} holds a malformed graph: {error}") from error
    return made


def _in_float32(data: bytes) -> bytes:
    """A model file as it is, unless it computes in another precision."""
    model = onnx.ModelProto.FromString(data)
    if _WIDE.isdisjoint(_element_types(model.graph)):
        return data
    inline(model.graph, opset_of(model))
    _to_float32(model.graph)
    del model.graph.value_info[:]
    return model.SerializeToString()


def _element_types(graph: onnx.GraphProto) -> Iterator[int]:
    """Of all that is stored, declared or cast to, in branches too."""
    yield from (info.type.tensor_type.elem_type for info in [*graph.input, *graph.output])
    yield from (tensor.data_type for tensor in _tensors(graph))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype"):
                yield attribute.i
            if attribute.HasField("g"):
                yield from _element_types(attribute.g)


def normalise(
    model: onnx.ModelProto, *, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> onnx.ModelProto:
    """As ``import_onnx_file``, of a model in memory, which is changed."""
    check_safe(model)
    inline(model.graph, opset_of(model))
    _constants_to_initializers(model.graph)
    _drop_stored_inputs(model.graph)
    _to_float32(model.graph)
    _fix_inputs(model.graph, input_shapes or {})
    expand(model)
    model = to_opset(model)
    del model.metadata_props[:], model.training_info[:]
    return runnable(_with_shapes(model))


def check_safe(model: onnx.ModelProto) -> None:
    """Refuse what reaches outside of the file or cannot be analysed; reads only.

    Raises:
        UnsupportedModel: Names the tensor, node or function.
        DataCorrupted: A stored tensor has not as many bytes as its shape needs.
        ResourceExhausted: Too many nodes.
    """
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise ResourceExhausted(f"the graph has {len(graph.node)} nodes", f"at most {MAX_NODES}")
    if model.functions:
        raise UnsupportedModel(
            f"the model defines function {model.functions[0].name!r}",
            "export it with its functions inlined (onnx.inliner.inline_local_functions)",
        )
    if graph.sparse_initializer:
        raise UnsupportedModel("the model stores sparse tensors", "store them dense")
    _check_graph(graph)


def _check_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _check_stored(tensor)
    for node in graph.node:
        _check_node(node)


def _check_node(node: onnx.NodeProto) -> None:
    label = f"node {node.name or (node.output[0] if node.output else '')!r} ({node.op_type})"
    if node.domain not in ("", "ai.onnx"):
        raise UnsupportedModel(
            f"{label} is of domain {node.domain!r}", "only ONNX's own operators can be imported"
        )
    if node.op_type in _QUANTIZED:
        raise UnsupportedModel(
            f"the model is already quantized: {label}", "give the float model it was made from"
        )
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        if bodies and node.op_type not in ("If", "Loop"):
            raise UnsupportedModel(
                f"{label} is control flow", "export the model for one fixed input, traced"
            )
        for body in bodies:
            _check_graph(body)
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise UnsupportedModel(f"{label} holds a sparse tensor", "store it dense")
        for tensor in [attribute.t] if attribute.HasField("t") else attribute.tensors:
            _check_stored(tensor)


def _check_stored(tensor: onnx.TensorProto) -> None:
    """A tensor that lies within the file, whole."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise UnsupportedModel(
            f"tensor {tensor.name!r} lies in another file",
            "save the model as one file: onnx.save(onnx.load(path), path)",
        )
    bits = ELEMENT_BITS.get(tensor.data_type)
    if bits is None:
        kind = TensorProto.DataType.Name(tensor.data_type) if 0 < tensor.data_type < 24 else "?"
        raise UnsupportedModel(f"tensor {tensor.name!r} has the element type {kind}")
    if len(tensor.dims) > MAX_RANK or any(length < 0 for length in tensor.dims):
        raise DataCorrupted(f"tensor {tensor.name!r} has the shape {list(tensor.dims)}")
    elements = 1
    for length in tensor.dims:
        elements *= length
    if elements > MAX_TENSOR_ELEMENTS:
        raise ResourceExhausted(f"tensor {tensor.name!r} has {elements} elements")
    counts = (
        len(tensor.float_data),
        len(tensor.int32_data),
        len(tensor.int64_data),
        len(tensor.double_data),
        len(tensor.uint64_data),
    )
    stored = len(tensor.raw_data) * 8 // bits if tensor.HasField("raw_data") else sum(counts)
    if stored != elements:
        raise DataCorrupted(
            f"tensor {tensor.name!r} holds {stored} of {elements} elements",
            "the file may be truncated",
        )


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        value = constant_of(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            value.name = node.output[0]
            graph.initializer.append(value)
    del graph.node[:]
    graph.node.extend(kept)


def _drop_stored_inputs(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initializer was declared as an input too."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)
    if not graph.input or not graph.output:
        raise UnsupportedModel("the graph has no input or no output")


def _to_float32(graph: onnx.GraphProto) -> None:
    """Half, bfloat16 and double become float32, in tensors, casts and declarations."""
    for tensor in _tensors(graph):
        if tensor.data_type in _WIDE:
            value = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in _WIDE:
                attribute.i = TensorProto.FLOAT
    for info in [*graph.input, *graph.output]:
        tensor_type = info.type.tensor_type
        if tensor_type.elem_type in _WIDE:
            tensor_type.elem_type = TensorProto.FLOAT


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _fix_inputs(graph: onnx.GraphProto, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    names = [info.name for info in graph.input]
    check_names(input_shapes, names)
    for info in graph.input:
        if info.type.WhichOneof("value") != "tensor_type":
            raise UnsupportedModel(f"input {info.name!r} is not a tensor")
        tensor = info.type.tensor_type
        declared = [dim.dim_value for dim in tensor.shape.dim] if tensor.HasField("shape") else None
        shape = _chosen_shape(info.name, declared, input_shapes.get(info.name))
        info.type.CopyFrom(helper.make_tensor_type_proto(tensor.elem_type, shape))
    for info in graph.output:
        info.type.tensor_type.ClearField("shape")  # it may name free dimensions
    del graph.value_info[:]


def _chosen_shape(
    name: str, declared: list[int] | None, given: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The static shape of an input; free lengths are declared as 0."""
    shape = given
    if shape is None and declared is not None:
        is_batch_free = declared[:1] == [0] and len(declared) > 1
        shape = (1, *declared[1:]) if is_batch_free else tuple(declared)
    if shape is None or min(shape, default=1) <= 0:
        raise lacks_shape(name, declared)
    if len(shape) > MAX_RANK or max(shape, default=1) > MAX_LENGTH:
        raise lacks_shape(name, shape)
    fits = declared is None or (
        len(declared) == len(shape)
        and all(want in (0, length) for want, length in zip(declared, shape, strict=True))
    )
    if not fits:
        raise InvalidInput(
            f"the shape {shape} is given for input {name!r}, whose shape is {declared}",
            "a 0 there is free, everything else is fixed by the model",
        )
    return shape


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with the output shapes that follow from the inputs, also by arithmetic."""
    inferred = settle_shapes(model)
    for info, known in zip(model.graph.output, inferred.graph.output, strict=True):
        info.CopyFrom(known)
    return model
