"""Arithmetic of shapes in ONNX graphs, which is folded into constants.

ONNX's inference follows values through some operators only: it gives up on a length that is
divided, or computed in floats, though nothing in it depends on a picture. Where the inputs have
fixed shapes, all that follows from constants and from the shapes of known tensors is constant. Here
it is computed, as far as the shape of a tensor depends on it, and stored. A value that a node would
make is judged by its size before the node is evaluated.
"""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.generic]
Shape = tuple[int, ...]

MAX_ELEMENTS: Final = 1 << 20
"""Of a tensor that is read or made here."""

MAX_ALL_ELEMENTS: Final = 1 << 24
"""Of all tensors together: what a stranger's graph may cost."""

MAX_VISITS: Final = 1 << 19
"""Of nodes, in all rounds of folding and inference: about 20 s. A tensor whose shape is computed
from another's takes one round more."""

_SHAPE_READERS: Final = frozenset({"Shape", "Size"})

_EVALUATED: Final = frozenset(
    """
    Abs Add And ArgMax ArgMin Cast Ceil Clip Concat Constant ConstantOfShape CumSum Div Equal
    Expand Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less
    LessOrEqual Max Min Mod Mul Neg NonZero Not OneHot Or Pad Pow Range Reciprocal ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum Reshape Round ScatterND Sign Slice Split Sqrt
    Squeeze Sub Sum Tile TopK Transpose Unsqueeze Where Xor
    """.split()  # noqa: SIM905 - a table to read, not fifty quoted words
)
"""What lengths and indices are computed with. All take about as long as what they read and make."""

_DECIDED_BY_ALL: Final = frozenset({"ConstantOfShape", "NonMaxSuppression", "NonZero", "Range"})
"""Their outputs are as large as the values of all inputs say; of others, of all but the first."""

_FAILURES: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.shape_inference.InferenceError,
)
"""What evaluating a node that is not valid raises: it stays."""


def known_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Of inputs, outputs and inner tensors of which every length is known; it may be 0."""
    return {
        info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in [*graph.input, *graph.output, *graph.value_info]
        if info.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in info.type.tensor_type.shape.dim)
    }


def deciding(node: onnx.NodeProto) -> list[str]:
    """The inputs whose values may say how large the outputs are."""
    inputs = node.input if node.op_type in _DECIDED_BY_ALL else node.input[1:]
    return [name for name in inputs if name]


def depends_on_inputs(graph: onnx.GraphProto) -> set[str]:
    """Tensors whose values follow from those of the graph's inputs, which have fixed shapes."""
    found = {info.name for info in graph.input}
    for node in graph.node:
        if node.op_type not in _SHAPE_READERS and not found.isdisjoint(node.input):
            found.update(node.output)
    return found


