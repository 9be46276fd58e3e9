"""MXNet networks become ONNX, without MXNet.

Variables of the symbol that the parameters do not hold are inputs, as far as something reads them:
labels, which only training needs, are left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import onnx

from camsdk.compress.importers.given_shapes import check_names, lacks_shape
from camsdk.compress.importers.mxnet_call import Call
from camsdk.compress.importers.mxnet_operators import OPERATORS
from camsdk.compress.importers.mxnet_reader import Node, Symbol, read_params, read_symbol
from camsdk.compress.importers.onnx_emitter import Array, Emitter, Value, plain_value
from camsdk.compress.importers.runnable import runnable
from camsdk.errors import InvalidInput, UnsupportedModel

PRODUCER: Final = "camsdk.compress.importers.mxnet"
MAX_LENGTH: Final = 1 << 20

_WITH_WEIGHTS: Final = frozenset(
    {"Convolution", "Deconvolution", "FullyConnected", "BatchNorm", "InstanceNorm", "LeakyReLU"}
)
"""Operators of which all inputs but the first are parameters."""


def import_mxnet(
    symbol_json: Path,
    params: Path,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> onnx.ModelProto:
    """Import an MXNet network.

    Args:
        symbol_json: The symbol (``name-symbol.json``).
        params: The parameters (``name-0000.params``).
        input_shapes: Shape of every input, such as ``{"data": (1, 3, 224, 224)}``.

    Returns:
        A float32 model of opset 17; layers have MXNet's names, outputs ``name_output``.

    Raises:
        NotFound: A file is missing.
        DataCorrupted: A file is truncated or malformed.
        UnsupportedModel: An operator or an option of it cannot be imported; names the layer.
        InvalidInput: ``input_shapes`` lacks an input, or names none.
        ResourceExhausted: A file is too large.
    """
    return _Conversion(read_symbol(symbol_json), read_params(params), input_shapes or {}).model()


class _Conversion:
    """The tensors that were made so far, by node."""

    def __init__(
        self,
        symbol: Symbol,
        weights: Mapping[str, Array],
        input_shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._symbol, self._weights, self._shapes = symbol, weights, input_shapes
        self._emitter = Emitter()
        self._values: dict[int, tuple[Value, ...]] = {}
        self._expected = {
            symbol.nodes[index].name: node.name
            for node in symbol.nodes
            if node.op in _WITH_WEIGHTS
            for index, _ in node.inputs[1:]
        }
        variables = {node.name for node in symbol.nodes if node.op == "null"} - set(weights)
        check_names(input_shapes, variables)

    def model(self) -> onnx.ModelProto:
        needed = self._needed()
        for index in sorted(needed):
            node = self._symbol.nodes[index]
            if node.op == "null":
                self._values[index] = (self._variable(node),)
            else:
                self._values[index] = self._emit(node)
        outputs = {}
        for index, output in self._symbol.heads:
            name = self._symbol.nodes[index].name
            title = f"{name}_output{output}" if output else f"{name}_output"
            outputs[title] = self._pick(index, output)
        return runnable(self._emitter.model(outputs, PRODUCER))

    def _needed(self) -> set[int]:
        stack = [index for index, _ in self._symbol.heads]
        needed: set[int] = set()
        while stack:
            index = stack.pop()
            if index not in needed:
                needed.add(index)
                node = self._symbol.nodes[index]
                # A loss only reads its label while it trains.
                is_loss = node.op.endswith("Output") and len(node.inputs) == 2
                stack += [item[0] for item in (node.inputs[:1] if is_loss else node.inputs)]
        return needed

    def _variable(self, node: Node) -> Value:
        weight = self._weights.get(node.name)
        if weight is not None:
            # Stored when an operator asks for it: some take another form of it.
            return Value("", tuple(range(weight.ndim)), weight.shape, weight)
        if node.name in self._expected and node.name not in self._shapes:
            raise InvalidInput(
                f"the parameters lack {node.name!r}, which layer {self._expected[node.name]!r} "
                "needs",
                "give the .params file that belongs to this symbol",
            )
        shape = self._shapes.get(node.name) or node.integers("__shape__")
        if not shape or len(shape) > 8 or not all(1 <= length <= MAX_LENGTH for length in shape):
            raise lacks_shape(node.name, shape)
        name = self._emitter.add_input(node.name, tuple(shape)).name
        return plain_value(name, tuple(shape))

    def _pick(self, index: int, output: int) -> Value:
        values = self._values[index]
        if output >= len(values):
            name = self._symbol.nodes[index].name
            raise UnsupportedModel(f"output {output} of layer {name!r} cannot be imported")
        return values[output]

    def _emit(self, node: Node) -> tuple[Value, ...]:
        operator = OPERATORS.get(node.op)
        if operator is None:
            raise UnsupportedModel(
                f"operator {node.op!r} of layer {node.name!r} cannot be imported",
                f"supported are {', '.join(sorted(OPERATORS))}",
            )
        is_loss = node.op.endswith("Output")
        inputs = tuple(self._pick(*item) for item in (node.inputs[:1] if is_loss else node.inputs))
        try:
            return operator(Call(node, inputs, self._emitter))
        except (ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
            raise UnsupportedModel(
                f"layer {node.name!r} ({node.op}) does not fit its inputs of shapes "
                f"{[value.shape for value in inputs]}: {error}"
            ) from error
