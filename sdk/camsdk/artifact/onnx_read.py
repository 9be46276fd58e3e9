"""An ONNX file as plain values: nodes, attributes and constant tensors, read without onnx.

Reads the fields of ``onnx.proto`` that a network of operators needs and ignores the rest, so a file
of unknown origin goes through ``camsdk.artifact.onnx_check`` first. Subgraphs are not read.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.protobuf_wire import Span, as_message, fields, read_varint, spans
from camsdk.errors import DataCorrupted, UnsupportedModel

Array = NDArray[np.generic]
Attribute = int | float | str | Array | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

_DTYPES: Final = {
    1: "<f4",
    2: "u1",
    3: "i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "?",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}
"""By ``TensorProto.DataType``."""
_TYPED_FIELDS: Final = {4: "<f4", 5: "<i4", 7: "<i8", 10: "<f8", 11: "<u8"}
"""Of TensorProto: data that is not raw, by field number."""


_MAX_RANK: Final = 32


@dataclass(frozen=True)
class TensorSpan:
    """A constant tensor of the file whose data is raw bytes.

    Attributes:
        name: Of the tensor, or empty.
        shape: Its sizes.
        dtype: numpy's name of its type, such as ``<f4``.
        start, stop: Where its data lies in the file, bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int


@dataclass(frozen=True)
class Node:
    """One operator of the graph; an input that is left out has an empty name."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """The main graph of a model.

    Attributes:
        nodes: In the file's order, which is an order of execution.
        constants: Initializers by name.
        inputs, outputs: Names in order; inputs without initializers.
        opset: Version of ONNX's own operators.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int


def locate_initializers(data: bytes) -> tuple[TensorSpan, ...]:
    """All initializers with raw data, in the order of the file.

    Raises:
        DataCorrupted: Not a protobuf message.
    """
    found = []
    view = memoryview(data)
    for graph in _spans_of(view, slice(0, len(view)), 7):
        for tensor in _spans_of(view, graph, 5):
            located = _locate(view, tensor)
            if located is not None:
                found.append(located)
    return tuple(found)


def read_graph(data: bytes) -> Graph:
    """The main graph.

    Args:
        data: A serialized ``onnx.ModelProto``.

    Raises:
        DataCorrupted: Not a protobuf message, or without a graph.
        UnsupportedModel: A tensor's type is unknown, or a node has a subgraph.
    """
    opset, graph = 1, None
    for number, value in fields(memoryview(data)):
        if number == 7:
            graph = as_message(value)
        elif number == 8:
            ids = dict(fields(as_message(value)))
            if _text(ids.get(1, memoryview(b""))) in ("", "ai.onnx"):
                opset = _integer(ids.get(2, 1))
    if graph is None:
        raise DataCorrupted("the model file is not an ONNX model: it has no graph")
    return _read_graph(graph, opset)


def _read_graph(data: memoryview, opset: int) -> Graph:
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    inputs, outputs = list[str](), list[str]()
    for number, value in fields(data):
        if number == 1:
            nodes.append(_read_node(as_message(value)))
        elif number == 5:
            name, array = _read_tensor(as_message(value))
            constants[name] = array
        elif number in (11, 12):
            names = [_text(inner) for key, inner in fields(as_message(value)) if key == 1]
            (inputs if number == 11 else outputs).extend(names)
    free = tuple(name for name in inputs if name not in constants)
    return Graph(tuple(nodes), constants, free, tuple(outputs), opset)


def _read_node(data: memoryview) -> Node:
    inputs, outputs, name, operator = list[str](), list[str](), "", ""
    attributes: dict[str, Attribute] = {}
    for number, value in fields(data):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 3:
            name = _text(value)
        elif number == 4:
            operator = _text(value)
        elif number == 5:
            key, attribute = _read_attribute(as_message(value))
            attributes[key] = attribute
    return Node(name, operator, tuple(inputs), tuple(outputs), attributes)


