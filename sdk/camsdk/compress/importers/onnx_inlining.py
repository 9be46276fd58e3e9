"""Control flow and sequences of ONNX graphs that are decided before anything runs.

Exporters write a branch on a length, a loop of known rounds, or a list of tensors where a fixed
network needs none of them. Here an If of a known condition becomes the branch that it takes, a Loop
of known rounds that many copies of its body, and a sequence the tensors that it holds. What depends
on the values of a picture is refused.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from camsdk.compress.importers.runnable import ELEMENT_BITS
from camsdk.errors import ResourceExhausted, UnsupportedModel

MAX_STEPS: Final = 20_000
"""Nodes and rounds that all branches and loops may become together."""
MAX_ROW: Final = 1 << 16
"""Length of each axis of what a loop of no rounds would have collected."""
MAX_ROW_AXES: Final = 8

MAX_COPIED_BYTES: Final = 64 << 20
"""Of nodes that are repeated, of names, and of lists of names."""

_PLACE_BYTES: Final = 8
"""Of one entry in a list."""

_HINT: Final = "export the model for one fixed input, traced"

_AXES_ARE_INPUTS: Final = 13
"""From this opset on Unsqueeze and Split take their numbers as inputs."""

Names = dict[str, str]


def inline(graph: onnx.GraphProto, opset: int) -> None:
    """Replace control flow and sequences, in place; graphs without any stay as they are.

    Args:
        graph: Nodes in topological order.
        opset: Of the graph.

    Raises:
        UnsupportedModel: A condition, a count or a place in a sequence is computed from the input;
            names the node.
        ResourceExhausted: It would become more than ``MAX_STEPS`` nodes, or ``MAX_COPIED_BYTES``.
    """
    if not any(node.op_type in _HANDLED for node in graph.node):
        return
    walk = _Walk(graph, opset)
    names: Names = {}
    for node in graph.node:
        inputs = [names.get(name, name) for name in node.input]
        walk.take(_Named(node, inputs, list(node.output)), names)
    made = {name for node in walk.nodes for name in node.output}
    for info in graph.output:
        if info.name in names and info.name not in made:
            walk.add("Identity", [names[info.name]], info.name)
    del graph.node[:]
    graph.node.extend(walk.nodes)


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node; None for strings.

    Raises:
        UnsupportedModel: It has no single value.
    """
    if len(node.attribute) != 1 or len(node.output) != 1:
        raise UnsupportedModel(f"node {node.name!r} (Constant) has no single value")
    attribute = node.attribute[0]
    if attribute.name == "value":
        copy = onnx.TensorProto()
        copy.CopyFrom(attribute.t)
        return copy
    if attribute.name in ("value_float", "value_floats"):
        floats = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return numpy_helper.from_array(np.array(floats, np.float32))
    if attribute.name in ("value_int", "value_ints"):
        ints = attribute.i if attribute.name == "value_int" else list(attribute.ints)
        return numpy_helper.from_array(np.array(ints, np.int64))
    return None


@dataclass(frozen=True)
class _Named:
    """A node under its names in the graph, not copied: its subgraphs may be large.

    Attributes:
        written: As it is in the file.
        input, output: Final names.
    """

    written: onnx.NodeProto
    input: list[str]
    output: list[str]

    @property
    def op_type(self) -> str:
        return self.written.op_type

    @property
    def name(self) -> str:
        return self.written.name


def _attribute(node: _Named, name: str, default: int) -> int:
    found = (int(item.i) for item in node.written.attribute if item.name == name)
    return next(found, default)


def _subgraph(node: _Named, name: str) -> onnx.GraphProto:
    for item in node.written.attribute:
        if item.name == name:
            return item.g
    raise _refused(node, f"lacks its {name}")


def _refused(node: _Named, what: str) -> UnsupportedModel:
    title = node.name or next(iter(node.output), "")
    return UnsupportedModel(f"node {title!r} ({node.op_type}) {what}", _HINT)


