"""Reading what ``torch.export.save`` writes, without torch and without pickle.

A .pt2 file is a zip archive: ``models/model.json`` holds the graph of ATen operators,
``data/weights/*`` the raw bytes of each weight with one JSON index. torch's own loader unpickles
some members (sample inputs, custom objects) and evaluates symbolic shapes; this reader looks at
neither. What needs them is refused.
"""

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.given_shapes import check_names
from camsdk.compress.importers.onnx_emitter import Array
from camsdk.compress.importers.pt2_symbols import Symbols
from camsdk.compress.importers.runnable import MAX_FILE_BYTES, MAX_TENSOR_ELEMENTS
from camsdk.errors import DataCorrupted, InvalidInput, NotFound, ResourceExhausted, UnsupportedModel

HINT: Final = "save it with torch.export.save(torch.export.export(module.eval(), example), path)"

OTHER_WAYS: Final = (
    "export to ONNX and import that: torch.onnx.export(model.eval(), (example,), 'model.onnx');"
    " or leave this step out of forward(), such as what follows the network's outputs;"
    " or write it with operators that are imported"
)
"""What to do about an operator that is not imported."""

MAX_JSON_BYTES: Final = 64 << 20
MAX_NODES: Final = 100_000

_DTYPES: Final[Mapping[int, str]] = {
    1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?",
}  # fmt: skip
"""torch._export.serde.schema.ScalarType; all files are little-endian."""


@dataclass(frozen=True)
class AtenNode:
    """One call of an ATen operator.

    Attributes:
        target: Such as ``conv2d.default``, without ``torch.ops.aten.``.
        arguments: Decoded by name: numbers, lists, None, or ``Tensor``s.
        outputs: Names of the tensors it makes.
        module: Qualified name of the module that calls it, or empty.
        place: Where it is called: its number in the program, and the line of the source if known.
    """

    name: str
    target: str
    arguments: Mapping[str, Any]
    outputs: tuple[str, ...]
    module: str
    place: str


@dataclass(frozen=True)
class Tensor:
    """An argument that is a tensor of the graph."""

    name: str


