"""What a TensorFlow Lite file claims, checked before a library that trusts it opens it.

The file is a FlatBuffer (https://flatbuffers.dev/internals): tables point to their fields by
offsets, which nothing in the format keeps within the file. Here every offset is checked, with the
field numbers of TensorFlow's ``schema.fbs``. The converter itself reads the file afterwards, in the
child process of ``environment``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from camsdk.compress.importers.runnable import MAX_TENSOR_ELEMENTS, read_limited
from camsdk.errors import DataCorrupted, ResourceExhausted, UnsupportedModel

IDENTIFIER: Final = b"TFL3"
"""At byte 4 of every TensorFlow Lite FlatBuffer."""

MAX_ITEMS: Final = 100_000
"""Of one list: layers, tensors or buffers."""

MAX_STEPS: Final = 2_000_000
"""Fields and numbers read in all. Offsets may be shared: lists of a few bytes name each other's
tables any number of times."""

MAX_RANK: Final = 8
_CUSTOM: Final = 32
_ELEMENT_BYTES: Final = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1, 10: 8}
"""By ``TensorType``: float32, float16, int32, uint8, int64, bool, int16, int8, float64."""

_CONVERTED_CUSTOM: Final = frozenset({"TFLite_Detection_PostProcess"})
"""Custom operators that tf2onnx knows."""


def check_tflite(path: Path) -> None:
    """Check a file; returns nothing.

    Raises:
        NotFound: No such file.
        DataCorrupted: Not a TensorFlow Lite file, truncated, or an offset leads out of it.
        UnsupportedModel: A custom operator or a tensor that lies elsewhere; names the layer.
        ResourceExhausted: The file, a list or a tensor in it is too large.
    """
    data = read_limited(path)
    if data[4:8] != IDENTIFIER:
        raise DataCorrupted(f"{path} is not a TensorFlow Lite file", "it may be truncated")
    try:
        _Model(data).check()
    except (struct.error, UnicodeDecodeError) as error:
        raise DataCorrupted(
            f"{path} is damaged: an offset leads out of the file", "fetch it again"
        ) from error


class _File:
    """The bytes, and how much reading of them is left."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = MAX_STEPS

    def charge(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise ResourceExhausted(
                f"the TensorFlow Lite file takes more than {MAX_STEPS} steps to read",
                "models for cameras are smaller",
            )


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer; every read beyond the file is a ``struct.error``."""

    file: _File
    at: int

    @property
    def data(self) -> bytes:
        return self.file.data

    def _number(self, layout: str, at: int) -> int:
        if at < 0:
            raise struct.error("an offset before the file")
        (value,) = struct.unpack_from(f"<{layout}", self.data, at)
        return int(value)

    def place(self, field: int) -> int:
        """Where a field lies, or 0."""
        self.file.charge(1)
        table = self.at - self._number("i", self.at)
        size = self._number("H", table)
        offset = self._number("H", table + 4 + 2 * field) if 4 + 2 * field < size else 0
        return self.at + offset if offset else 0

    def integer(self, field: int, layout: str, default: int = 0) -> int:
        at = self.place(field)
        return self._number(layout, at) if at else default

    def _list(self, field: int, item_bytes: int) -> tuple[int, int]:
        """Start and length of a list whose items lie within the file."""
        at = self.place(field)
        if not at:
            return 0, 0
        start = at + self._number("I", at)
        count = self._number("I", start)
        if count * item_bytes > len(self.data) - start - 4:
            raise struct.error("a list beyond the file")
        return start + 4, count

    def content(self, field: int) -> int:
        """Length of a list of bytes."""
        return self._list(field, 1)[1]

    def text(self, field: int) -> str:
        start, count = self._list(field, 1)
        return self.data[start : start + min(count, 1000)].decode()

    def integers(self, field: int) -> tuple[int, ...]:
        start, count = self._list(field, 4)
        _check_count(count)
        self.file.charge(count)
        return struct.unpack_from(f"<{count}i", self.data, start)

    def tables(self, field: int) -> Iterator["_Table"]:
        start, count = self._list(field, 4)
        _check_count(count)
        for at in range(start, start + 4 * count, 4):
            self.file.charge(1)
            yield _Table(self.file, at + self._number("I", at))


def _check_count(count: int) -> None:
    if count > MAX_ITEMS:
        raise ResourceExhausted(f"the file has a list of {count}", f"at most {MAX_ITEMS}")


class _Model:
    """The root table."""

    def __init__(self, data: bytes) -> None:
        root = _Table(_File(data), int.from_bytes(data[:4], "little"))
        self._operators = [
            (max(code.integer(0, "b"), code.integer(3, "i")), code.text(1))
            for code in root.tables(1)
        ]
        self._buffer_bytes = [_buffer_bytes(buffer) for buffer in root.tables(4)]
        self._graphs = list(root.tables(2))

    def check(self) -> None:
        if not any(True for graph in self._graphs for _ in graph.tables(3)):
            raise DataCorrupted("the TensorFlow Lite file has no layers", "it may be truncated")
        for graph in self._graphs:
            names = [self._check_tensor(tensor) for tensor in graph.tables(0)]
            for layer in graph.tables(3):
                self._check_layer(layer, names)

    def _check_tensor(self, tensor: _Table) -> str:
        """The tensor's name."""
        name, shape = tensor.text(3), tensor.integers(0)
        if len(shape) > MAX_RANK or any(length < 0 for length in shape):
            raise DataCorrupted(f"tensor {name!r} has the shape {shape}", "export the model again")
        elements = 1
        for length in shape:
            elements *= length
        if elements > MAX_TENSOR_ELEMENTS:
            raise ResourceExhausted(
                f"tensor {name!r} has {elements} elements", f"at most {MAX_TENSOR_ELEMENTS}"
            )
        buffer, kind = tensor.integer(2, "I"), tensor.integer(1, "b")
        if buffer >= len(self._buffer_bytes):
            raise DataCorrupted(f"tensor {name!r} has no buffer", "the file may be truncated")
        stored, is_sparse = self._buffer_bytes[buffer], tensor.place(6) != 0
        wanted = elements * _ELEMENT_BYTES.get(kind, 0)
        if stored and wanted and not is_sparse and stored != wanted:
            raise DataCorrupted(
                f"tensor {name!r} holds {stored} of {wanted} bytes", "the file may be truncated"
            )
        return name

    def _check_layer(self, layer: _Table, names: list[str]) -> None:
        index, outputs = layer.integer(0, "I"), layer.integers(2)
        used = [number for number in (*layer.integers(1), *outputs) if number != -1]
        if index >= len(self._operators) or not all(0 <= n < len(names) for n in used):
            raise DataCorrupted("a layer refers to what the file does not have", "fetch it again")
        code, custom = self._operators[index]
        if code == _CUSTOM and custom not in _CONVERTED_CUSTOM:
            title = names[outputs[0]] if outputs else ""
            raise UnsupportedModel(
                f"custom operator {custom!r} of layer {title!r} cannot be imported",
                "cut the model before it, or export it with TensorFlow's own operators alone",
            )


def _buffer_bytes(buffer: _Table) -> int:
    if buffer.integer(1, "Q") > 1:
        raise UnsupportedModel(
            "the TensorFlow Lite file keeps weights after its FlatBuffer",
            "models for cameras are smaller than 2 GB: export it without",
        )
    return buffer.content(0)
