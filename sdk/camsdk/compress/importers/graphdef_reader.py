"""Reading a frozen TensorFlow graph: a serialized ``GraphDef`` whose weights are constants.

The message is read off the wire (``camsdk.artifact.protobuf_wire``) with the field numbers of
TensorFlow's ``graph.proto``, ``node_def.proto``, ``attr_value.proto`` and ``tensor.proto``, so that
TensorFlow is not needed. What comes out is what ``tfjs_reader`` reads from JSON: a TensorFlow.js
graph model is the same message in protobuf's JSON form.
"""

import base64
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from camsdk.artifact.protobuf_wire import as_message, fields, read_varint
from camsdk.compress.importers.runnable import MAX_TENSOR_ELEMENTS, read_limited
from camsdk.compress.importers.tfjs_reader import (
    MAX_NODES,
    MAX_RANK,
    Array,
    TfGraph,
    TfNode,
    node_of,
    ordered,
)
from camsdk.errors import DataCorrupted, InvalidInput, ResourceExhausted, UnsupportedModel

_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    19: np.dtype("<f2"),
}
"""``DataType`` of ``types.proto``, those that networks hold."""

_VALUES: Final[dict[int, tuple[int, str]]] = {
    1: (5, "<f4"),
    2: (6, "<f8"),
    3: (7, "varint"),
    4: (7, "varint"),
    5: (7, "varint"),
    6: (7, "varint"),
    9: (10, "varint"),
    10: (11, "varint"),
}
"""Which field of a ``TensorProto`` lists values one by one, and how each is written."""

_SIGN: Final = 1 << 63

_MAX_REPEATED: Final = 1 << 24
"""Numbers of a constant that stores one for all of them: a few bytes are never a GiB."""


def read_frozen_graph(
    path: Path,
    *,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    outputs: Iterable[str] | None = None,
) -> TfGraph:
    """Read the part of a frozen graph between its inputs and outputs.

    Args:
        path: The ``.pb`` file.
        inputs: Tensors that are given from outside, with their shapes. They may lie inside of the
            graph, after steps that cannot be imported; by default the placeholders.
        outputs: Tensors that are wanted; by default the nodes whose result nobody takes.

    Returns:
        The nodes that the outputs depend on, in topological order.

    Raises:
        NotFound: No such file.
        DataCorrupted: Not a ``GraphDef``, or truncated.
        UnsupportedModel: A loop, a constant of strings, weights that are not frozen.
        InvalidInput: The graph has no tensor of a name in ``inputs`` or ``outputs``.
        ResourceExhausted: The file or a constant is too large.
    """
    nodes, tensors = _read_nodes(memoryview(read_limited(path)), path)
    for name, shape in (inputs or {}).items():
        source = node_of(name)
        _check_known(source, nodes)
        rows = [{"size": length} for length in shape]
        nodes[source] = TfNode(source, "Placeholder", (), {"shape": {"shape": {"dim": rows}}})
    chosen = tuple(outputs or _sinks(nodes))
    for name in chosen:
        _check_known(node_of(name), nodes)
    needed = ordered(_needed(nodes, chosen))
    constants = {
        name: _read_tensor(tensors[name], name)
        for name, node in needed.items()
        if node.op == "Const" and name in tensors
    }
    for name, node in needed.items():
        if node.op == "Const" and name not in constants:
            raise DataCorrupted(f"constant {name!r} has no value")
        if node.op in ("VariableV2", "Variable", "VarHandleOp", "ReadVariableOp"):
            raise UnsupportedModel(
                f"layer {name!r} ({node.op}) is a variable: the graph is not frozen",
                "give the SavedModel folder that it belongs to, or freeze the graph",
            )
    return TfGraph(needed, constants, chosen)


def looks_like_graph(data: bytes) -> bool:
    """Whether the first bytes are those of a ``GraphDef`` whose first node has name and operator.

    Args:
        data: The first few kilobytes of a file, or all of it.
    """
    view = memoryview(data)
    try:
        if not view or view[0] != 0x0A:
            return False
        size, start = read_varint(view, 1)
        end = min(start + size, len(view))
        tag = start
        found: list[int] = []
        while tag < end and len(found) < 2:
            number = view[tag] >> 3
            if view[tag] & 7 != 2 or number not in (1, 2, 3):
                break
            length, begin = read_varint(view, tag + 1)
            found.append(number)
            text = bytes(view[begin : begin + length])
            if not text.isascii() or not text:
                return False
            tag = begin + length
    except (DataCorrupted, IndexError):
        return False
    return found == [1, 2]


