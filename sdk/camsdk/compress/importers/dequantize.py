"""Quantized ONNX back to float: constants get their values, roundings of activations go away."""

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from camsdk.compress.graph.limits import MOVES
from camsdk.errors import UnsupportedModel

_POSITIVE: Final = frozenset(
    {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt", "Softplus"}
)
"""What they make is nowhere negative."""

_KEEPS_SIGN: Final = MOVES | {"AveragePool", "GlobalAveragePool", "ReduceMean", "Resize"}
"""What they make of tensors that are nowhere negative is not negative either."""

_SIX_WITHIN: Final = 0.03
"""Half a percent: files store the scale of a Relu6 as 6/255 or 6/256."""

Grid = tuple[bytes, bytes]
"""Scale and zero point of a quantized tensor, as bytes to compare."""


def without_quantization(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float, changed in place.

    A DequantizeLinear of a constant becomes the float constant ``(q - zero_point) * scale``; a
    QuantizeLinear, and the DequantizeLinear nodes that undo it, are left out. Where the range of
    a QuantizeLinear begins at zero and what it takes may be negative, the range stands for a Relu
    that was folded into it (for a Relu6 if it ends at six), and a Relu or Clip takes its place.

    Raises:
        UnsupportedModel: Something is computed in integers; names the node.
    """
    walk = _Walk(model.graph)
    kept = [node for node in model.graph.node if walk.keeps(node)]
    public = {info.name for info in model.graph.output}
    for name in public.intersection(walk.rename):
        kept.append(onnx.helper.make_node("Identity", [name], [name], name=f"{name}/float"))
    for node in kept:
        node.input[:] = [walk.rename.get(name, name) for name in node.input]
    used = {name for node in kept for name in node.input} | public
    left = [tensor for tensor in walk.stored.values() if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(left)
    return model


class _Walk:
    """Follows quantized tensors through a graph in topological order.

    Attributes:
        rename: Tensors that are left out, and what stands for them.
        stored: Constants by name, those that were dequantized among them.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.rename: dict[str, str] = {}
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self._grids: dict[str, Grid] = {}
        self._positive: set[str] = set()  # tensors that are nowhere negative
        self._inputs = {info.name for info in graph.input}

    def keeps(self, node: onnx.NodeProto) -> bool:
        """Take a node in; whether it stays."""
        if node.op_type == "QuantizeLinear":
            self._grids[node.output[0]] = self._grid(node)
            if self._becomes_relu(node):
                self._positive.add(node.output[0])
                return True
            self._stand_in(node)
            return False
        if node.op_type == "DequantizeLinear":
            self._dequantize(node)
            return False
        self._note_sign(node)
        grids = {self._grids[name] for name in node.input if name in self._grids}
        if not grids:
            return True
        if node.op_type not in MOVES or len(grids) > 1:
            raise UnsupportedModel(
                f"node {node.name!r} ({node.op_type}) computes in integers",
                "give the float model that this one was made from",
            )
        self._grids.update(dict.fromkeys(node.output, grids.pop()))
        return True

    def _dequantize(self, node: onnx.NodeProto) -> None:
        source = node.input[0]
        if source in self.stored:
            value = _value(node, self.stored)
            self.stored[node.output[0]] = numpy_helper.from_array(value, node.output[0])
        elif self._grids.get(source) == self._grid(node):
            self._stand_in(node)
        else:
            raise UnsupportedModel(
                f"node {node.name!r} ({node.op_type}) takes {source!r} at another scale"
                " than it was written",
                "give the float model that this one was made from",
            )

    def _note_sign(self, node: onnx.NodeProto) -> None:
        sources = [self.rename.get(name, name) for name in node.input if name not in self.stored]
        is_kept = node.op_type in _KEEPS_SIGN and self._positive.issuperset(sources)
        is_bounded = node.op_type == "Clip" and len(node.input) > 1
        low = self.stored.get(node.input[1]) if is_bounded else None
        is_clipped = low is not None and numpy_helper.to_array(low).min() >= 0
        if is_kept or is_clipped or node.op_type in _POSITIVE:
            self._positive.update(node.output)

    def _becomes_relu(self, node: onnx.NodeProto) -> bool:
        """Turn a QuantizeLinear into the activation that its range stands for, if it is one."""
        source = self.rename.get(node.input[0], node.input[0])
        if source in self._positive or source in self._inputs or len(node.input) < 3:
            return False
        scale, zero = (numpy_helper.to_array(self.stored[name]) for name in node.input[1:3])
        if zero.size != 1 or zero.dtype.kind not in "iu" or zero.item() != np.iinfo(zero.dtype).min:
            return False
        steps = np.iinfo(zero.dtype).max - np.iinfo(zero.dtype).min
        inputs = [source]
        if abs(float(scale.item()) * steps - 6) < _SIX_WITHIN:
            for which, value in (("lowest", 0), ("highest", 6)):
                name = f"{node.output[0]}.{which}"
                self.stored[name] = numpy_helper.from_array(np.array(value, np.float32), name)
                inputs.append(name)
        node.op_type = "Relu" if len(inputs) == 1 else "Clip"
        node.input[:] = inputs
        del node.attribute[:]
        return True

    def _stand_in(self, node: onnx.NodeProto) -> None:
        self.rename[node.output[0]] = self.rename.get(node.input[0], node.input[0])

    def _grid(self, node: onnx.NodeProto) -> Grid:
        if any(name not in self.stored for name in node.input[1:]):
            raise UnsupportedModel(f"the scale of node {node.name!r} ({node.op_type}) is computed")
        parts = [numpy_helper.to_array(self.stored[name]).tobytes() for name in node.input[1:]]
        return parts[0], parts[1] if len(parts) > 1 else b""


def _value(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    parts = [stored.get(name) for name in node.input]
    if any(part is None for part in parts):
        raise UnsupportedModel(f"the scale of node {node.name!r} ({node.op_type}) is computed")
    integers, scale, *zeros = (numpy_helper.to_array(part) for part in parts if part is not None)
    axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
    shape = [1] * integers.ndim
    if scale.size > 1:
        shape[axis] = -1
    zero = zeros[0].astype(np.int64) if zeros else np.zeros((), np.int64)
    shifted = integers.astype(np.int64) - (zero.reshape(shape) if zero.size > 1 else zero)
    wide = scale.astype(np.float64)
    return (shifted * (wide.reshape(shape) if scale.size > 1 else wide)).astype(np.float32)
