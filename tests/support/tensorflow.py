"""TensorFlow.js graph models made on the spot, and TensorFlow's operators written out in numpy.

The reference shares only the file reader with the importer: it keeps TensorFlow's layout,
transposes for real, pads for real and loops over windows.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.importers.tfjs_reader import TfGraph, TfNode, node_of, output_index

Array = NDArray[Any]


def text(value: str) -> dict[str, str]:
    """A string attribute."""
    return {"s": base64.b64encode(value.encode()).decode()}


def texts(*values: str) -> dict[str, Any]:
    """A list of strings."""
    return {"list": {"s": [text(value)["s"] for value in values]}}


def ints(*values: int) -> dict[str, Any]:
    """A list of integers, as protobuf's JSON writes them."""
    return {"list": {"i": [str(value) for value in values]}}


class GraphFile:
    """Collects nodes and weights, then writes the two files."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.weights: list[dict[str, Any]] = []
        self.data = b""
        self.outputs: list[str] = []

    def placeholder(self, name: str, *shape: int) -> str:
        """A float32 input."""
        dims = {"dim": [{"size": str(size)} for size in shape]}
        return self.node(name, "Placeholder", shape={"shape": dims})

    def node(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        """An operation."""
        self.nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attributes})
        return name

    def constant(self, name: str, value: Any, quantization: Mapping[str, Any] | None = None) -> str:
        """A weight; with ``quantization`` the value is what is stored."""
        array = np.asarray(value)
        dtype = "float32" if quantization or array.dtype.kind == "f" else "int32"
        stored = array if quantization else array.astype(dtype)
        row = {"name": name, "shape": list(array.shape), "dtype": dtype}
        self.weights.append(row | ({"quantization": dict(quantization)} if quantization else {}))
        self.data += stored.tobytes()
        return self.node(name, "Const")

    def document(self) -> dict[str, Any]:
        """The JSON."""
        document: dict[str, Any] = {
            "format": "graph-model",
            "modelTopology": {"node": self.nodes},
            "weightsManifest": [{"paths": ["weights.bin"], "weights": self.weights}],
        }
        if self.outputs:
            rows = {f"{name}:0": {"name": f"{name}:0"} for name in self.outputs}
            document["signature"] = {"outputs": rows}
        return document

    def write(self, folder: Path) -> Path:
        """Path of the JSON; the weights lie beside it."""
        (folder / "weights.bin").write_bytes(self.data)
        (folder / "model.json").write_text(json.dumps(self.document()))
        return folder / "model.json"


def evaluate(
    graph: TfGraph, feeds: Mapping[str, Array], outputs: Sequence[str]
) -> dict[str, Array]:
    """What TensorFlow computes."""
    values: dict[str, tuple[Array, ...]] = {}
    for name, node in graph.nodes.items():
        if node.op == "Const":
            values[name] = (np.asarray(graph.constants[name]),)
        elif node.op == "Placeholder":
            values[name] = (feeds[name],)
        else:
            inputs = [values[node_of(tensor)][output_index(tensor)] for tensor in node.inputs]
            result = _OPERATORS[node.op](node, *inputs)
            values[name] = result if isinstance(result, tuple) else (result,)
    return {name: values[node_of(name)][output_index(name)] for name in outputs}


def _same_pads(length: int, window: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + window - length, 0)
    return total // 2, total - total // 2


def _padded(node: TfNode, image: Array, window: tuple[int, int], fill: float) -> Array:
    strides = node.ints("strides")
    if node.text("padding") == "VALID":
        return image
    if node.text("padding") == "EXPLICIT":
        rows = np.reshape(node.ints("explicit_paddings"), (4, 2))
    else:
        rows = np.array(
            [
                (0, 0),
                _same_pads(image.shape[1], window[0], strides[1]),
                _same_pads(image.shape[2], window[1], strides[2]),
                (0, 0),
            ]
        )
    return np.pad(image, rows, constant_values=fill)


def _conv(node: TfNode, image: Array, kernel: Array, *, is_depthwise: bool) -> Array:
    _, dy, dx, _ = node.ints("dilations") or (1, 1, 1, 1)
    _, sy, sx, _ = node.ints("strides")
    height, width = kernel.shape[:2]
    window = ((height - 1) * dy + 1, (width - 1) * dx + 1)
    image = _padded(node, image, window, 0.0)
    rows = (image.shape[1] - window[0]) // sy + 1
    columns = (image.shape[2] - window[1]) // sx + 1
    total: Array | float = 0.0
    for y in range(height):
        for x in range(width):
            part = image[:, y * dy : y * dy + rows * sy : sy, x * dx : x * dx + columns * sx : sx]
            part = part[:, :rows, :columns]
            if is_depthwise:
                product = part[..., np.newaxis] * kernel[y, x]
                total = total + product.reshape(*part.shape[:3], -1)
            else:
                total = total + part @ kernel[y, x]
    return np.asarray(total)


def _pool(node: TfNode, image: Array, reduce: Callable[..., Array], fill: float) -> Array:
    _, height, width, _ = node.ints("ksize")
    _, sy, sx, _ = node.ints("strides")
    image = _padded(node, image, (height, width), fill)
    views = np.lib.stride_tricks.sliding_window_view(image, (height, width), axis=(1, 2))
    return reduce(views[:, ::sy, ::sx], axis=(-2, -1))


def _bilinear(node: TfNode, image: Array, size: Array) -> Array:
    def weights(length: int, wanted: int) -> Array:
        centres = (np.arange(wanted) + 0.5) * length / wanted - 0.5
        low = np.floor(centres).astype(int)
        matrix = np.zeros((wanted, length))
        for row, (first, centre) in enumerate(zip(low, centres, strict=True)):
            matrix[row, np.clip(first, 0, length - 1)] += 1 - (centre - first)
            matrix[row, np.clip(first + 1, 0, length - 1)] += centre - first
        return matrix

    rows, columns = (weights(image.shape[i + 1], int(size[i])) for i in (0, 1))
    return np.einsum("rh,bhwc,kw->brkc", rows, image, columns)


def _nearest(node: TfNode, image: Array, size: Array) -> Array:
    rows, columns = (
        ((np.arange(size[i]) + 0.5) * image.shape[i + 1] / size[i]).astype(int) for i in (0, 1)
    )
    return image[:, rows][:, :, columns]


def _leaky(image: Array, alpha: float) -> Array:
    return np.where(image > 0, image, alpha * image)


def _fused(node: TfNode, image: Array, kernel: Array, bias: Array) -> Array:
    result = _conv(node, image, kernel, is_depthwise="Depthwise" in node.op) + bias
    for step in node.texts("fused_ops")[1:]:
        result = {
            "Relu": np.maximum(result, 0),
            "Relu6": np.clip(result, 0, 6),
            "LeakyRelu": _leaky(result, node.number("leakyrelu_alpha", 0.2)),
        }[step]
    return result


def _softmax(node: TfNode, x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _sparse(node: TfNode, at: Array, shape: Array, values: Array, default: Array) -> Array:
    dense = np.full(tuple(shape), default)
    for index, value in zip(at, values, strict=True):
        dense[tuple(index)] = value
    return dense


def _concat(node: TfNode, *inputs: Array) -> Array:
    return np.concatenate(inputs[:-1], axis=int(inputs[-1]))


_OPERATORS: dict[str, Callable[..., Array | tuple[Array, ...]]] = {
    "Add": lambda node, a, b: a + b,
    "AddV2": lambda node, a, b: a + b,
    "BiasAdd": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Maximum": lambda node, a, b: np.maximum(a, b),
    "Minimum": lambda node, a, b: np.minimum(a, b),
    "Identity": lambda node, x: x,
    "Relu": lambda node, x: np.maximum(x, 0),
    "Relu6": lambda node, x: np.clip(x, 0, 6),
    "Elu": lambda node, x: np.where(x > 0, x, np.expm1(x)),
    "Tanh": lambda node, x: np.tanh(x),
    "Sigmoid": lambda node, x: (1 + np.tanh(x / 2)) / 2,
    "LeakyRelu": lambda node, x: _leaky(x, node.number("alpha", 0.2)),
    "Softmax": _softmax,
    "Conv2D": lambda node, x, w: _conv(node, x, w, is_depthwise=False),
    "DepthwiseConv2dNative": lambda node, x, w: _conv(node, x, w, is_depthwise=True),
    "_FusedConv2D": _fused,
    "FusedDepthwiseConv2dNative": _fused,
    "MaxPool": lambda node, x: _pool(node, x, np.max, -np.inf),
    "AvgPool": lambda node, x: _pool(node, x, np.nanmean, np.nan),
    "Pad": lambda node, x, rows: np.pad(x, rows),
    "PadV2": lambda node, x, rows, fill: np.pad(x, rows, constant_values=float(fill)),
    "ConcatV2": _concat,
    "Reshape": lambda node, x, shape: x.reshape(tuple(int(n) for n in shape)),
    "Transpose": lambda node, x, perm: x.transpose(tuple(int(n) for n in perm)),
    "ResizeBilinear": _bilinear,
    "ResizeNearestNeighbor": _nearest,
    "Split": lambda node, axis, x: tuple(np.split(x, node.integer("num_split", 1), int(axis))),
    "SplitV": lambda node, x, n, axis: tuple(np.split(x, np.cumsum(n)[:-1], int(axis))),
    "SparseToDense": _sparse,
}