class ShapeFolding:
    """Of one model, in place, in rounds between which its shapes are inferred again."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._left = MAX_ALL_ELEMENTS
        self._visits = MAX_VISITS
        inputs = {info.name for info in model.graph.input}  # a caller may give these
        self._constants = {
            tensor.name: tensor
            for tensor in model.graph.initializer
            if tensor.name not in inputs and _is_moderate(tensor.dims)
        }

    def fold(self, inferred: onnx.GraphProto) -> bool:
        """One round; whether anything was folded.

        Args:
            inferred: The graph with the shapes that are known of it by now.
        """
        known = known_shapes(inferred)
        wanted = _wanted(self._model.graph, known)
        self._visits -= len(self._model.graph.node)
        if not wanted or self._visits < 0:
            return False
        outputs = {info.name for info in self._model.graph.output}
        folded = []
        for node in self._model.graph.node:
            if wanted.isdisjoint(node.output) or not outputs.isdisjoint(node.output):
                continue
            made = self._made(node, known)
            if made is not None:
                self._constants.update(made)
                folded.append(node)
        self._replace(folded)
        return bool(folded)

    def _made(
        self, node: onnx.NodeProto, known: dict[str, Shape]
    ) -> dict[str, onnx.TensorProto] | None:
        """The outputs of a node by name; None where they are not known."""
        if node.op_type in _SHAPE_READERS:
            shape = known.get(node.input[0])
            return None if shape is None else _of_shape(node, shape)
        names = [name for name in node.input if name]
        if node.op_type not in _EVALUATED or not all(name in self._constants for name in names):
            return None
        inputs = [self._constants[name] for name in dict.fromkeys(names)]
        read = sum(math.prod(tensor.dims) for tensor in inputs)
        try:
            alone = self._alone(node, inputs)
            count = _asked_for(alone, read)
            if count is None or read + count > self._left:
                return None
            self._left -= read + count
            return _evaluated(alone)
        except _FAILURES:
            return None

    def _alone(self, node: onnx.NodeProto, inputs: list[onnx.TensorProto]) -> onnx.ModelProto:
        """A model of this node only, with the shapes that it gives."""
        graph = helper.make_graph([node], "g", [], [], inputs)
        opsets = self._model.opset_import
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self._model.ir_version)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def _replace(self, folded: list[onnx.NodeProto]) -> None:
        """Store what the nodes make, and forget the constants that only they read."""
        graph = self._model.graph
        gone = {name for node in folded for name in node.output if name}
        candidates = gone.union(*(node.input for node in folded))
        for place in reversed(range(len(graph.node))):
            if not gone.isdisjoint(graph.node[place].output):
                del graph.node[place]
        read = {name for node in graph.node for name in node.input}
        read |= {info.name for info in [*graph.input, *graph.output]}
        unread = candidates - read
        for place in reversed(range(len(graph.initializer))):
            if graph.initializer[place].name in unread:
                del graph.initializer[place]
        graph.initializer.extend(self._constants[name] for name in sorted(gone & read))


def _wanted(graph: onnx.GraphProto, known: dict[str, Shape]) -> set[str]:
    """Tensors of unknown shape, and those whose values may decide on one."""
    open_shapes = {
        name for node in graph.node for name in node.output if name and name not in known
    }
    values: set[str] = set()
    for node in reversed(graph.node if open_shapes else ()):
        if not values.isdisjoint(node.output):
            values.update(() if node.op_type in _SHAPE_READERS else filter(None, node.input))
        elif not open_shapes.isdisjoint(node.output):
            values.update(deciding(node))
    return open_shapes | values


def _of_shape(node: onnx.NodeProto, shape: Shape) -> dict[str, onnx.TensorProto]:
    """What Shape or Size gives."""
    given = {item.name: int(item.i) for item in node.attribute}
    window = slice(given.get("start", 0), given.get("end"))
    value = np.array(shape[window] if node.op_type == "Shape" else math.prod(shape), np.int64)
    return {node.output[0]: numpy_helper.from_array(value, node.output[0])}


def _asked_for(alone: onnx.ModelProto, read: int) -> int | None:
    """Elements that the node would make of ``read``; None if too many or unknown."""
    node = alone.graph.node[0]
    if node.op_type == "NonZero":  # indices, of each axis
        rank = max((len(tensor.dims) for tensor in alone.graph.initializer), default=1)
        return rank * read if rank * read <= MAX_ELEMENTS else None
    known = known_shapes(alone.graph)
    shapes = [known.get(name) for name in node.output if name]
    if any(shape is None or not _is_moderate(shape) for shape in shapes):
        return None
    return sum(math.prod(shape) for shape in shapes if shape is not None)


def _evaluated(alone: onnx.ModelProto) -> dict[str, onnx.TensorProto] | None:
    from onnx.reference import ReferenceEvaluator  # loads every operator; few models need it

    names = [name for name in alone.graph.node[0].output if name]
    alone.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    with np.errstate(all="ignore"):
        values = [np.asarray(value) for value in ReferenceEvaluator(alone).run(names, {})]
    if any(value.dtype.kind not in "biuf" or not _is_moderate(value.shape) for value in values):
        return None
    return {
        name: numpy_helper.from_array(np.array(value, order="C"), name)
        for name, value in zip(names, values, strict=True)
    }


def _is_moderate(shape: Iterable[int]) -> bool:
    return math.prod(max(length, 1) for length in shape) <= MAX_ELEMENTS