def _named(outputs: Iterable[str], values: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Outputs with what they are; one that nobody reads has the name of inputs left out, none."""
    return ((output, value) for output, value in zip(outputs, values, strict=False) if output)


def _no_rows(node: _Named, info: onnx.ValueInfoProto) -> NDArray[Any]:
    """What a loop of no rounds collects: nothing, of the shape and type that a row would have."""
    row = info.type.tensor_type
    lengths = [dim.dim_value for dim in row.shape.dim]  # 0 where there is a name or nothing
    is_known = row.HasField("shape") and all(0 < length <= MAX_ROW for length in lengths)
    if not is_known or len(lengths) > MAX_ROW_AXES or row.elem_type not in ELEMENT_BITS:
        raise _refused(node, f"collects rows of unknown shape, {info.name!r}, in no rounds")
    return np.zeros((0, *lengths), helper.tensor_dtype_to_np_dtype(row.elem_type))


class _Walk:
    """Takes nodes in order and collects what they become.

    Attributes:
        nodes: What the graph becomes.
    """

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph = graph
        self._opset = opset
        self._known = {tensor.name: tensor for tensor in graph.initializer}
        self._sequences: dict[str, list[str]] = {}
        self._taken = {name for node in graph.node for name in node.output} | set(self._known)
        self._taken |= {info.name for info in graph.input}
        self._counts: dict[str, int] = {}
        self._constants: dict[int, tuple[onnx.GraphProto, Names]] = {}
        self._steps = 0
        self._copied_bytes = 0
        self._repeating = 0

    def take(self, node: _Named, names: Names) -> None:
        """One node whose inputs have their final names; ``names`` learns what stands for what."""
        self._step()
        if node.op_type in _HANDLED:
            _HANDLED[node.op_type](self, node, names)
            return
        listed = [name for name in node.input if name in self._sequences]
        if listed and node.op_type != "Identity":
            raise _refused(node, f"takes the sequence {listed[0]!r}")
        if listed:
            names[node.output[0]] = listed[0]
            return
        if node.op_type == "Constant" and (value := constant_of(node.written)) is not None:
            self._known[node.output[0]] = value
        if node.op_type == "Identity" and node.input[0] in self._known:
            self._known[node.output[0]] = self._known[node.input[0]]
        size, names_size = node.written.ByteSize(), sum(map(len, [*node.input, *node.output]))
        # What is taken once is bounded by the file, but for names that have become longer.
        self._spend(size + names_size if self._repeating else max(0, names_size - size))
        copy = onnx.NodeProto()
        copy.CopyFrom(node.written)
        copy.input[:], copy.output[:] = node.input, node.output
        self.nodes.append(copy)

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node of our own."""
        self._spend(sum(map(len, inputs)))
        made = helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **attributes)
        self.nodes.append(made)
        return output

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise ResourceExhausted(f"branches and loops become more than {MAX_STEPS} nodes", _HINT)

    def _spend(self, count: int) -> None:
        self._copied_bytes += count
        if self._copied_bytes > MAX_COPIED_BYTES:
            limit = MAX_COPIED_BYTES >> 20
            raise ResourceExhausted(f"loops and sequences copy more than {limit} MiB", _HINT)

    def _fresh(self, name: str) -> str:
        made = name
        while made in self._taken:
            self._counts[name] = self._counts.get(name, 0) + 1
            made = f"{name}/{self._counts[name]}"
        self._spend(len(made))
        self._taken.add(made)
        return made

    def _stored(self, name: str, value: NDArray[Any]) -> str:
        self._spend(value.nbytes)
        return self._put(name, numpy_helper.from_array(value))

    def _put(self, name: str, tensor: onnx.TensorProto) -> str:
        """Among the graph's constants, under a name that is free."""
        copy = self._graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = name = self._fresh(name)
        self._known[name] = copy
        return name

    def _number(self, node: _Named, place: int, what: str) -> int | None:
        """A known number that the node takes; None if it takes none there."""
        if len(node.input) <= place or not node.input[place]:
            return None
        return self._value(node, node.input[place], what)

    def _value(self, node: _Named, name: str, what: str) -> int:
        tensor = self._known.get(name)
        if tensor is None:
            raise _refused(node, f"has {what} that is computed")
        if (size := math.prod(tensor.dims)) != 1:
            raise _refused(node, f"has {what} of {size} values")
        return int(numpy_helper.to_array(tensor).item())

    def _run(self, body: onnx.GraphProto, names: Names, given: Names) -> list[str]:
        """Take all nodes of a subgraph under names of their own; the names of its outputs."""
        is_repeat = id(body) in self._constants
        constants = self._constants_of(body)
        inner = names | given | constants
        self._spend(_PLACE_BYTES * len(inner))
        self._repeating += is_repeat
        for node in body.node:
            if node.op_type == "Constant" and node.output[0] in constants:
                continue
            inputs = [inner.get(name, name) for name in node.input]
            inner.update({name: self._fresh(name) for name in node.output if name})
            outputs = [inner[name] if name else name for name in node.output]
            self.take(_Named(node, inputs, outputs), inner)
            for name in filter(None, node.output):  # a node that vanished has a stand-in
                inner[name] = inner.get(inner[name], inner[name])
        self._repeating -= is_repeat
        return [inner.get(info.name, info.name) for info in body.output]

    def _constants_of(self, body: onnx.GraphProto) -> Names:
        """What a subgraph stores, which enters the graph once however often the subgraph runs."""
        if id(body) not in self._constants:
            names = {tensor.name: self._put(tensor.name, tensor) for tensor in body.initializer}
            for node in body.node:
                if node.op_type == "Constant" and (value := constant_of(node)) is not None:
                    names[node.output[0]] = self._put(node.output[0], value)
            self._constants[id(body)] = body, names  # held, so that its id stays its own
        return self._constants[id(body)][1]

    def branch(self, node: _Named, names: Names) -> None:
        """``If``."""
        condition = self._number(node, 0, "a condition")
        body = _subgraph(node, "then_branch" if condition else "else_branch")
        names.update(_named(node.output, self._run(body, names, {})))

    def loop(self, node: _Named, names: Names) -> None:
        """``Loop``."""
        rounds, goes = self._number(node, 0, "a count"), self._number(node, 1, "a condition")
        body, carried = _subgraph(node, "body"), list(node.input[2:])
        if goes == 0:
            rounds = 0
        if rounds is None:
            raise _refused(node, "has no count of rounds")
        rows: list[list[str]] = [[] for _ in node.output[len(carried) :]]
        for number in range(rounds):
            self._step()
            values = [self._stored("round", np.array(number)), self._stored("goes", np.array(True))]
            inputs = [info.name for info in body.input]
            goes_on, *made = self._run(
                body, names, dict(zip(inputs, values + carried, strict=True))
            )
            carried = made[: len(carried)]
            for row, value in zip(rows, made[len(carried) :], strict=False):
                row.append(self._unsqueezed(value, 0))
            if not self._value(node, goes_on, "an end"):
                break
        names.update(_named(node.output, carried))
        collected = body.output[1 + len(carried) :]
        for output, row, info in zip(node.output[len(carried) :], rows, collected, strict=False):
            if not output:
                continue
            if row:
                self.add("Concat", row, output, axis=0)
            else:
                names[output] = self._stored(output, _no_rows(node, info))

    def _unsqueezed(self, name: str, axis: int) -> str:
        output = self._fresh(f"{name}/row")
        if self._opset >= _AXES_ARE_INPUTS:
            return self.add("Unsqueeze", [name, self._stored("axis", np.array([axis]))], output)
        node = helper.make_node("Unsqueeze", [name], [output], name=output, axes=[axis])
        self.nodes.append(node)
        return output

    def _hold(self, name: str, tensors: list[str]) -> None:
        self._spend(_PLACE_BYTES * len(tensors))
        self._sequences[name] = tensors

    def _listed(self, node: _Named) -> list[str]:
        found = self._sequences.get(node.input[0])
        if found is None:
            raise _refused(node, f"takes {node.input[0]!r}, a sequence that is not known")
        return found

    def construct(self, node: _Named, names: Names) -> None:
        """``SequenceConstruct`` and ``SequenceEmpty``."""
        self._hold(node.output[0], list(node.input))

    def insert(self, node: _Named, names: Names) -> None:
        """``SequenceInsert``."""
        held = list(self._listed(node))
        place = self._number(node, 2, "a place")
        held.insert(len(held) if place is None else place, node.input[1])
        self._hold(node.output[0], held)

    def at(self, node: _Named, names: Names) -> None:
        """``SequenceAt``."""
        held, place = self._listed(node), self._number(node, 1, "a place")
        if place is None or not -len(held) <= place < len(held):
            raise _refused(node, f"takes number {place} of {len(held)} tensors")
        names[node.output[0]] = held[place]

    def length(self, node: _Named, names: Names) -> None:
        """``SequenceLength``."""
        names[node.output[0]] = self._stored("length", np.array(len(self._listed(node))))

    def concat(self, node: _Named, names: Names) -> None:
        """``ConcatFromSequence``."""
        held, axis = self._listed(node), _attribute(node, "axis", 0)
        if _attribute(node, "new_axis", 0):
            held = [self._unsqueezed(name, axis) for name in held]
        self.add("Concat", held, node.output[0], axis=axis)

    def split(self, node: _Named, names: Names) -> None:
        """``SplitToSequence`` by known lengths."""
        tensor = self._known.get(node.input[1]) if len(node.input) > 1 else None
        lengths = None if tensor is None else numpy_helper.to_array(tensor)
        if lengths is None or lengths.ndim != 1:
            raise _refused(node, "splits into as many tensors as the input is long")
        outputs = [self._fresh(f"{node.output[0]}/{place}") for place in range(lengths.size)]
        axis = _attribute(node, "axis", 0)
        if self._opset >= _AXES_ARE_INPUTS:
            inputs = [node.input[0], self._stored("lengths", lengths.astype(np.int64))]
            made = helper.make_node("Split", inputs, outputs, name=node.name, axis=axis)
        else:
            made = helper.make_node(
                "Split", node.input[:1], outputs, name=node.name, axis=axis, split=lengths.tolist()
            )
        self.nodes.append(made)
        self._hold(node.output[0], outputs)


_HANDLED: Final = {
    "If": _Walk.branch,
    "Loop": _Walk.loop,
    "SequenceConstruct": _Walk.construct,
    "SequenceEmpty": _Walk.construct,
    "SequenceInsert": _Walk.insert,
    "SequenceAt": _Walk.at,
    "SequenceLength": _Walk.length,
    "ConcatFromSequence": _Walk.concat,
    "SplitToSequence": _Walk.split,
}
