"""TensorFlow.js graph model to ONNX, with numpy and onnx alone.

``import_graph_model`` walks the graph in topological order and hands each node to the function that
``tfjs_operators`` has for its operator. Constants are folded on the way, padding and biases move
into the convolution that they belong to, and transposes between layouts vanish (``onnx_emitter``).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import onnx

from camsdk.compress.importers.given_shapes import check_names, lacks_shape
from camsdk.compress.importers.onnx_emitter import Emitter, Value, constant
from camsdk.compress.importers.tfjs_operators import OPERATORS
from camsdk.compress.importers.tfjs_reader import TfGraph, TfNode, node_of, output_index, read_graph
from camsdk.compress.importers.tfjs_windows import Context, Operator
from camsdk.errors import InvalidInput, UnsupportedModel

PRODUCER: Final = "camsdk.compress.importers.tfjs"
MAX_LENGTH: Final = 1 << 20
"""Of one dimension of an input."""


def import_graph_model(
    json_path: Path,
    weights: Path | None = None,
    *,
    shards: Mapping[str, Path] | None = None,
    outputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> onnx.ModelProto:
    """Import a TensorFlow.js graph model.

    Args:
        json_path: The model's JSON file.
        weights: Where its weight file lies, if the JSON names a single one.
        shards: Where each weight file named in it lies; by default beside it.
        outputs: Public name to TensorFlow tensor (``node`` or ``node:output``), which may lie
            inside the graph; by default the outputs that the file declares, under their names.
        input_shapes: Static shape of an input, instead of the declared one.

    Returns:
        A model of opset 17 with float32 inputs and outputs in TensorFlow's own layout.

    Raises:
        NotFound: A file is missing.
        DataCorrupted: Truncated or malformed files.
        UnsupportedModel: An operator or one of its options is not supported; names the layer.
        InvalidInput: ``outputs``, ``input_shapes`` or ``weights`` do not fit the graph.
        ResourceExhausted: The weight files are too large.
    """
    graph = read_graph(json_path, weights, shards=shards)
    return convert_graph(graph, outputs=outputs, input_shapes=input_shapes)


def convert_graph(
    graph: TfGraph,
    *,
    outputs: Mapping[str, str] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    operators: Mapping[str, Operator] = OPERATORS,
) -> onnx.ModelProto:
    """Convert a graph that was read, and perhaps changed; as ``import_graph_model``.

    Args:
        operators: What can be converted, by TensorFlow's name.
    """
    chosen = dict(outputs) if outputs else {name: name for name in graph.outputs}
    for name, tensor in chosen.items():
        if node_of(tensor) not in graph.nodes:
            raise InvalidInput(
                f"output {name!r} wants tensor {tensor!r}, which the graph does not have",
                f"the graph declares {', '.join(graph.outputs)}",
            )
    clash = [name for name in chosen if name in graph.nodes and _is_input(graph.nodes[name])]
    if clash:
        raise InvalidInput(f"output {clash[0]!r} is also an input", "name the output otherwise")
    _check_inputs(graph, input_shapes or {})
    emitter = Emitter()
    needed = _needed(graph, chosen.values())
    values = _emit(graph, emitter, needed, input_shapes or {}, operators)
    picked = {name: _pick(values, tensor) for name, tensor in chosen.items()}
    return emitter.model(picked, PRODUCER)


def _check_inputs(graph: TfGraph, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    inputs = [name for name, node in graph.nodes.items() if _is_input(node)]
    check_names(input_shapes, inputs)


def _is_input(node: TfNode) -> bool:
    return node.op == "Placeholder"


def _needed(graph: TfGraph, tensors: Iterable[str]) -> set[str]:
    """Names of all nodes that the tensors depend on."""
    stack = [node_of(tensor) for tensor in tensors]
    needed: set[str] = set()
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(node_of(tensor) for tensor in graph.nodes[name].inputs)
    return needed


def _emit(
    graph: TfGraph,
    emitter: Emitter,
    needed: set[str],
    input_shapes: Mapping[str, tuple[int, ...]],
    operators: Mapping[str, Operator],
) -> dict[str, tuple[Value, ...]]:
    """The outputs of every needed node, by the node's name."""
    context = Context(emitter)
    values: dict[str, tuple[Value, ...]] = {}
    for name, node in graph.nodes.items():
        if name not in needed:
            continue
        if node.op == "Const":
            values[name] = (constant(graph.constants[name]),)
        elif _is_input(node):
            values[name] = (emitter.add_input(name, _input_shape(node, input_shapes)),)
        else:
            inputs = [_pick(values, tensor) for tensor in node.inputs]
            values[name] = _convert(node, inputs, context, operators)
    return values


def _convert(
    node: TfNode, inputs: Sequence[Value], context: Context, operators: Mapping[str, Operator]
) -> tuple[Value, ...]:
    operator = operators.get(node.op)
    if operator is None:
        raise UnsupportedModel(
            f"operator {node.op!r} of layer {node.name!r} cannot be imported",
            f"supported are {', '.join(sorted(operators))}",
        )
    try:
        return operator(node, inputs, context)
    except (ValueError, IndexError, ZeroDivisionError) as error:  # shapes that do not fit
        raise UnsupportedModel(
            f"layer {node.name!r} ({node.op}) does not fit its inputs of shapes "
            f"{[value.shape for value in inputs]}: {error}"
        ) from error


def _pick(values: Mapping[str, tuple[Value, ...]], tensor: str) -> Value:
    outputs = values[node_of(tensor)]
    index = output_index(tensor)
    if index >= len(outputs):
        raise UnsupportedModel(f"tensor {tensor!r}: its layer has {len(outputs)} outputs")
    return outputs[index]


def _input_shape(node: TfNode, input_shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    shape = input_shapes.get(node.name) or node.shape("shape")
    if not shape or not all(1 <= length <= MAX_LENGTH for length in shape):
        raise lacks_shape(node.name, shape)
    return shape
