"""Hostile ONNX files and exported programs of PyTorch."""

import json
import stat
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from support.foreign_models import (
    Foreign,
    edit_onnx,
    edit_zip,
    part,
)
from support.hostile_case import Case

HUGE = 1 << 40

# ONNX


def _onnx_node(op: str, *inputs: str, **attributes: Any) -> Callable[[Foreign], object]:
    """The graph is one node, called ``odd``, and what its constants are."""
    stored: dict[str, NDArray[Any]] = {
        "huge": np.array([HUGE], np.int64),
        "wide": np.array([1 << 31], np.int64),
        "many": np.array([1, 1 << 16, 1 << 16, 1 << 16], np.int64),
        "pads": np.array([0, 0, 0, HUGE] * 2, np.int64),
        "scales": np.array([1, 1, 1e6, 1e6], np.float32),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "end": np.array(HUGE, np.int64),
    }

    def damage(model: Foreign) -> None:
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))
        graph = helper.make_graph(
            [
                helper.make_node(op, list(inputs), ["made"], "odd", **attributes),
                helper.make_node("Cast", ["made"], ["floats"], "cast", to=1),
                helper.make_node("ReduceMax", ["floats"], ["top"], "top", keepdims=0),
                helper.make_node("Add", ["x", "top"], ["y"], "sum"),
            ],
            "g",
            [given],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v, k) for k, v in stored.items() if k in inputs],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model.files[0].write_bytes(made.SerializeToString())

    return damage


def _onnx_cycle(graph: onnx.GraphProto) -> None:
    graph.node[0].input[0] = graph.node[-1].output[0]


def _onnx_lies(graph: onnx.GraphProto) -> None:
    tensor = max(graph.initializer, key=lambda item: len(item.raw_data))
    tensor.dims[:] = [HUGE, HUGE]


def _onnx_nested(model: Foreign) -> None:
    """A graph within a node within a graph, 5,000 times; protobuf itself stops at 100."""
    graph = part(1, part(1, "x") + part(2, "y") + part(4, "Relu"))
    for _ in range(5000):
        attribute = part(1, "body") + part(6, graph) + part(20, 5)
        graph = part(1, part(2, "y") + part(4, "Loop") + part(5, attribute))
    model.files[0].write_bytes(part(1, 8) + part(7, graph))


def _onnx_external(place: str) -> Callable[[Foreign], object]:
    def damage(model: Foreign) -> None:
        folder = model.files[0].parent
        (folder.parent / "secret").write_bytes(bytes(1 << 16))
        (folder / "link").symlink_to(folder.parent / "secret")
        (folder / "hard").hardlink_to(folder.parent / "secret")

        def change(graph: onnx.GraphProto) -> None:
            tensor = graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=place)

        edit_onnx(model.files[0], change)
        (folder.parent / "secret").unlink()

    return damage


def _onnx_nodes(*nodes: onnx.NodeProto) -> Callable[[Foreign], object]:
    """The graph is these, which make ``y`` of ``x``."""

    def damage(model: Foreign) -> None:
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))
        made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        stored = [
            numpy_helper.from_array(np.array(6000), "rounds"),
            numpy_helper.from_array(np.array(True), "go"),
        ]
        graph = helper.make_graph(list(nodes), "g", [given], [made], stored)
        opsets = [helper.make_opsetid("", 17)]
        whole = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        model.files[0].write_bytes(whole.SerializeToString())

    return damage


def _onnx_loop(*nodes: onnx.NodeProto) -> Callable[[Foreign], object]:
    """6000 rounds of these, which make ``after`` of ``held``."""
    number = helper.make_tensor_value_info("i", TensorProto.INT64, ())
    goes = helper.make_tensor_value_info("goes", TensorProto.BOOL, ())
    held, after = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 8, 8))
        for name in ("held", "after")
    )
    body = helper.make_graph(list(nodes), "body", [number, goes, held], [goes, after])
    return _onnx_nodes(helper.make_node("Loop", ["rounds", "go", "x"], ["y"], "odd", body=body))


def _onnx_sequence(model: Foreign) -> None:
    """A list of 300,000 tensors that is copied 6000 times."""
    nodes = [helper.make_node("SequenceConstruct", ["x"] * 300_000, ["s0"])]
    for index in range(6000):
        inputs, outputs = [f"s{index}", "x"], [f"s{index + 1}"]
        nodes.append(helper.make_node("SequenceInsert", inputs, outputs))
    nodes.append(helper.make_node("ConcatFromSequence", ["s6000"], ["y"], axis=0))
    _onnx_nodes(*nodes)(model)


def _long_text() -> onnx.NodeProto:
    node = helper.make_node("Relu", ["held"], ["after"])
    node.doc_string = "x" * (1 << 20)
    return node


def _long_name() -> Sequence[onnx.NodeProto]:
    name = "x" * (1 << 20)
    return helper.make_node("Relu", ["held"], [name]), helper.make_node("Relu", [name], ["after"])


def _rename_onnx(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "Relu")
    node.op_type, node.name = "Rolu", "my/layer"


def _domain(graph: onnx.GraphProto) -> None:
    graph.node[1].domain, graph.node[1].name = "com.example", "my/layer"


def _onnx(change: Callable[[onnx.GraphProto], object]) -> Callable[[Foreign], object]:
    return lambda model: edit_onnx(model.files[0], change)


