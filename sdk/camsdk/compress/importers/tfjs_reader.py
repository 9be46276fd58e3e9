"""Reading a TensorFlow.js graph model: one JSON file and its binary weight shards.

The JSON holds a TensorFlow ``GraphDef`` (nodes with base64 strings and decimal-string integers, as
protobuf's JSON form writes them) and a weights manifest: which constant lies where in the shards,
and how its numbers were narrowed (``float16``, or ``uint8``/``uint16`` with scale and minimum).

Nothing here knows ONNX. Everything is checked before it is believed: a file from the internet
must end in a ``DataCorrupted`` or ``UnsupportedModel`` that names what is wrong, never in a crash.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.importers.runnable import MAX_FILE_BYTES, read_limited
from camsdk.errors import (
    DataCorrupted,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    UnsupportedModel,
)

Array = NDArray[np.generic]

MAX_JSON_BYTES: Final = 64 << 20
MAX_NODES: Final = 100_000
MAX_RANK: Final = 8

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "bool": np.dtype("?"),
}
_NARROW: Final[dict[str, np.dtype[Any]]] = {
    "float16": np.dtype("<f2"),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class TfNode:
    """One operation of the graph.

    Attributes:
        name: Unique in the graph.
        op: TensorFlow's operator name.
        inputs: Tensors it takes, ``node`` or ``node:output``; control inputs are left out.
        attributes: As the JSON has them.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def _typed(self, key: str, kind: str) -> Any:
        value = self.attributes.get(key)
        if value is None:
            return None
        if not isinstance(value, dict) or kind not in value:
            raise DataCorrupted(f"attribute {key!r} of layer {self.name!r} has no {kind!r}")
        return value[kind]

    def text(self, key: str, default: str = "") -> str:
        """A string attribute, which the JSON holds as base64."""
        value = self._typed(key, "s")
        return default if value is None else self._decoded(key, value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self._decoded(key, value) for value in self._listed(key, "s"))

    def ints(self, key: str) -> tuple[int, ...]:
        """A list of integers; empty when absent."""
        return tuple(self._int(key, value) for value in self._listed(key, "i"))

    def integer(self, key: str, default: int) -> int:
        """One integer."""
        value = self._typed(key, "i")
        return default if value is None else self._int(key, value)

    def number(self, key: str, default: float) -> float:
        """One float."""
        value = self._typed(key, "f")
        if value is None:
            return default
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise DataCorrupted(f"attribute {key!r} of layer {self.name!r} is no number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """One boolean."""
        value = self._typed(key, "b")
        return default if value is None else bool(value)

    def shape(self, key: str) -> tuple[int, ...] | None:
        """A tensor's shape with -1 for a free dimension, or None when the rank is free."""
        value = self._typed(key, "shape")
        rows = value.get("dim", ()) if isinstance(value, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return None
        return tuple(self._int(key, row.get("size", -1)) for row in rows)

    def _listed(self, key: str, kind: str) -> list[Any]:
        """Items of a list attribute; protobuf's JSON leaves out what is empty."""
        value = self._typed(key, "list")
        items = value.get(kind, []) if isinstance(value, dict) else []
        if not isinstance(items, list):
            raise DataCorrupted(f"attribute {key!r} of layer {self.name!r} is no list")
        return items

    def _int(self, key: str, value: object) -> int:
        try:
            return int(value)  # type: ignore[call-overload, no-any-return] # refuses what it cannot take
        except (TypeError, ValueError) as error:
            raise DataCorrupted(
                f"attribute {key!r} of layer {self.name!r} is no integer: {value!r}"
            ) from error

    def _decoded(self, key: str, value: object) -> str:
        try:
            return base64.b64decode(str(value), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise DataCorrupted(
                f"attribute {key!r} of layer {self.name!r} is no base64 text"
            ) from error


@dataclass(frozen=True)
class TfGraph:
    """A graph and its constants.

    Attributes:
        nodes: By name, each after all that it takes input from.
        constants: Value of each ``Const`` node, widened to its declared dtype.
        outputs: Tensors that the model's signature declares, in the file's order.
    """

    nodes: Mapping[str, TfNode]
    constants: Mapping[str, Array]
    outputs: tuple[str, ...]


def node_of(tensor: str) -> str:
    """The node of a tensor's name: ``split:1`` comes from ``split``."""
    name, colon, index = tensor.rpartition(":")
    return name if colon and index.isdigit() else tensor


def output_index(tensor: str) -> int:
    """Which of its node's outputs a tensor is: 1 for ``split:1``, 0 for ``split``."""
    _, colon, index = tensor.rpartition(":")
    return int(index) if colon and index.isdigit() else 0


def read_graph(
    json_path: Path, weights: Path | None = None, *, shards: Mapping[str, Path] | None = None
) -> TfGraph:
    """Read a graph model.

    Args:
        json_path: The model's JSON file.
        weights: Where its weight file lies, if the JSON names a single one.
        shards: Where each weight file named in the JSON lies; by default beside the JSON, and no
            link to a place elsewhere.

    Raises:
        NotFound: The JSON or a shard does not exist.
        DataCorrupted: Truncated or malformed, or a weight file is named outside of the folder.
        UnsupportedModel: Not a graph model, or weights in an unknown form.
        InvalidInput: ``weights`` is given, but the JSON names several files.
        ResourceExhausted: The weight files are too large.
    """
    document = _read_json(json_path)
    if document.get("format", "graph-model") != "graph-model" or "modelTopology" not in document:
        raise UnsupportedModel(
            f"{json_path.name} is not a TensorFlow.js graph model",
            "layers models must first be converted to a graph model",
        )
    try:
        nodes = ordered(_read_nodes(document["modelTopology"]["node"]))
        groups = document["weightsManifest"]
        constants = dict(_read_constants(groups, _Shards(json_path, groups, weights, shards)))
        outputs = _declared_outputs(document, nodes)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataCorrupted(f"{json_path.name} lacks a part of a graph model: {error}") from error
    for node in nodes.values():
        if node.op == "Const" and node.name not in constants:
            raise DataCorrupted(f"the weights manifest has no values for {node.name!r}")
    return TfGraph(nodes, constants, outputs)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataCorrupted(f"{path.name} is larger than {MAX_JSON_BYTES} bytes")
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"there is no model file {path}") from error
    except (ValueError, RecursionError) as error:
        raise DataCorrupted(
            f"{path.name} is not valid JSON, it may be truncated", "fetch it again"
        ) from error
    if not isinstance(document, dict):
        raise DataCorrupted(f"{path.name} holds no JSON object")
    return document


def _read_nodes(rows: list[dict[str, Any]]) -> dict[str, TfNode]:
    if len(rows) > MAX_NODES:
        raise UnsupportedModel(f"the graph has {len(rows)} nodes, over {MAX_NODES}")
    nodes: dict[str, TfNode] = {}
    for row in rows:
        inputs = tuple(str(name) for name in row.get("input", ()) if not str(name).startswith("^"))
        attributes = row.get("attr") or {}
        node = TfNode(str(row["name"]), str(row["op"]), inputs, attributes)
        if not node.name or not isinstance(attributes, dict):
            raise DataCorrupted(f"layer {node.name!r} has no name or no valid attributes")
        if node.name in nodes:
            raise DataCorrupted(f"two layers are called {node.name!r}")
        nodes[node.name] = node
    return nodes


def ordered(nodes: dict[str, TfNode]) -> dict[str, TfNode]:
    """Topological order (Kahn); a graph with a loop has none."""
    waiting: dict[str, set[str]] = {}
    consumers: dict[str, list[str]] = {name: [] for name in nodes}
    for node in nodes.values():
        waiting[node.name] = {node_of(tensor) for tensor in node.inputs}
        for source in waiting[node.name]:
            if source not in nodes:
                raise DataCorrupted(
                    f"layer {node.name!r} takes input from {source!r}: no such layer"
                )
            consumers[source].append(node.name)
    ready = [name for name in nodes if not waiting[name]]
    ordered: dict[str, TfNode] = {}
    for name in ready:  # grows while it is walked
        ordered[name] = nodes[name]
        for consumer in consumers[name]:
            waiting[consumer].discard(name)
            if not waiting[consumer] and consumer not in ordered:
                ready.append(consumer)
    if len(ordered) < len(nodes):
        raise UnsupportedModel("the graph has a loop: control flow cannot be imported")
    return ordered


def _declared_outputs(document: dict[str, Any], nodes: dict[str, TfNode]) -> tuple[str, ...]:
    signature = document.get("signature") or document.get("userDefinedMetadata", {}).get(
        "signature"
    )
    if signature and signature.get("outputs"):
        names = [str(row["name"]) for row in signature["outputs"].values()]
        return tuple(name.removesuffix(":0") for name in names)
    used = {node_of(tensor) for node in nodes.values() for tensor in node.inputs}
    return tuple(name for name in nodes if name not in used)


def _read_constants(
    groups: Sequence[Mapping[str, Any]], shards: "_Shards"
) -> Iterator[tuple[str, Array]]:
    """Name and value of every weight, in the order of the shards (a weight may span two)."""
    for group in groups:
        data = b"".join(shards.read(str(name)) for name in group["paths"])
        offset = 0
        for row in group["weights"]:
            value, offset = _read_weight(row, data, offset)
            yield str(row["name"]), value
        if offset != len(data):
            raise DataCorrupted(
                f"the weights of {shards.title} end at byte {offset}, "
                f"but their files have {len(data)}",
                "is it the weight file of another model?",
            )


class _Shards:
    """The weight files that a JSON names; no file elsewhere is read, and all have a limit."""

    def __init__(
        self,
        json_path: Path,
        groups: Sequence[Mapping[str, Any]],
        weights: Path | None,
        shards: Mapping[str, Path] | None,
    ) -> None:
        self.title, self._folder = json_path.name, json_path.parent
        self._given = dict(shards or {})
        self._left_bytes = MAX_FILE_BYTES
        names = [str(name) for group in groups for name in group["paths"]]
        if len(set(names)) < len(names):
            raise DataCorrupted(f"{self.title} names a weight file twice")
        if weights is not None:
            if len(names) != 1:
                raise InvalidInput(
                    f"{self.title} names {len(names)} weight files, one cannot stand for them",
                    "put them beside it and leave out --weights",
                )
            self._given[names[0]] = weights

    def read(self, name: str) -> bytes:
        """The bytes of one weight file."""
        path = self._given.get(name) or self._beside(name)
        if not path.is_file():
            raise NotFound(f"weight file {name!r} of {self.title} is missing", f"put it at {path}")
        data = read_limited(path)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise ResourceExhausted(
                f"the weight files of {self.title} have more than {MAX_FILE_BYTES} bytes",
                "models for cameras are smaller",
            )
        return data

    def _beside(self, name: str) -> Path:
        if not name or Path(name).name != name or name == "..":
            raise DataCorrupted(f"weight file {name!r} is not a plain file name")
        path = self._folder / name
        if path.is_symlink():
            raise DataCorrupted(
                f"weight file {name!r} of {self.title} is a link",
                "put the file itself there, or name it with --weights",
            )
        return path


def _read_weight(row: dict[str, Any], data: bytes, offset: int) -> tuple[Array, int]:
    name, shape, declared = str(row["name"]), row["shape"], str(row["dtype"])
    narrowed = row.get("quantization")
    stored = _NARROW.get(str(narrowed["dtype"])) if narrowed else _DTYPES.get(declared)
    if stored is None or declared not in _DTYPES:
        raise UnsupportedModel(f"weight {name!r} is stored as {narrowed or declared}")
    if len(shape) > MAX_RANK or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise DataCorrupted(f"weight {name!r} has shape {shape}")
    count = math.prod(shape)
    end = offset + count * stored.itemsize
    if end > len(data):
        raise DataCorrupted(
            f"the weights are truncated: {name!r} needs bytes up to {end} of {len(data)}",
            "fetch the file again",
        )
    value = np.frombuffer(data, stored, count, offset).reshape(shape).astype(_DTYPES[declared])
    if narrowed and "scale" in narrowed:
        scale, low = float(narrowed["scale"]), float(narrowed["min"])
        if value.dtype.kind == "i":
            return _whole(value.astype(np.float64) * scale + low, name), end
        value = (value * scale + low).astype(value.dtype)
    return value, end


def _whole(value: NDArray[np.float64], name: str) -> Array:
    """Rounded as TensorFlow.js does, halves up."""
    rounded = np.floor(value + 0.5)
    limits = np.iinfo(np.int32)
    if not ((rounded >= limits.min) & (rounded <= limits.max)).all():
        raise DataCorrupted(f"weight {name!r} has values that are no int32")
    return rounded.astype(np.int32)
