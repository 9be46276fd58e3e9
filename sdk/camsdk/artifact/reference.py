"""The reference interpreter: the integers that every runtime must give for a quantized model.

Runs an ONNX model in QDQ form with numpy alone, slowly and by the definition. An operator between
DequantizeLinear and QuantizeLinear is one *unit* and is computed on the codes
(``camsdk.artifact.reference_integers``), with what stands between it and its QuantizeLinear, a Relu
or a Clip, as a clip of the codes. All else is float32 (``camsdk.artifact.reference_operators``).

What is promised against onnxruntime on a CPU, and held by ``tests/contract/test_runtimes.py``, is
stated there by operator: bit for bit, or at most one step of the result's scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.onnx_read import Graph, Node, read_graph
from camsdk.artifact.reference_integers import KERNELS, MOVES, Codes, Grid, quantize
from camsdk.artifact.reference_operators import OPERATORS, clip_bounds
from camsdk.errors import InvalidInput, UnsupportedModel

Array = NDArray[Any]

_BOUNDING: Final = ("Relu", "Clip")


@dataclass(frozen=True)
class _Unit:
    """An operator from codes to codes, named by the QuantizeLinear that ends it.

    Attributes:
        node: The operator.
        bounds: Relu and Clip nodes between it and the QuantizeLinear.
    """

    node: Node
    bounds: tuple[Node, ...]


class Reference:
    """One model, ready to run.

    Args:
        model: A serialized ONNX model that ``onnx_check`` has passed.
        outputs: Names of the tensors to give, by default the graph's outputs. A tensor inside a
            unit has no value of its own and cannot be asked for.

    Raises:
        DataCorrupted: Not an ONNX model.
        UnsupportedModel: An operator is not computed here.
        InvalidInput: No such tensor, or it lies inside a unit.
    """

    def __init__(self, model: bytes, outputs: Sequence[str] | None = None) -> None:
        self._graph = read_graph(model)
        self._outputs = tuple(outputs if outputs is not None else self._graph.outputs)
        known = {*OPERATORS, "QuantizeLinear", "DequantizeLinear"}
        for node in self._graph.nodes:
            if node.operator not in known:
                raise UnsupportedModel(f"the reference interpreter does not know {node.operator}")
        self._units = _find_units(self._graph)
        self._inner = _inner_tensors(self._graph, self._units)
        made = {name for node in self._graph.nodes for name in node.outputs}
        for name in self._outputs:
            if name not in made or name in self._inner:
                raise InvalidInput(f"{name} is no tensor that could be given")

    @property
    def quantized_tensors(self) -> tuple[str, ...]:
        """Names of all code tensors that are computed, in the order of the file."""
        nodes = (node for node in self._graph.nodes if node.operator == "QuantizeLinear")
        return tuple(node.outputs[0] for node in nodes if node.outputs[0] not in self._inner)

    @property
    def unit_operators(self) -> Mapping[str, str]:
        """By code tensor, the operator that computes it from codes; without those from float."""
        return {name: unit.node.operator for name, unit in self._units.items()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Args:
            inputs: By name, as the graph takes them.

        Raises:
            InvalidInput: An input is missing.
        """
        missing = set(self._graph.inputs) - set(inputs)
        if missing:
            raise InvalidInput(f"the input {', '.join(sorted(missing))} is missing")
        values: dict[str, Any] = {**self._graph.constants, **inputs}
        codes: dict[str, Codes] = {}
        for node in self._graph.nodes:
            if any(name in self._inner for name in node.outputs):
                continue
            results = self._compute(node, values, codes)
            values.update(zip(node.outputs, results, strict=False))
        return {name: values[name] for name in self._outputs}

    def _compute(
        self, node: Node, values: Mapping[str, Any], codes: dict[str, Codes]
    ) -> tuple[Array, ...]:
        if node.operator == "DequantizeLinear":
            content = np.asarray(values[node.inputs[0]])
            coded = Codes(content, _grid(node, values, content.dtype))
            codes[node.outputs[0]] = coded
            return (coded.real(),)
        if node.operator == "QuantizeLinear":
            grid = _grid(node, values, np.dtype(np.uint8))
            unit = self._units.get(node.outputs[0])
            if unit is not None:
                return (_run_unit(unit, values, codes, grid),)
            return (quantize(values[node.inputs[0]], grid),)
        inputs = [values[name] if name else None for name in node.inputs]
        result = OPERATORS[node.operator](node, inputs)
        return result if isinstance(result, tuple) else (result,)