def _read_attribute(data: memoryview) -> tuple[str, Attribute]:
    name, kind = "", 0
    values: dict[int, list[int | memoryview]] = {}
    for number, value in fields(data):
        if number == 1:
            name = _text(value)
        elif number == 20:
            kind = _integer(value)
        else:
            values.setdefault(number, []).append(value)
    match kind:
        case 1:
            return name, _floats(values.get(2, [b"\0\0\0\0"]))[-1]
        case 2:
            return name, _integers(values.get(3, [0]))[-1]
        case 3:
            return name, _text(values.get(4, [memoryview(b"")])[-1])
        case 4:
            if 5 not in values:
                raise DataCorrupted(f"the attribute {name} is to be a tensor and has none")
            return name, _read_tensor(as_message(values[5][-1]))[1]
        case 6:
            return name, _floats(values.get(7, []))
        case 7:
            return name, _integers(values.get(8, []))
        case 8:
            return name, tuple(_text(value) for value in values.get(9, []))
    raise UnsupportedModel(f"the attribute {name} has the type {kind}, which is not read here")


def _read_tensor(data: memoryview) -> tuple[str, Array]:
    name, shape, kind = "", list[int](), 0
    content: Array | None = None
    for number, value in fields(data):
        if number == 1:
            shape.extend(_integers([value]))
        elif number == 2:
            kind = _integer(value)
        elif number == 8:
            name = _text(value)
        elif number == 9:
            content = _raw(as_message(value), _dtype(kind))
        elif number in _TYPED_FIELDS:
            content = _typed(number, value, content)
    if content is None:
        content = np.zeros(0, _dtype(kind))
    if content.dtype != np.dtype(_dtype(kind)):
        # Small types travel as int32, half floats as their bits.
        is_half = kind == 10
        content = content.astype("<u2").view("<f2") if is_half else content.astype(_dtype(kind))
    if len(shape) > _MAX_RANK or min(shape, default=0) < 0 or math.prod(shape) != content.size:
        raise DataCorrupted(f"the tensor {name} has {content.size} values for the shape {shape}")
    return name, content.reshape(shape)


def _raw(data: memoryview, dtype: str) -> Array:
    if len(data) % np.dtype(dtype).itemsize:
        raise DataCorrupted(f"{len(data)} bytes are no whole number of values of type {dtype}")
    content: Array = np.frombuffer(data, dtype)
    return content


def _typed(number: int, value: int | memoryview, before: Array | None) -> Array:
    """Values of a repeated field, packed or not, after those that came before."""
    dtype = _TYPED_FIELDS[number]
    if number in (4, 10):
        content = _raw(as_message(value), dtype)
    else:
        content = np.array(_integers([value]), np.int64).astype(dtype)
    return content if before is None else np.concatenate([before, content])


def _locate(view: memoryview, tensor: Span) -> TensorSpan | None:
    name, shape, kind, raw = "", list[int](), 0, None
    for number, value in spans(view[tensor]):
        content = value if isinstance(value, int) else view[tensor][value]
        if number == 1:
            shape.extend(_integers([content]))
        elif number == 2:
            kind = _integer(content)
        elif number == 8:
            name = _text(content)
        elif number == 9 and not isinstance(value, int):
            raw = value
    if raw is None or kind not in _DTYPES:
        return None
    start: int = tensor.start
    return TensorSpan(name, tuple(shape), _DTYPES[kind], start + raw.start, start + raw.stop)


def _spans_of(view: memoryview, outer: Span, number: int) -> Iterator[Span]:
    """Where the fields of this number lie, from the start of ``view``."""
    for key, value in spans(view[outer]):
        if key == number and not isinstance(value, int):
            yield slice(outer.start + value.start, outer.start + value.stop)


def _dtype(kind: int) -> str:
    if kind not in _DTYPES:
        raise UnsupportedModel(f"a tensor has the type {kind}, which is not read here")
    return _DTYPES[kind]


def _integers(values: list[int | memoryview]) -> tuple[int, ...]:
    """Signed 64-bit integers of a repeated field, packed or not."""
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = read_varint(value, position)
            found.append(number)
    return tuple(number - (1 << 64) if number >= 1 << 63 else number for number in found)


def _floats(values: list[int | memoryview] | list[bytes]) -> tuple[float, ...]:
    raw = b"".join(bytes(value) for value in values if not isinstance(value, int))
    if len(raw) % 4:
        raise DataCorrupted("the model file is not an ONNX model: a float is cut")
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise DataCorrupted("the model file is not an ONNX model: a field has the wrong wire type")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(as_message(value)).decode("utf-8", "replace")
