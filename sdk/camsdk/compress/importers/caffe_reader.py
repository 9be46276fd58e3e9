"""Reading Caffe's two files: the network as protobuf text, its weights as binary protobuf.

The numbers of the fields are those that Caffe publishes in ``caffe.proto``; only the weights need
them. The text is read into a plain tree, so layers that other branches of Caffe added are read like
all others and refused by name later. Version 1 layers (``layers`` with an enumeration as type) are
read as the newer ones.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from camsdk.compress.importers.runnable import MAX_TENSOR_ELEMENTS, read_limited
from camsdk.errors import DataCorrupted, ResourceExhausted, UnsupportedModel

MAX_TEXT_BYTES: Final = 8 << 20
MAX_NESTING: Final = 16
MAX_RANK: Final = 8

Floats = NDArray[np.float32]
Scalar = str | int | float | bool


@dataclass(frozen=True)
class Message:
    """A message of protobuf text: every field with all of its values, in order."""

    fields: dict[str, list["Scalar | Message"]] = field(default_factory=dict)

    def messages(self, name: str) -> list["Message"]:
        """Values of a field of messages."""
        return [value for value in self.fields.get(name, []) if isinstance(value, Message)]

    def message(self, name: str) -> "Message":
        """The last message of that name, or an empty one."""
        return (self.messages(name) or [Message()])[-1]

    def scalars(self, name: str) -> list[Scalar]:
        return [value for value in self.fields.get(name, []) if not isinstance(value, Message)]

    def texts(self, name: str) -> list[str]:
        return [str(value) for value in self.scalars(name)]

    def text(self, name: str, default: str = "") -> str:
        return (self.texts(name) or [default])[-1]

    def integers(self, name: str) -> list[int]:
        """Values of a field of integers.

        Raises:
            DataCorrupted: One is none.
        """
        values = self.scalars(name)
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            raise DataCorrupted(f"field {name!r} must be an integer, not {values}")
        return [int(value) for value in values]

    def integer(self, name: str, default: int) -> int:
        return (self.integers(name) or [default])[-1]

    def number(self, name: str, default: float) -> float:
        value = (self.scalars(name) or [default])[-1]
        if isinstance(value, str | bool):
            raise DataCorrupted(f"field {name!r} must be a number, not {value!r}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = (self.scalars(name) or [default])[-1]
        if isinstance(value, str):
            raise DataCorrupted(f"field {name!r} must be true or false, not {value!r}")
        return bool(value)


_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[fF]?)
    | (?P<word>-?[A-Za-z_][A-Za-z0-9_.]*)
    | (?P<mark>[{}<>:;,\[\]])""",
    re.VERBOSE,
)


