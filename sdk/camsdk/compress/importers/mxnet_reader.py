"""Reading MXNet's two files: the symbol as JSON and the parameters as a list of NDArrays.

The binary format is that of ``mx.nd.save`` (``NDArray::Load`` in MXNet's sources): 64-bit magic
0x112, a reserved word, the arrays, their names; everything little-endian. An array begins with the
magic of its version; the oldest have none and begin with their rank. Sparse arrays are refused.
"""

import ast
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.onnx_emitter import Array
from camsdk.compress.importers.runnable import MAX_TENSOR_ELEMENTS, read_limited
from camsdk.errors import DataCorrupted, ResourceExhausted, UnsupportedModel

MAX_JSON_BYTES: Final = 64 << 20
MAX_NODES: Final = 50_000
MAX_ARRAYS: Final = 100_000
MAX_RANK: Final = 8

_LIST_MAGIC: Final = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES: Final = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?")


class _Bytes:
    """A cursor that never reads beyond the end."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._data, self._path, self._at = data, path, 0

    def take(self, count: int) -> memoryview:
        if count > len(self._data) - self._at:
            raise DataCorrupted(f"{self._path} is truncated")
        self._at += count
        return memoryview(self._data)[self._at - count : self._at]

    def numbers(self, layout: str) -> tuple[int, ...]:
        layout = f"<{layout}"
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def number(self, layout: str) -> int:
        return self.numbers(layout)[0]


def read_params(path: Path) -> Mapping[str, Array]:
    """Read a .params file: float32 arrays (integers stay) by name, without ``arg:``, ``aux:``.

    Raises:
        NotFound: There is no such file.
        DataCorrupted: Truncated or malformed.
        UnsupportedModel: A sparse array.
        ResourceExhausted: It is too large.
    """
    source = _Bytes(read_limited(path), path)
    magic, _, count = source.numbers("QQQ")
    if magic != _LIST_MAGIC or count > MAX_ARRAYS:
        raise DataCorrupted(f"{path} is no MXNet .params file")
    arrays = [_array(source, path) for _ in range(count)]
    if source.number("Q") != count:
        raise DataCorrupted(f"{path} does not name each of its {count} arrays")
    names = []
    for _ in range(count):
        try:
            name = bytes(source.take(source.number("Q"))).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataCorrupted(f"{path} has a name that is no text") from error
        names.append(name.removeprefix("arg:").removeprefix("aux:"))
    return dict(zip(names, arrays, strict=True))


def _array(source: _Bytes, path: Path) -> Array:
    magic = source.number("I")
    if magic in (_V2, _V3) and source.number("i") not in (0, -1):
        raise UnsupportedModel(f"{path} holds a sparse array", "save it dense")
    rank = source.number("i") if magic in (_V1, _V2, _V3) else magic
    if not 0 <= rank <= MAX_RANK:
        raise DataCorrupted(f"{path} has an array of {rank} axes")
    if rank == 0 and magic != _V3:
        return np.zeros(0, np.float32)  # an array that was never filled
    shape = source.numbers(f"{rank}q" if magic in (_V1, _V2, _V3) else f"{rank}I")
    elements = 1
    for length in shape:
        if length < 0:
            raise DataCorrupted(f"{path} has an array of shape {shape}")
        elements *= length
    if elements > MAX_TENSOR_ELEMENTS:
        raise ResourceExhausted(f"{path} has an array of shape {shape}")
    _, _, kind = source.numbers("iii")  # the device is of no interest
    if not 0 <= kind < len(_DTYPES):
        raise DataCorrupted(f"{path} has an array of the unknown element type {kind}")
    dtype = np.dtype(_DTYPES[kind])
    value = np.frombuffer(source.take(elements * dtype.itemsize), dtype).reshape(shape)
    return value.astype(np.float32) if dtype.kind == "f" else value


@dataclass(frozen=True)
class Node:
    """One node of a symbol.

    Attributes:
        op: Its operator, or ``null`` for a variable.
        inputs: Index of a node and of its output.
        options: Attributes as text.
    """

    name: str
    op: str
    inputs: tuple[tuple[int, int], ...]
    options: Mapping[str, str]

    def _value(self, key: str) -> Any:
        text = self.options.get(key)
        if text is None or len(text) > 1000:
            return None
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text

    def _wrong(self, key: str, what: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"layer {self.name!r} ({self.op}) has {key} {self.options.get(key)!r}, not {what}"
        )

    def text(self, key: str, default: str = "") -> str:
        return self.options.get(key, default)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._value(key)
        if value is None:
            return default
        if value not in (True, False):
            raise self._wrong(key, "a truth value")
        return bool(value)

    def number(self, key: str, default: float) -> float:
        value = self._value(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        return float(value)

    def integer(self, key: str, default: int) -> int:
        """An integer; ``None`` in the file means the default."""
        value = self.number(key, default)
        if value != int(value):
            raise self._wrong(key, "an integer")
        return int(value)

    def integers(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        value = self._value(key)
        if value is None:
            return default
        values = (value,) if isinstance(value, int) else value
        is_fine = isinstance(values, tuple | list) and all(
            isinstance(item, int) and abs(item) < 1 << 31 for item in values
        )
        if not is_fine:
            raise self._wrong(key, "integers")
        return tuple(int(item) for item in values)


@dataclass(frozen=True)
class Symbol:
    """A graph: nodes after all of their inputs, and what it returns."""

    nodes: tuple[Node, ...]
    heads: tuple[tuple[int, int], ...]


def read_symbol(path: Path) -> Symbol:
    """Read a symbol's JSON.

    Raises:
        NotFound: There is no such file.
        DataCorrupted: Truncated or malformed.
        ResourceExhausted: It is too large.
    """
    try:
        document = json.loads(read_limited(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataCorrupted(
            f"{path} is not valid JSON, it may be truncated", "fetch it again"
        ) from error
    try:
        rows = document["nodes"]
        if len(rows) > MAX_NODES:
            raise ResourceExhausted(f"{path} has {len(rows)} nodes", f"at most {MAX_NODES}")
        nodes = tuple(_node(row, index) for index, row in enumerate(rows))
        heads = tuple(_reference(head, len(nodes)) for head in document["heads"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataCorrupted(f"{path} is no MXNet symbol: {error!r}") from error
    if not heads:
        raise DataCorrupted(f"{path} returns nothing")
    return Symbol(nodes, heads)


def _node(row: Mapping[str, Any], index: int) -> Node:
    options: dict[str, str] = {}
    for key in ("param", "attr", "attrs"):  # what successive versions call them
        options |= {str(name): str(value) for name, value in (row.get(key) or {}).items()}
    inputs = tuple(_reference(item, index) for item in row["inputs"])
    return Node(str(row["name"]), str(row["op"]), inputs, options)


def _reference(item: Any, limit: int) -> tuple[int, int]:
    index, output = int(item[0]), int(item[1])
    if not 0 <= index < limit or output < 0:
        raise ValueError(f"reference {item} reaches beyond the nodes before it")
    return index, output
