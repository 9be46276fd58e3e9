"""A small real model of each framework, as files that a test may damage.

All but the TensorFlow.js graph were written by their own framework and lie in ``tests/golden``
with what the framework computed from them.
"""

import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from camsdk.compress.importers.detect import ImportOptions
from camsdk.compress.importers.tfjs_reader import read_graph
from support.tensorflow import GraphFile, evaluate, ints, text

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Foreign:
    """The files of one model.

    Attributes:
        files: The first is what is imported; a second one holds the weights.
        is_second_named: Whether the second file is named by ``--weights``.
        data, expected: An input, and what the framework computed from it.
    """

    framework: str
    files: tuple[Path, ...]
    is_second_named: bool
    data: NDArray[np.float32]
    expected: NDArray[np.float32]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def options(self, **changes: Any) -> ImportOptions:
        weights = self.files[1] if self.is_second_named else None
        return ImportOptions(**{"weights": weights, "input_shapes": self.shapes, **changes})


def foreign(framework: str, folder: Path) -> Foreign:
    """A copy of the framework's model in a folder."""
    return _MAKERS[framework](folder)


def _copied(folder: Path, *names: str) -> tuple[Path, ...]:
    return tuple(Path(shutil.copy(GOLDEN / name, folder)) for name in names)


def _tensorflow(folder: Path) -> Foreign:
    golden = np.load(GOLDEN / "tensorflow_net.npz")
    files = _copied(folder, "tensorflow_net.pb")
    return Foreign("tensorflow", files, False, golden["pictures"][:1], golden["tensorflow"][:1])


def _onnx(folder: Path) -> Foreign:
    golden = np.load(GOLDEN / "tensorflow_net.npz")
    files = _copied(folder, "tensorflow_net_float.onnx")
    return Foreign("onnx", files, False, golden["pictures"][:1], golden["tflite_float"][:1])


def _pytorch(folder: Path) -> Foreign:
    golden = np.load(GOLDEN / "pytorch_fashion.npz")
    files, data = _copied(folder, "pytorch_fashion.pt2"), golden["data"][:1].astype(np.float32)
    return Foreign("pytorch", files, False, data, golden["pytorch"][:1])


def _mxnet(folder: Path) -> Foreign:
    golden = np.load(GOLDEN / "mxnet" / "fashion.npz")
    files = _copied(folder, "mxnet/fashion-symbol.json", "mxnet/fashion-0000.params")
    data = golden["data"][:1].astype(np.float32)
    return Foreign("mxnet", files, True, data, golden["mxnet"][:1], {"data": data.shape})


def _caffe(folder: Path) -> Foreign:
    golden = np.load(GOLDEN / "caffe" / "backbone.npz")
    files = _copied(folder, "caffe/backbone.prototxt", "caffe/backbone.caffemodel")
    return Foreign("caffe", files, True, golden["data"], golden["prob"][None])


def _tfjs(folder: Path) -> Foreign:
    path = tfjs_net().write(folder)
    data = np.random.default_rng(3).normal(size=(1, 8, 8, 3)).astype(np.float32)
    expected = evaluate(read_graph(path), {"x": data}, ["y"])["y"]
    return Foreign("tfjs", (path, path.with_name("weights.bin")), False, data, expected)


def tfjs_net() -> GraphFile:
    """A convolution, a bias and an activation."""
    file, random = GraphFile(), np.random.default_rng(2)
    file.placeholder("x", 1, 8, 8, 3)
    file.constant("w", random.normal(size=(3, 3, 3, 4)).astype(np.float32))
    same = {"padding": text("SAME"), "strides": ints(1, 2, 2, 1), "data_format": text("NHWC")}
    file.node("conv", "Conv2D", "x", "w", **same)
    file.node("sum", "BiasAdd", "conv", file.constant("b", random.normal(size=4)))
    file.node("y", "Relu6", "sum")
    return file


_MAKERS: Mapping[str, Callable[[Path], Foreign]] = {
    "onnx": _onnx,
    "pytorch": _pytorch,
    "tensorflow": _tensorflow,
    "tfjs": _tfjs,
    "caffe": _caffe,
    "mxnet": _mxnet,
}
FRAMEWORKS = tuple(_MAKERS)


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place; what ``change`` returns, if anything, replaces it."""
    document = json.loads(path.read_text())
    found = change(document)
    path.write_text(json.dumps(document if found is None else found))


def edit_onnx(path: Path, change: Callable[[onnx.GraphProto], object]) -> None:
    """Change an ONNX file in place."""
    model = onnx.ModelProto.FromString(path.read_bytes())
    change(model.graph)
    path.write_bytes(model.SerializeToString())


def edit_zip(path: Path, change: Callable[[dict[str, bytes]], object], kind: int = 0) -> None:
    """Change the members of an archive, by their path below the archive's folder."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        folder = names[0].split("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in names}
    change(members)
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(f"{folder}/{name}" if not name.startswith("/") else name, data)


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def part(number: int, content: bytes | str | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    payload = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def tf_node(name: str, op: str, *inputs: str, **attributes: bytes) -> bytes:
    """One node of a ``GraphDef``."""
    body = part(1, name) + part(2, op) + b"".join(part(3, item) for item in inputs)
    for key, value in attributes.items():
        body += part(5, part(1, key) + part(2, value))
    return part(1, body)


def tf_shape(*lengths: int) -> bytes:
    """A ``TensorShapeProto``."""
    return b"".join(part(2, part(1, length)) for length in lengths)


def tf_splat(name: str, *lengths: int) -> bytes:
    """A constant of float32 whose one value stands for all."""
    tensor = part(1, 1) + part(2, tf_shape(*lengths)) + part(5, struct.pack("<f", 1.5))
    return tf_node(name, "Const", dtype=part(6, 1), value=part(8, tensor))


def tf_ints(name: str, *values: int) -> bytes:
    """A constant vector of int64."""
    content = struct.pack(f"<{len(values)}q", *values)
    tensor = part(1, 9) + part(2, tf_shape(len(values))) + part(4, content)
    return tf_node(name, "Const", dtype=part(6, 9), value=part(8, tensor))


def tf_input(name: str, *lengths: int) -> bytes:
    """A placeholder of float32."""
    return tf_node(name, "Placeholder", dtype=part(6, 1), shape=part(7, tf_shape(*lengths)))