def read_text(path: Path) -> Message:
    """Read a prototxt.

    Raises:
        NotFound: There is no such file.
        DataCorrupted: It is not protobuf text; says in which line.
        ResourceExhausted: It is too large.
    """
    try:
        source = read_limited(path, MAX_TEXT_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataCorrupted(f"{path} is not protobuf text: {error}") from error
    return _Text(source, path).message(0)


class _Text:
    """A recursive descent over protobuf's text format."""

    def __init__(self, source: str, path: Path) -> None:
        self._source, self._path = source, path
        self._tokens = self._scan()
        self._kind, self._word, self._at = next(self._tokens)

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        at = 0
        while at < len(self._source):
            match = _TOKEN.match(self._source, at)
            if match is None or match.lastgroup is None:
                raise self._error(at, f"cannot be read at {self._source[at : at + 20]!r}")
            if match.lastgroup != "space":
                yield match.lastgroup, match.group(), at
            at = match.end()
        while True:
            yield "end", "", at

    def _error(self, at: int, what: str) -> DataCorrupted:
        line = self._source.count("\n", 0, at) + 1
        return DataCorrupted(f"line {line} of {self._path} {what}")

    def _next(self) -> tuple[str, str]:
        kind, token = self._kind, self._word
        self._kind, self._word, self._at = next(self._tokens)
        return kind, token

    def _accept(self, marks: str) -> str:
        return self._next()[1] if self._kind == "mark" and self._word in marks else ""

    def message(self, depth: int) -> Message:
        if depth > MAX_NESTING:
            raise self._error(self._at, f"nests deeper than {MAX_NESTING}")
        found = Message()
        while self._kind == "word":
            name = self._next()[1]
            has_colon = self._accept(":")
            values = found.fields.setdefault(name, [])
            if has_colon and self._accept("["):
                while not self._accept("]"):
                    values.append(self._value(depth))
                    self._accept(",")
            elif has_colon or (self._kind == "mark" and self._word in "{<"):
                values.append(self._value(depth))
            else:
                raise self._error(self._at, f"lacks the value of {name!r}")
            self._accept(";,")
        if depth == 0 and self._kind != "end":
            raise self._error(self._at, f"has {self._word!r} where a field should begin")
        return found

    def _value(self, depth: int) -> Scalar | Message:
        if self._accept("{<"):
            inner = self.message(depth + 1)
            if not self._accept("}>"):
                raise self._error(self._at, "lacks a closing brace, the file may be truncated")
            return inner
        kind, token = self._next()
        if kind == "string":
            text = re.sub(r"\\(.)", r"\1", token[1:-1])
            while self._kind == "string":
                text += re.sub(r"\\(.)", r"\1", self._next()[1][1:-1])
            return text
        if kind == "word":
            return {"true": True, "false": False}.get(token, token)
        if kind != "number":
            raise self._error(self._at, "lacks a value, the file may be truncated")
        try:
            return int(token, 0) if re.fullmatch(r"[-+]?\d+|.*[xX].*", token) else _float(token)
        except ValueError as error:
            raise self._error(self._at, f"has the number {token!r}") from error


def _float(token: str) -> float:
    return float(token.rstrip("fF"))


_FIELD = descriptor_pb2.FieldDescriptorProto
_SCHEMA: Final = {
    # message: (field, number, type, is repeated, message type)
    "BlobShape": [("dim", 1, _FIELD.TYPE_INT64, True, "")],
    "BlobProto": [
        ("num", 1, _FIELD.TYPE_INT32, False, ""),
        ("channels", 2, _FIELD.TYPE_INT32, False, ""),
        ("height", 3, _FIELD.TYPE_INT32, False, ""),
        ("width", 4, _FIELD.TYPE_INT32, False, ""),
        # Packed floats have the wire format of bytes, which numpy reads without copies.
        ("data", 5, _FIELD.TYPE_BYTES, True, ""),
        ("shape", 7, _FIELD.TYPE_MESSAGE, False, "BlobShape"),
        ("double_data", 8, _FIELD.TYPE_BYTES, True, ""),
    ],
    "LayerParameter": [
        ("name", 1, _FIELD.TYPE_BYTES, False, ""),
        ("blobs", 7, _FIELD.TYPE_MESSAGE, True, "BlobProto"),
    ],
    "V1LayerParameter": [
        ("name", 4, _FIELD.TYPE_BYTES, False, ""),
        ("blobs", 6, _FIELD.TYPE_MESSAGE, True, "BlobProto"),
    ],
    "NetParameter": [
        ("layers", 2, _FIELD.TYPE_MESSAGE, True, "V1LayerParameter"),
        ("layer", 100, _FIELD.TYPE_MESSAGE, True, "LayerParameter"),
    ],
}


def _net_parameter() -> Any:
    """The class of Caffe's NetParameter, with the fields that hold weights."""
    file = descriptor_pb2.FileDescriptorProto(
        name="camsdk_caffe_weights.proto", package="camsdk_caffe", syntax="proto2"
    )
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for title, number, kind, is_repeated, type_name in fields:
            label = _FIELD.LABEL_REPEATED if is_repeated else _FIELD.LABEL_OPTIONAL
            entry = message.field.add(name=title, number=number, type=kind, label=label)
            if type_name:
                entry.type_name = f".camsdk_caffe.{type_name}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("camsdk_caffe.NetParameter"))


_NetParameter: Final = _net_parameter()


def read_weights(path: Path) -> Mapping[str, tuple[Floats, ...]]:
    """Read a caffemodel: the float32 blobs of each layer by the layer's name.

    Raises:
        NotFound: There is no such file.
        DataCorrupted: Truncated, malformed, or a blob's length does not fit its shape.
        ResourceExhausted: It is too large.
    """
    net = _NetParameter()
    try:
        net.ParseFromString(read_limited(path))
    except DecodeError as error:
        raise DataCorrupted(
            f"{path} is not a caffemodel: {error}", "it may be truncated"
        ) from error
    weights: dict[str, tuple[Floats, ...]] = {}
    for layer in [*net.layers, *net.layer]:
        name = layer.name.decode("utf-8", "replace")
        if layer.blobs:
            weights[name] = tuple(_blob(blob, name) for blob in layer.blobs)
    return weights


def _blob(blob: Any, layer: str) -> Floats:
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = (blob.num, blob.channels, blob.height, blob.width)
    if len(shape) > MAX_RANK or any(length < 0 for length in shape):
        raise DataCorrupted(f"a blob of layer {layer!r} has the shape {shape}")
    elements = 1
    for length in shape:
        elements *= length
    if elements > MAX_TENSOR_ELEMENTS:
        raise ResourceExhausted(f"a blob of layer {layer!r} has {elements} elements")
    is_double = bool(blob.double_data)
    data = b"".join(blob.double_data if is_double else blob.data)
    dtype = np.dtype("<f8" if is_double else "<f4")
    if len(data) != elements * dtype.itemsize:
        raise DataCorrupted(
            f"a blob of layer {layer!r} holds {len(data) // dtype.itemsize} of {elements} numbers"
        )
    return np.frombuffer(data, dtype).astype(np.float32).reshape(shape)


@dataclass(frozen=True)
class Layer:
    """One layer of the network.

    Attributes:
        kind: Its type, such as ``Convolution``.
        bottoms: Blobs that it reads.
        tops: Blobs that it writes, perhaps those that it reads.
        text: All of its fields.
    """

    name: str
    kind: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    text: Message


_RENAMED: Final = {
    "CONVOLUTION": "Convolution", "DECONVOLUTION": "Deconvolution", "POOLING": "Pooling",
    "INNER_PRODUCT": "InnerProduct", "RELU": "ReLU", "TANH": "TanH", "SIGMOID": "Sigmoid",
    "SOFTMAX": "Softmax", "CONCAT": "Concat", "ELTWISE": "Eltwise", "FLATTEN": "Flatten",
    "DROPOUT": "Dropout", "SLICE": "Slice", "SPLIT": "Split", "POWER": "Power", "ABSVAL": "AbsVal",
    "SILENCE": "Silence", "LRN": "LRN",
}  # fmt: skip
"""Types of version 1."""


def layers_of(net: Message) -> tuple[Layer, ...]:
    """The layers that work in the test phase, in order.

    Raises:
        UnsupportedModel: A layer of version 0.
    """
    layers = []
    for text in [*net.messages("layers"), *net.messages("layer")]:
        if text.messages("layer"):
            raise UnsupportedModel(
                "the network is of Caffe's version 0", "convert it with Caffe's upgrade_net_proto"
            )
        phases = {rule.text("phase", "TEST") for rule in text.messages("include")}
        omitted = {rule.text("phase") for rule in text.messages("exclude")}
        if (phases and "TEST" not in phases) or "TEST" in omitted:
            continue
        kind = text.text("type")
        layers.append(
            Layer(
                name=text.text("name"),
                kind=_RENAMED.get(kind, kind),
                bottoms=tuple(text.texts("bottom")),
                tops=tuple(text.texts("top")),
                text=text,
            )
        )
    return tuple(layers)