def _check_known(name: str, nodes: Mapping[str, TfNode]) -> None:
    if name not in nodes:
        some = ", ".join(list(nodes)[:3] + list(nodes)[-5:])
        raise InvalidInput(f"the graph has no layer {name!r}", f"it has {len(nodes)}: {some}")


def _sinks(nodes: Mapping[str, TfNode]) -> tuple[str, ...]:
    used = {node_of(tensor) for node in nodes.values() for tensor in node.inputs}
    sinks = tuple(
        name for name, node in nodes.items() if name not in used and node.op not in _NO_RESULT
    )
    if not sinks:
        raise UnsupportedModel("the graph has no output: every result is taken by another layer")
    return sinks


_NO_RESULT: Final = frozenset({"Const", "Placeholder", "NoOp", "Assert"})


def _needed(nodes: Mapping[str, TfNode], outputs: Iterable[str]) -> dict[str, TfNode]:
    stack = [node_of(tensor) for tensor in outputs]
    needed: dict[str, TfNode] = {}
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        if name not in nodes:
            raise DataCorrupted(f"a layer takes input from {name!r}: no such layer")
        needed[name] = nodes[name]
        stack.extend(node_of(tensor) for tensor in nodes[name].inputs)
    return {name: node for name, node in nodes.items() if name in needed}


def _read_nodes(data: memoryview, path: Path) -> tuple[dict[str, TfNode], dict[str, memoryview]]:
    """Nodes by name, and the undecoded tensor of each that has one."""
    nodes: dict[str, TfNode] = {}
    tensors: dict[str, memoryview] = {}
    for number, value in fields(data):
        if number != 1:
            continue
        node, tensor = _read_node(as_message(value))
        if node.name in nodes:
            raise DataCorrupted(f"two layers are called {node.name!r}")
        nodes[node.name] = node
        if tensor is not None:
            tensors[node.name] = tensor
        if len(nodes) > MAX_NODES:
            raise ResourceExhausted(f"the graph has more than {MAX_NODES} nodes")
    if not nodes:
        raise DataCorrupted(f"{path} is not a frozen TensorFlow graph: it has no nodes")
    return nodes, tensors


def _read_node(data: memoryview) -> tuple[TfNode, memoryview | None]:
    name = op = ""
    inputs: list[str] = []
    attributes: dict[str, Any] = {}
    tensor: memoryview | None = None
    for number, value in fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            op = _text(value)
        elif number == 3:
            source = _text(value)
            if not source.startswith("^"):
                inputs.append(source)
        elif number == 5:
            key, attribute, held = _read_attribute(as_message(value))
            attributes[key] = attribute
            tensor = held if key == "value" and held is not None else tensor
    if not name or not op:
        raise DataCorrupted("a layer of the graph has no name or no operator")
    return TfNode(name, op, tuple(inputs), attributes), tensor


def _text(value: int | memoryview) -> str:
    try:
        return bytes(as_message(value)).decode()
    except UnicodeDecodeError as error:
        raise DataCorrupted("a name in the graph is not UTF-8") from error


def _read_attribute(data: memoryview) -> tuple[str, dict[str, Any], memoryview | None]:
    key, content = "", memoryview(b"")
    for number, value in fields(data):
        if number == 1:
            key = _text(value)
        elif number == 2:
            content = as_message(value)
    attribute: dict[str, Any] = {}
    tensor: memoryview | None = None
    for number, value in fields(content):
        if number == 1:
            attribute["list"] = _read_list(as_message(value))
        elif number == 8:
            tensor = as_message(value)
        elif number in _SCALARS:
            kind = _SCALARS[number]
            attribute[kind] = _scalar(kind, value)
    return key, attribute, tensor


_SCALARS: Final = {2: "s", 3: "i", 4: "f", 5: "b", 6: "type", 7: "shape"}
"""Fields of an ``AttrValue``, under the names of protobuf's JSON form."""


