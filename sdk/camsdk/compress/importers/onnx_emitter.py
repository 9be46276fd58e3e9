"""Building an ONNX graph from operators that think in TensorFlow's layout.

TensorFlow computes images as NHWC, ONNX as NCHW, and graphs that were converted before are full of
transposes between the two. Here a transpose is no work but a note: a ``Value`` is a tensor in the
ONNX graph together with the permutation that turns it into the tensor TensorFlow means. Transposing
changes the note; an operator that needs a layout asks for it with ``Emitter.arranged``, which emits
a Transpose only when the note says otherwise. A graph of convolutions comes out with none at all.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from camsdk.errors import UnsupportedModel

Array = NDArray[np.generic]
Perm = tuple[int, ...]

OPSET: Final = 17
IR_VERSION: Final = 9
"""Old enough for every onnxruntime that the platform accepts."""

CHANNELS_FIRST: Final[Perm] = (0, 2, 3, 1)
"""Note on an NCHW tensor that TensorFlow means as NHWC."""


@dataclass(frozen=True)
class Value:
    """A tensor that TensorFlow means, and where it is in ONNX.

    Attributes:
        name: Of the ONNX tensor.
        perm: TensorFlow's tensor is ``transpose(onnx tensor, perm)``.
        shape: Of TensorFlow's tensor.
        constant: TensorFlow's tensor, when it is known; ``name`` is then empty until it is used.
        element: ONNX's number of its element type; looked at for outputs of the graph only.
    """

    name: str
    perm: Perm
    shape: tuple[int, ...]
    constant: Array | None = None
    element: int = TensorProto.FLOAT

    @property
    def is_plain(self) -> bool:
        """Whether ONNX holds it as TensorFlow means it."""
        return self.perm == tuple(range(len(self.perm)))

    @property
    def axes(self) -> Perm:
        """The ONNX tensor is ``transpose(TensorFlow's tensor, axes)``."""
        return inverse(self.perm)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes ``perm``."""
    return tuple(perm.index(axis) for axis in range(len(perm)))


def plain_value(name: str, shape: tuple[int, ...]) -> Value:
    """A tensor that ONNX holds as the other framework means it."""
    return Value(name, tuple(range(len(shape))), shape)


def constant(value: Array) -> Value:
    """A known tensor."""
    return Value("", tuple(range(value.ndim)), value.shape, value)


def transposed(value: Value, perm: Perm) -> Value:
    """TensorFlow's ``transpose(value, perm)``: only the note changes."""
    known = None if value.constant is None else np.transpose(value.constant, perm)
    if known is not None:
        return constant(known)
    return replace(
        value,
        perm=tuple(value.perm[axis] for axis in perm),
        shape=tuple(value.shape[axis] for axis in perm),
    )


class Emitter:
    """Collects nodes and initializers, then makes the model."""

    def __init__(self) -> None:
        self._nodes: dict[str, onnx.NodeProto] = {}  # by the first output's name
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._biases: dict[str, tuple[str, str]] = {}  # layer and bias by their sum

    def add_input(self, name: str, shape: tuple[int, ...]) -> Value:
        """A float32 input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return Value(name, tuple(range(len(shape))), shape)

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        outputs: int = 1,
        **attributes: Any,
    ) -> tuple[str, ...]:
        """Emit one node; its outputs are called ``name``, ``name:1``, ... or free names."""
        name = self._free(name)
        names = tuple(f"{name}:{i}" if i else name for i in range(outputs))
        self._nodes[name] = helper.make_node(op, list(inputs), list(names), name=name, **attributes)
        return names

    def initializer(self, name: str, value: Array) -> str:
        """A stored constant, under this name or a free one like it."""
        name = self._free(name)
        self._initializers[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def _free(self, name: str) -> str:
        """Layers may be called what we call a part of another layer."""
        inputs = {info.name for info in self._inputs}
        while name in self._nodes or name in self._initializers or name in inputs:
            name += "'"
        return name

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node whose first output is ``name``."""
        return self._nodes.get(name)

    def stored(self, name: str) -> Array:
        """The value of an initializer."""
        return numpy_helper.to_array(self._initializers[name])

    def note_bias(self, total: str, layer: str, bias: str) -> None:
        """The Add ``total`` gives the Conv or Gemm ``layer`` this bias.

        In the model it becomes the layer's own, unless something else reads the layer too.
        """
        self._biases[total] = (layer, bias)

    def arranged(self, value: Value, perm: Perm, name: str) -> str:
        """The ONNX tensor of ``value`` in the layout that ``perm`` notes.

        Args:
            name: Prefix for what has to be emitted.
        """
        axes = inverse(perm)
        if value.constant is not None:
            return self.initializer(f"{name}/constant", np.transpose(value.constant, axes))
        if value.perm == perm:
            return value.name
        swap = [value.perm[axis] for axis in axes]
        return self.node("Transpose", [value.name], f"{name}/transpose", perm=swap)[0]

    def held(self, value: Value, name: str) -> str:
        """The ONNX tensor of ``value`` in whatever layout it is."""
        return self.arranged(value, value.perm, name)

    def plain(self, value: Value, name: str) -> str:
        """The ONNX tensor of ``value`` as TensorFlow means it."""
        return self.arranged(value, tuple(range(len(value.perm))), name)

    def model(self, outputs: Mapping[str, Value], producer: str) -> onnx.ModelProto:
        """The checked model with only what its outputs need.

        Args:
            outputs: Public name and tensor of each output.
            producer: Name and version of the tool.
        """
        rename: dict[str, str] = {}
        infos = []
        tensors = [self.plain(value, f"{name}/result") for name, value in outputs.items()]
        folded = self._fold_biases(tensors)
        for (name, value), held in zip(outputs.items(), tensors, strict=True):
            tensor = folded.get(held, held)
            is_taken = tensor in rename or tensor not in self._nodes
            if is_taken:  # an input, a constant, a second output of a node, or named before
                (tensor,) = self.node("Identity", [tensor], f"{name}/output")
            rename[tensor] = name
            infos.append(helper.make_tensor_value_info(name, value.element, value.shape))
        nodes = self._needed(set(rename))
        # A tensor inside may have a public name already, such as a layer in its own layout.
        made = {tensor for node in nodes for tensor in node.output}.union(self._initializers)
        inside = {name: self._free(f"{name}/inside") for name in outputs if name in made}
        rename = inside | rename
        for node in nodes:
            node.input[:] = [rename.get(tensor, tensor) for tensor in node.input]
            node.output[:] = [rename.get(tensor, tensor) for tensor in node.output]
        used = {tensor for node in nodes for tensor in node.input}
        stored = [
            _called(value, rename.get(name, name))
            for name, value in self._initializers.items()
            if rename.get(name, name) in used
        ]
        return _checked(helper.make_graph(nodes, "imported", self._inputs, infos, stored), producer)

    def _fold_biases(self, results: Sequence[str]) -> dict[str, str]:
        """Sums that became a layer's bias, and the layer that stands for each.

        Args:
            results: Tensors that are read outside of the graph.
        """
        nodes = self._needed(set(results))
        readers = Counter([*results, *(tensor for node in nodes for tensor in node.input)])
        folded: dict[str, str] = {}
        for total, (layer, bias) in self._biases.items():
            node = self._nodes[layer]
            if readers[total] and readers[layer] == 1 and len(node.input) == 2:
                node.input.append(bias)
                del self._nodes[total]
                folded[total] = layer
        for node in self._nodes.values():
            node.input[:] = [folded.get(tensor, tensor) for tensor in node.input]
        return folded

    def _needed(self, tensors: set[str]) -> list[onnx.NodeProto]:
        wanted = set(tensors)
        kept = []
        for node in reversed(self._nodes.values()):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        return kept[::-1]


def _called(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    tensor.name = name
    return tensor


def _checked(graph: onnx.GraphProto, producer: str) -> onnx.ModelProto:
    """A model of the graph, if ONNX's own checker has nothing against it."""
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name=producer
    )
    model.ir_version = IR_VERSION
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedModel(f"the imported graph is not valid ONNX: {error}") from error
    return model