@dataclass(frozen=True)
class AtenGraph:
    """A program with its weights.

    Attributes:
        inputs: Shape by name, in order; float32.
        stored: Weight by its name in the graph.
        stored_names: Qualified name of each weight in the module, by its name in the graph.
        shapes: Of every tensor.
        types: Element type of every tensor of a known one; floating types are all float32.
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    nodes: tuple[AtenNode, ...]
    stored: Mapping[str, Array]
    stored_names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, np.dtype[Any]]


def read_program(
    path: Path, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> AtenGraph:
    """Read a .pt2 file.

    Args:
        path: The file.
        input_shapes: Shape of an input whose lengths the program leaves free. A batch that alone
            is free becomes 1.

    Raises:
        NotFound: There is no such file.
        UnsupportedModel: A pickled module, TorchScript, or a program with custom objects, pickled
            weights or other than ATen operators.
        InvalidInput: ``input_shapes`` names no input, or a free length has no value in it.
        DataCorrupted: Truncated or malformed.
        ResourceExhausted: Too large.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ResourceExhausted(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04":
        if start[:1] == b"\x80":
            raise UnsupportedModel(f"{path} is a pickle, which is not opened", HINT)
        raise DataCorrupted(f"{path} is no .pt2 archive", HINT)
    try:
        with zipfile.ZipFile(path) as archive:
            return _Program(_Archive(archive, path), input_shapes or {}).graph()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
        raise DataCorrupted(f"{path} is a damaged archive: {error}", HINT) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise DataCorrupted(f"{path} holds a malformed program: {error!r}") from error


class _Archive:
    """Members by their path below the archive's own folder; every read is bounded."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            _, _, inside = info.filename.partition("/")
            if info.filename.startswith("/") or ".." in info.filename.split("/"):
                raise DataCorrupted(f"member {info.filename!r} of {path} leads outside of it")
            if info.file_size > MAX_FILE_BYTES:
                raise ResourceExhausted(f"member {info.filename!r} of {path} is too large")
            self._members[inside] = info
        self._check_kind(path)

    def _check_kind(self, path: Path) -> None:
        names = self._members
        if "archive_format" not in names:
            if "constants.pkl" in names:
                raise UnsupportedModel(f"{path} is TorchScript, which is not opened", HINT)
            raise UnsupportedModel(f"{path} holds a pickle, which is not opened", HINT)
        for name in names:
            is_pickle = re.fullmatch(r"data/(weights|constants)/.*\.pt|.*\.pkl", name)
            if is_pickle or name.startswith(("data/constants/custom_obj", "data/constants/opaque")):
                raise UnsupportedModel(f"{path} holds the pickle {name!r}", HINT)
            if name.startswith("data/aotinductor/"):
                raise UnsupportedModel(f"{path} holds compiled code", HINT)

    def read(self, name: str, limit: int) -> bytes:
        info = self._members.get(name)
        if info is None:
            raise DataCorrupted(f"the archive lacks {name!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise DataCorrupted(f"member {name!r} is compressed or encrypted, torch does neither")
        if info.file_size > limit:
            raise ResourceExhausted(f"member {name!r} is larger than {limit} bytes")
        with self._archive.open(info) as file:
            data = file.read(limit + 1)
        if len(data) != info.file_size:
            raise DataCorrupted(f"member {name!r} is truncated")
        return data

    def json(self, name: str) -> Any:
        return json.loads(self.read(name, MAX_JSON_BYTES))

    def models(self) -> list[str]:
        return [name for name in self._members if re.fullmatch(r"models/[^/]+\.json", name)]


class _Program:
    """The JSON of a program, whose free lengths get values."""

    def __init__(self, archive: _Archive, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
        models = archive.models()
        if len(models) != 1:
            raise UnsupportedModel(f"the archive holds {len(models)} programs, one is needed", HINT)
        self._archive = archive
        self._stem = models[0].removeprefix("models/").removesuffix(".json")
        document = archive.json(models[0])
        self._module = document["graph_module"]
        self._graph = self._module["graph"]
        if len(self._graph["nodes"]) > MAX_NODES:
            raise ResourceExhausted(f"the program has {len(self._graph['nodes'])} nodes")
        self._symbols = Symbols(document.get("range_constraints") or {})
        self._names = self._input_names(input_shapes)
        for name in self._names:
            sizes = self._graph["tensor_values"][name]["sizes"]
            self._symbols.bind(name, sizes, input_shapes.get(name))

    def _input_names(self, input_shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        specs = self._module["signature"]["input_specs"]
        rows = [spec["user_input"] for spec in specs if "user_input" in spec]
        names = [str(row["arg"]["as_tensor"]["name"]) for row in rows]
        check_names(input_shapes, names)
        return names

    def graph(self) -> AtenGraph:
        tensors = self._graph["tensor_values"]
        shapes = {name: self._lengths(meta["sizes"]) for name, meta in tensors.items()}
        for name in self._names:
            if _DTYPES.get(tensors[name]["dtype"]) not in ("<f2", "<f4", "<f8"):
                raise UnsupportedModel(f"input {name!r} is not of floating point")
        stored, names = self._weights()
        outputs = tuple(_output(spec) for spec in self._module["signature"]["output_specs"])
        integers = {
            name: self._symbols.length(entry)
            for name, entry in (self._graph.get("sym_int_values") or {}).items()
        }
        nodes = tuple(
            _node(node, integers, number)
            for number, node in enumerate(self._graph["nodes"])
            if _is_kept(node)
        )
        inputs = {name: shapes[name] for name in self._names}
        types = {
            name: _kept_type(_DTYPES[meta["dtype"]])
            for name, meta in tensors.items()
            if meta["dtype"] in _DTYPES
        }
        return AtenGraph(inputs, outputs, nodes, stored, names, shapes, types)

    def _weights(self) -> tuple[dict[str, Array], dict[str, str]]:
        """Value and qualified name of each weight, by its name in the graph."""
        folders = ("data/weights", "data/constants")
        tables = [
            self._archive.json(f"{folder}/{self._stem}_{folder[5:]}_config.json")["config"]
            for folder in folders
        ]
        stored: dict[str, Array] = {}
        names: dict[str, str] = {}
        for spec in self._module["signature"]["input_specs"]:
            ((kind, body),) = spec.items()
            if kind == "user_input":
                continue
            if kind not in ("parameter", "buffer", "tensor_constant"):
                raise UnsupportedModel(f"the program takes a {kind}", HINT)
            qualified, name = body[f"{kind}_name"], body["arg"]["name"]
            place = 0 if qualified in tables[0] else 1
            entry = tables[place][qualified]
            stored[name] = self._stored(folders[place], qualified, entry)
            names[name] = qualified
        return stored, names

    def _lengths(self, entries: Any) -> tuple[int, ...]:
        lengths = tuple(self._symbols.length(entry) for entry in entries)
        if any(not 0 <= length <= MAX_TENSOR_ELEMENTS for length in lengths) or len(lengths) > 16:
            raise DataCorrupted(f"the program has a tensor of shape {lengths}")
        return lengths

    def _stored(self, folder: str, name: str, entry: Mapping[str, Any]) -> Array:
        """One weight, contiguous."""
        if entry["use_pickle"]:
            raise UnsupportedModel(f"weight {name!r} is pickled", HINT)
        path, meta = entry["path_name"], entry["tensor_meta"]
        if not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise UnsupportedModel(f"weight {name!r} lies in {path!r}", HINT)
        dtype = _DTYPES.get(meta["dtype"])
        if dtype is None:
            raise UnsupportedModel(f"weight {name!r} has the element type {meta['dtype']}")
        flat = np.frombuffer(self._archive.read(f"{folder}/{path}", MAX_FILE_BYTES), dtype)
        shape, strides = self._lengths(meta["sizes"]), self._lengths(meta["strides"])
        (offset,) = self._lengths([meta["storage_offset"]])
        if 0 in shape:
            return np.zeros(shape, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if last >= flat.size or int(np.prod(shape, dtype=np.float64)) > flat.size:
            raise DataCorrupted(f"weight {name!r} reaches beyond its bytes")
        size = flat.itemsize
        view = np.lib.stride_tricks.as_strided(
            flat[offset:], shape, [step * size for step in strides], writeable=False
        )
        return np.ascontiguousarray(view).astype(_kept_type(dtype), copy=False).reshape(shape)


def _kept_type(dtype: str) -> np.dtype[Any]:
    kept = np.dtype(dtype)
    return np.dtype(np.float32) if kept.kind == "f" else kept


def _output(spec: Mapping[str, Any]) -> str:
    ((kind, body),) = spec.items()
    if kind != "user_output":
        raise UnsupportedModel(
            f"the program changes its own state ({kind})", "call module.eval() before the export"
        )
    return str(body["arg"]["as_tensor"]["name"])


def _is_kept(node: Mapping[str, Any]) -> bool:
    """Whether a node makes more than lengths, whose values are known, or checks of them."""
    if node["target"].startswith(("torch.ops.aten._assert", "torch.ops.aten.sym_constrain")):
        return False
    kinds = [kind for output in node["outputs"] for kind in output]
    return not kinds or any(kind not in ("as_sym_int", "as_sym_bool") for kind in kinds)


def unknown_operator(target: str, layer: str, place: str) -> UnsupportedModel:
    """The error of an operator that no one imports.

    Args:
        target: Such as ``aten.fft_fft.default``.
        layer: What it is called by.
        place: See ``AtenNode``.
    """
    return UnsupportedModel(
        f"operator {target!r} of layer {layer!r} ({place}) cannot be imported", OTHER_WAYS
    )


def _place(node: Mapping[str, Any], number: int) -> str:
    """The number of a node, and the last line of the source that its stack names."""
    trace = str((node.get("metadata") or {}).get("stack_trace", ""))
    lines = re.findall(r'File "([^"\n]{1,400})", line (\d{1,9})', trace[-4000:])
    found = f", {Path(lines[-1][0]).name} line {lines[-1][1]}" if lines else ""
    return f"node {number} of the program{found}"


def _node(node: Mapping[str, Any], integers: Mapping[str, int], number: int) -> AtenNode:
    target = str(node["target"])
    outputs = []
    for output in node["outputs"]:
        ((kind, body),) = output.items()
        if kind == "as_tensor":
            outputs.append(body["name"])
        elif kind == "as_tensors":
            outputs += [item["name"] for item in body]
    name = outputs[0] if outputs else target
    if not target.startswith("torch.ops.aten."):
        raise unknown_operator(target.removeprefix("torch.ops."), name, _place(node, number))
    stack = (node.get("metadata") or {}).get("nn_module_stack", "")
    parts = stack.rsplit(";", 1)[-1].split(",") if stack else []
    arguments = {item["name"]: _argument(item["arg"], name, integers) for item in node["inputs"]}
    return AtenNode(
        name=name,
        target=target.removeprefix("torch.ops.aten."),
        arguments=arguments,
        outputs=tuple(outputs),
        module=parts[1] if len(parts) > 2 else "",
        place=_place(node, number),
    )


def _argument(argument: Mapping[str, Any], name: str, integers: Mapping[str, int]) -> Any:
    ((kind, value),) = argument.items()
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return Tensor(value["name"])
    if kind == "as_optional_tensors":
        return [
            Tensor(item["as_tensor"]["name"]) if "as_tensor" in item else None for item in value
        ]
    if kind == "as_tensors":
        return [Tensor(item["name"]) for item in value]
    if kind in ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"):
        return value
    if kind in ("as_scalar_type", "as_memory_format", "as_layout", "as_device"):
        return None
    if kind in ("as_sym_int", "as_sym_ints"):
        found = [
            integers[item["as_name"]] if "as_name" in item else item["as_int"]
            for item in (value if kind == "as_sym_ints" else [value])
        ]
        return found if kind == "as_sym_ints" else found[0]
    raise InvalidInput(f"{name!r} has an argument of kind {kind}", HINT)
