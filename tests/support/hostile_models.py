"""Hostile networks of Caffe and MXNet, and all cases of all frameworks."""

import shutil
import struct
from collections.abc import Callable
from typing import Any

from support.foreign_models import (
    GOLDEN,
    Foreign,
    edit_json,
    part,
)
from support.hostile_case import Case
from support.hostile_graphs import TENSORFLOW, TFJS
from support.hostile_programs import ONNX, PYTORCH

HUGE = 1 << 40

# Caffe

_HEAD = 'input: "data" input_shape { dim: 1 dim: 4 dim: 23 dim: 30 }\n'


def _caffe(text: str, head: str = _HEAD) -> Callable[[Foreign], object]:
    return lambda model: model.files[0].write_text(head + text)


def _layer(kind: str, rest: str = "") -> str:
    return f'layer {{ name: "odd" type: "{kind}" bottom: "data" top: "y" {rest} }}'


def _blob(*lengths: int) -> Callable[[Foreign], object]:
    """The weights of ``stem`` claim a shape."""
    shape = b"".join(part(1, length) for length in lengths)
    blob = part(7, shape) + part(5, bytes(64))
    content = part(100, part(1, "stem") + part(7, blob))
    return lambda model: model.files[1].write_bytes(content)


CAFFE = [
    Case("caffe", "unknown operator", _caffe(_layer("Python")), ["'Python'", "'odd'"]),
    Case(
        "caffe",
        "reads a file",
        _caffe(_layer("Data", 'data_param { source: "/etc/passwd" }')),
        ["'Data'", "'odd'"],
    ),
    Case(
        "caffe",
        "2^40 filters",
        _caffe(_layer("Convolution", f"convolution_param {{ num_output: {HUGE} kernel_size: 3 }}")),
        ["'odd'"],
    ),
    Case(
        "caffe",
        "padding of 2^40",
        _caffe(_layer("Pooling", f"pooling_param {{ kernel_size: 3 pad: {HUGE} }}")),
        ["'odd'"],
    ),
    Case(
        "caffe",
        "reshaped to 2^80",
        _caffe(_layer("Reshape", f"reshape_param {{ shape {{ dim: {HUGE} dim: {HUGE} }} }}")),
        ["'odd'"],
    ),
    Case(
        "caffe",
        "input of 2^100 numbers",
        _caffe(_layer("ReLU"), 'input: "data" ' + "input_dim: 1000000 " * 5),
        [],
    ),
    Case("caffe", "blob of 2^80 numbers", _blob(HUGE, HUGE), ["'stem'"]),
    Case("caffe", "blob of a wrong length", _blob(8, 4, 3, 3), ["'stem'"]),
    Case(
        "caffe",
        "read before it is written",
        _caffe(
            'layer { name: "odd" type: "ReLU" bottom: "later" top: "y" }\n'
            'layer { name: "next" type: "TanH" bottom: "y" top: "later" }'
        ),
        ["'odd'", "'later'"],
    ),
    Case("caffe", "nested 100,000 times", _caffe("a {" * 100_000), ["nests"]),
    Case("caffe", "a million words", _caffe("a " * 1_000_000), []),
    Case(
        "caffe",
        "weights of another model",
        lambda model: shutil.copy(GOLDEN / "caffe" / "neck.caffemodel", model.files[1]),
        ["'stem'"],
    ),
]


# MXNet


def _mxnet(name: str, **changes: Any) -> Callable[[Foreign], object]:
    """The first node of an operator gets other fields."""

    def change(document: Any) -> None:
        node = next(node for node in document["nodes"] if node["op"] == name)
        node.update({"name": "odd", **changes})

    return lambda model: edit_json(model.files[0], change)


def _mxnet_cycle(document: Any) -> None:
    node = next(node for node in document["nodes"] if node["op"] == "BatchNorm")
    node["inputs"][0] = document["heads"][0]


def _params(array: bytes) -> Callable[[Foreign], object]:
    content = struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, 1) + b"w"
    return lambda model: model.files[1].write_bytes(content)


def _mxnet_array(*lengths: int) -> bytes:
    rank = len(lengths)
    return struct.pack(f"<IiI{rank}qiii", 0xF993FAC9, 0, rank, *lengths, 1, 0, 0)


MXNET = [
    Case("mxnet", "unknown operator", _mxnet("BatchNorm", op="Custom"), ["'Custom'", "'odd'"]),
    Case(
        "mxnet",
        "2^40 filters",
        _mxnet("Convolution", attrs={"kernel": "(3, 3)", "num_filter": str(HUGE)}),
        ["'odd'"],
    ),
    Case(
        "mxnet",
        "upsampled 2^30 times",
        _mxnet(
            "BatchNorm", op="UpSampling", attrs={"scale": "1073741824", "sample_type": "nearest"}
        ),
        ["'odd'"],
    ),
    Case(
        "mxnet",
        "padded by 2^30",
        _mxnet(
            "BatchNorm",
            op="Pad",
            attrs={"mode": "constant", "pad_width": str((0, 0, 0, 0) + (1 << 30,) * 4)},
        ),
        ["'odd'"],
    ),
    Case(
        "mxnet",
        "reshaped to 2^60",
        _mxnet("BatchNorm", op="Reshape", attrs={"shape": f"({1 << 30}, {1 << 30})"}),
        ["'odd'"],
    ),
    Case(
        "mxnet",
        "an option of 900 brackets",
        _mxnet("Convolution", attrs={"kernel": "(" * 900 + ")" * 900, "num_filter": "4"}),
        ["'odd'"],
    ),
    Case(
        "mxnet",
        "an option of 999 signs",
        _mxnet("Convolution", attrs={"kernel": "-" * 999 + "1", "num_filter": "4"}),
        ["'odd'"],
    ),
    Case("mxnet", "array of 2^80 numbers", _params(_mxnet_array(HUGE, HUGE)), []),
    Case("mxnet", "array of 2^27 numbers", _params(_mxnet_array(1 << 27)), ["truncated"]),
    Case("mxnet", "cycle", lambda model: edit_json(model.files[0], _mxnet_cycle), []),
    Case(
        "mxnet",
        "deep JSON",
        lambda model: model.files[0].write_bytes(b'{"nodes": ' + b"[" * 1_000_000),
        ["JSON"],
    ),
    Case(
        "mxnet",
        "weights of another model",
        lambda model: shutil.copy(GOLDEN / "mxnet" / "pyramid-0000.params", model.files[1]),
        ["parameters"],
    ),
]

CASES = [*ONNX, *PYTORCH, *TENSORFLOW, *TFJS, *CAFFE, *MXNET]