def _scalar(kind: str, value: int | memoryview) -> Any:
    if kind == "s":
        return base64.b64encode(as_message(value)).decode()
    if kind == "f":
        content = as_message(value)
        if len(content) != 4:
            raise DataCorrupted("an attribute of the graph is no float")
        return struct.unpack("<f", content)[0]
    if kind == "shape":
        return _read_shape(as_message(value))
    if not isinstance(value, int):
        raise DataCorrupted("an attribute of the graph is no integer")
    return bool(value) if kind == "b" else _signed(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= _SIGN else value


def _read_list(data: memoryview) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for number, value in fields(data):
        kind = _SCALARS.get(number)
        if kind is None:
            continue
        items = found.setdefault(kind, [])
        if kind in ("i", "b", "type") and not isinstance(value, int):
            items.extend(_signed(number) for number in _varints(value))
        elif kind == "f" and not isinstance(value, int) and len(value) % 4 == 0:
            items.extend(np.frombuffer(value, "<f4").tolist())
        else:
            items.append(_scalar(kind, value))
    return found


def _varints(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = read_varint(data, position)
        yield value


def _read_shape(data: memoryview) -> dict[str, Any]:
    rows: list[dict[str, int]] = []
    for number, value in fields(data):
        if number == 3 and value:
            return {"dim": None}
        if number == 2:
            sizes = [size for field, size in fields(as_message(value)) if field == 1]
            size = sizes[-1] if sizes else 0
            rows.append({"size": _signed(size) if isinstance(size, int) else -1})
    return {"dim": rows}


def _read_tensor(data: memoryview, name: str) -> Array:
    """The value of a ``TensorProto``; one listed value stands for all that follow."""
    kind, content = 0, memoryview(b"")
    lengths: tuple[int, ...] = ()
    listed: list[tuple[int, int | memoryview]] = []
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2:
            rows = _read_shape(as_message(value))["dim"] or ()
            lengths = tuple(row["size"] for row in rows)
        elif number == 4:
            content = as_message(value)
        elif number >= 5:
            listed.append((number, value))
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise UnsupportedModel(f"constant {name!r} has TensorFlow's element type {kind}")
    if len(lengths) > MAX_RANK or any(length < 0 for length in lengths):
        raise DataCorrupted(f"constant {name!r} has the shape {lengths}")
    count = math.prod(lengths)
    if count > MAX_TENSOR_ELEMENTS:
        raise ResourceExhausted(f"constant {name!r} has {count} elements")
    if len(content):
        if len(content) != count * dtype.itemsize:
            raise DataCorrupted(f"constant {name!r} has {len(content)} bytes for shape {lengths}")
        return _widened(np.frombuffer(content, dtype).reshape(lengths))
    values = _listed_values(listed, kind, name)
    if count > max(len(values), _MAX_REPEATED):
        raise ResourceExhausted(f"constant {name!r} repeats its value {count} times")
    if len(values) > count or (count and not len(values) and listed):
        raise DataCorrupted(f"constant {name!r} has {len(values)} values for shape {lengths}")
    result = np.zeros(count, dtype)
    result[: len(values)] = values
    result[len(values) :] = values[-1] if len(values) else 0
    return _widened(result.reshape(lengths))


def _listed_values(listed: list[tuple[int, int | memoryview]], kind: int, name: str) -> Array:
    field, form = _VALUES.get(kind, (0, ""))
    parts: list[Array] = [np.zeros(0, _DTYPES[kind])]  # int64 does not go through double
    for number, value in listed:
        if number != field:
            raise UnsupportedModel(f"constant {name!r} lists its values in field {number}")
        if isinstance(value, int):
            parts.append(np.array([_signed(value)], np.int64))
        elif form == "varint":
            parts.append(np.array([_signed(item) for item in _varints(value)], np.int64))
        elif len(value) % np.dtype(form).itemsize:
            raise DataCorrupted(f"constant {name!r} is cut")
        else:
            parts.append(np.frombuffer(value, form))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _widened(value: Array) -> Array:
    """Half and double precision become float32: that is what the converted graph computes in."""
    return value.astype(np.float32) if value.dtype.kind == "f" else value
