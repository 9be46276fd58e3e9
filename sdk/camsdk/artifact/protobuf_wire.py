"""The protobuf wire format (https://protobuf.dev/programming-guides/encoding), read without a
schema and without trust: nothing is skipped, and whatever does not fit is refused."""

from collections.abc import Iterator

from camsdk.errors import DataCorrupted

Span = slice
"""Where the bytes of a field lie in the message."""


def spans(data: memoryview) -> Iterator[tuple[int, int | Span]]:
    """Number and content of each field of a message: an int for a varint, else where it lies.

    Raises:
        DataCorrupted: Not a message, or cut.
    """
    position, end = 0, len(data)
    while position < end:
        tag, position = read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if tag >= 1 << 32 or number == 0:
            raise DataCorrupted("the model file is not an ONNX model: a tag is out of range")
        if wire_type == 0:
            value, position = read_varint(data, position)
            yield number, value
            continue
        if wire_type == 2:
            size, position = read_varint(data, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise DataCorrupted(f"the model file is not an ONNX model: wire type {wire_type}")
        if size > end - position:
            raise DataCorrupted("the model file is cut, or is not an ONNX model")
        yield number, slice(position, position + size)
        position += size


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field: an int for a varint, else the bytes.

    Raises:
        DataCorrupted: As ``spans``.
    """
    for number, value in spans(data):
        yield number, value if isinstance(value, int) else data[value]


def as_message(value: int | memoryview) -> memoryview:
    """The bytes of a field that must have some.

    Raises:
        DataCorrupted: It is a number.
    """
    if isinstance(value, int):
        raise DataCorrupted("the model file is not an ONNX model: a field has the wrong wire type")
    return value


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Value and the position after it; at most 10 bytes, as in protobuf.

    Raises:
        DataCorrupted: It does not end.
    """
    value = 0
    for index, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
    raise DataCorrupted("the model file is not an ONNX model: a number does not end")