ONNX = [
    Case("onnx", "unknown operator", _onnx(_rename_onnx), ["'Rolu'", "'my/layer'"]),
    Case("onnx", "custom domain", _onnx(_domain), ["com.example", "'my/layer'"]),
    Case("onnx", "initializer of 2^80 numbers", _onnx(_onnx_lies), ["elements"]),
    Case("onnx", "ConstantOfShape", _onnx_node("ConstantOfShape", "wide"), ["'made'"]),
    Case("onnx", "Expand", _onnx_node("Expand", "x", "many"), []),
    Case("onnx", "Tile", _onnx_node("Tile", "x", "many"), ["'made'"]),
    Case("onnx", "Pad", _onnx_node("Pad", "x", "pads"), ["'made'"]),
    Case("onnx", "Resize", _onnx_node("Resize", "x", "", "scales"), ["'made'"]),
    Case("onnx", "Range", _onnx_node("Range", "zero", "end", "one"), ["'made'"]),
    Case("onnx", "Reshape", _onnx_node("Reshape", "x", "huge"), []),
    Case("onnx", "loop of a long text", _onnx_loop(_long_text()), ["copy more than 64 MiB"]),
    Case("onnx", "loop of a long name", _onnx_loop(*_long_name()), ["copy more than 64 MiB"]),
    Case("onnx", "long sequence", _onnx_sequence, ["copy more than 64 MiB"]),
    Case("onnx", "cycle", _onnx(_onnx_cycle), ["reads"]),
    Case("onnx", "nested graphs", _onnx_nested, []),
    *(
        Case("onnx", f"external data {place}", _onnx_external(place), ["another file"])
        for place in ("../secret", "/etc/passwd", "link", "hard")
    ),
]


# PyTorch

_MODEL, _WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def _pt2(member: str, change: Callable[[Any], Any]) -> Callable[[Foreign], object]:
    def edit(members: dict[str, bytes]) -> None:
        document = json.loads(members[member])
        found = change(document)
        members[member] = json.dumps(document if found is None else found).encode()

    return lambda model: edit_zip(model.files[0], edit)


def _nodes(document: Any) -> list[Any]:
    nodes: list[Any] = document["graph_module"]["graph"]["nodes"]
    return nodes


def _aten(document: Any) -> None:
    node = next(node for node in _nodes(document) if "batch_norm" in node["target"])
    node["target"] = "torch.ops.aten.cumprod.default"


def _foreign_operator(document: Any) -> None:
    _nodes(document)[0]["target"] = "os.system"


def _reversed(document: Any) -> None:
    _nodes(document).reverse()


def _strides(document: Any) -> None:
    for entry in document["config"].values():
        meta = entry["tensor_meta"]
        meta["sizes"] = [{"as_int": 1 << 28}] * len(meta["sizes"])
        meta["strides"] = [{"as_int": 0}] * len(meta["strides"])


def _wide_input(document: Any) -> None:
    for meta in document["graph_module"]["graph"]["tensor_values"].values():
        meta["sizes"] = [{"as_int": 1 << 20}] * len(meta["sizes"])


def _far_weight(place: str) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for entry in document["config"].values():
            entry["path_name"] = place

    return change


def _pt2_text(member: str, text: bytes) -> Callable[[Foreign], object]:
    return lambda model: edit_zip(model.files[0], lambda members: members.update({member: text}))


def _bomb(model: Foreign) -> None:
    """A member of 64 MB in 64 kB."""
    edit_zip(
        model.files[0],
        lambda members: members.update({"data/weights/weight_0": bytes(64 << 20)}),
        zipfile.ZIP_DEFLATED,
    )


def _lying_size(model: Foreign) -> None:
    """The directory says that a weight has 2 GB."""
    content = model.files[0].read_bytes()
    at = content.rindex(b"PK\x01\x02")
    size = struct.pack("<II", 1 << 31, 1 << 31)
    model.files[0].write_bytes(content[: at + 20] + size + content[at + 28 :])


def _slip(model: Foreign) -> None:
    """Names that lead outside."""
    path = model.files[0]
    edit_zip(path, lambda members: members.update({"../../../escape": b"x", "/tmp/escape": b"x"}))


def _zip_link(model: Foreign) -> None:
    """A link to /etc/passwd in place of a weight."""
    path = model.files[0]
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members:
            is_weight = info.filename.endswith("/weight_0")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16 if is_weight else info.external_attr
            archive.writestr(info, b"/etc/passwd" if is_weight else content)


PYTORCH = [
    Case("pytorch", "unknown operator", _pt2(_MODEL, _aten), ["'aten.cumprod.default'", "stem.1"]),
    Case("pytorch", "no operator of ATen", _pt2(_MODEL, _foreign_operator), ["'os.system'"]),
    Case("pytorch", "nodes in reverse", _pt2(_MODEL, _reversed), []),
    Case("pytorch", "strides of 0", _pt2(_WEIGHTS, _strides), ["beyond its bytes"]),
    Case("pytorch", "every tensor of 2^80 numbers", _pt2(_MODEL, _wide_input), []),
    Case("pytorch", "deep JSON", _pt2_text(_MODEL, b"[" * 1_000_000), []),
    Case("pytorch", "long JSON", _pt2_text(_MODEL, b"[" + b"[]," * 500_000 + b"0]"), []),
    Case("pytorch", "zip bomb", _bomb, ["compressed"]),
    Case("pytorch", "lying size", _lying_size, []),
    Case("pytorch", "zip slip", _slip, ["escape"]),
    Case("pytorch", "weight is a link", _zip_link, []),
    *(
        Case("pytorch", f"weight in {place}", _pt2(_WEIGHTS, _far_weight(place)), [place])
        for place in ("../weight_0", "/etc/passwd", "../../models/model.json")
    ),
]