def _run_unit(
    unit: _Unit, values: Mapping[str, Any], codes: Mapping[str, Codes], grid: Grid
) -> Array:
    node = unit.node
    inputs: list[Any] = [codes.get(name, values.get(name)) for name in node.inputs]
    if node.operator in MOVES:
        if inputs[0].grid.same_as(grid):
            plain = [inputs[0].values, *inputs[1:]]
        else:
            plain = [inputs[0].real(), *inputs[1:]]
        moved = OPERATORS[node.operator](node, plain)
        result = moved if inputs[0].grid.same_as(grid) else quantize(moved, grid)
    else:
        result = KERNELS[node.operator](node, inputs, grid)
    for bound in unit.bounds:
        low, high = 0.0, np.inf
        if bound.operator == "Clip":
            low, high = clip_bounds(bound, [None, *(values.get(n) for n in bound.inputs[1:])])
        edges = quantize(np.array([low, high], np.float32), grid)
        result = np.clip(result, edges[0], edges[1])
    return result


def _grid(node: Node, values: Mapping[str, Any], dtype: np.dtype[Any]) -> Grid:
    """Of a QuantizeLinear or DequantizeLinear; ``dtype`` is for those without zero point."""
    scale = np.asarray(values[node.inputs[1]], np.float32)
    has_zero = len(node.inputs) > 2 and node.inputs[2] != ""
    zero = values[node.inputs[2]] if has_zero else np.zeros(scale.shape, dtype)
    axis = node.attributes.get("axis", 1)
    return Grid(scale, np.asarray(zero), axis if isinstance(axis, int) else 1)


def _find_units(graph: Graph) -> dict[str, _Unit]:
    """Units by the code tensor that they give."""
    maker = {name: node for node in graph.nodes for name in node.outputs}
    users: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            users[name] = users.get(name, 0) + 1
    for name in graph.outputs:
        users[name] = users.get(name, 0) + 1
    units = {}
    for node in graph.nodes:
        if node.operator != "QuantizeLinear":
            continue
        bounds: list[Node] = []
        inner = maker.get(node.inputs[0])
        while inner is not None and inner.operator in _BOUNDING and _is_private(inner, users):
            bounds.append(inner)
            inner = maker.get(inner.inputs[0])
        if inner is not None and _is_private(inner, users) and _is_coded(inner, maker):
            units[node.outputs[0]] = _Unit(inner, tuple(reversed(bounds)))
    return units


def _is_private(node: Node, users: Mapping[str, int]) -> bool:
    return len(node.outputs) == 1 and users[node.outputs[0]] == 1


def _is_coded(node: Node, maker: Mapping[str, Node]) -> bool:
    """Whether the operator has a kernel and all that it quantizes comes as codes."""
    if node.operator in MOVES:
        coded = node.inputs[:1]
    elif node.operator in KERNELS:
        coded = node.inputs
    else:
        return False
    makers = [maker.get(name) for name in coded if name]
    return all(found is not None and found.operator == "DequantizeLinear" for found in makers)


def _inner_tensors(graph: Graph, units: Mapping[str, _Unit]) -> frozenset[str]:
    """Tensors that exist inside of units only."""
    inner = {
        name
        for unit in units.values()
        for node in (unit.node, *unit.bounds)
        for name in node.outputs
    }
    return frozenset(inner - set(graph.outputs))
