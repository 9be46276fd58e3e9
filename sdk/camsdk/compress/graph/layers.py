"""The layers of an ONNX model: what has weights, what it costs, where its filters lie.

A layer is a convolution or a product with constant weights. Whatever the operator stores, here its
weights are seen filters first: axis 0 counts output channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

from camsdk.compress.codes import CodedTensor
from camsdk.errors import UnsupportedModel

Array = NDArray[np.generic]

LAYER_OPERATORS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: Of its node.
        operator: One of ``LAYER_OPERATORS``.
        weight, bias: Names of initializers; bias None where it has none.
        shape: Of the weights, filters first.
        filter_axis: Of the weights as they are stored; of a transposed convolution in groups it
            counts the filters of one group only.
        groups: Of a convolution, else 1.
        input, output: Names of tensors.
        macs: Multiply-accumulates for the model's input shape, zero padding counted as work.
    """

    name: str
    operator: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    filter_axis: int
    groups: int
    input: str
    output: str
    macs: int

    def filters_first(self, stored: Array) -> Array:
        """The weights with output channels along axis 0."""
        return _filters_first(stored, self.operator, self.filter_axis, self.groups)

    def as_stored(self, filters_first: Array) -> Array:
        """The other way round."""
        if self.operator == "ConvTranspose" and self.groups > 1:
            split = filters_first.reshape(self.groups, -1, *filters_first.shape[1:])
            filters_first = np.swapaxes(split, 1, 2)
            return np.ascontiguousarray(filters_first.reshape(-1, *filters_first.shape[2:]))
        return np.ascontiguousarray(np.moveaxis(filters_first, 0, self.filter_axis))


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of a model for one input.

    Attributes:
        total: Of all layers.
        nonzero: Those whose weight is not zero.
    """

    total: int
    nonzero: int


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers and Constant nodes as arrays, by the name of the tensor."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Of every tensor whose shape is static and can be inferred."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    found = {name: array.shape for name, array in constants(model).items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def list_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """All layers in the order of the graph.

    Raises:
        UnsupportedModel: A layer's shapes are not static, or a name is missing or used twice.
    """
    weights, known = constants(model), shapes(model)
    layers = []
    for node in model.graph.node:
        if node.op_type in LAYER_OPERATORS and node.input[1] in weights:
            layers.append(_layer(node, weights, known))
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names) or "" in names:
        raise UnsupportedModel(
            "layers have no names, or share one", "run it through graph.optimise first"
        )
    return tuple(layers)


def count_macs(model: onnx.ModelProto, weights: Mapping[str, CodedTensor] | None = None) -> Macs:
    """Of all layers.

    Args:
        weights: Codes by layer name, whose zeros count; of other layers those that the model holds.

    Raises:
        UnsupportedModel: As for ``list_layers``.
    """
    stored, coded = constants(model), weights or {}
    total = nonzero = 0
    for layer in list_layers(model):
        values = coded[layer.name].codes if layer.name in coded else stored[layer.weight]
        total += layer.macs
        # Every weight of a layer is used equally often.
        nonzero += layer.macs // max(1, values.size) * int(np.count_nonzero(values))
    return Macs(total, nonzero)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove initializers that nothing reads."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    # Deleting the field invalidates what was taken from it.
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Of a node, as Python values."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def _layer(
    node: onnx.NodeProto, weights: Mapping[str, Array], known: Mapping[str, tuple[int, ...]]
) -> Layer:
    stored, given = weights[node.input[1]], attributes(node)
    for tensor in (node.input[0], node.output[0]):
        if tensor not in known:
            raise UnsupportedModel(
                f"the shape of tensor {tensor!r} at layer {node.name!r} ({node.op_type}) is open",
                "import the model with a fixed input shape",
            )
    before, after = known[node.input[0]], known[node.output[0]]
    groups = int(given.get("group", 1))  # type: ignore[call-overload] # an int by the standard
    axis = _filter_axis(node.op_type, stored, given)
    if node.op_type == "Conv":
        macs = int(np.prod(after)) * int(np.prod(stored.shape[1:]))
    elif node.op_type == "ConvTranspose":
        macs = int(np.prod(before)) * int(np.prod(stored.shape[1:]))
    else:
        macs = int(np.prod(after)) * stored.shape[1 - axis if stored.ndim == 2 else -2]
    bias = node.input[2] if len(node.input) > 2 and node.input[2] in weights else None
    return Layer(
        node.name,
        node.op_type,
        node.input[1],
        bias,
        _filters_first(stored, node.op_type, axis, groups).shape,
        axis,
        groups,
        node.input[0],
        node.output[0],
        macs,
    )


def _filters_first(stored: Array, operator: str, axis: int, groups: int) -> Array:
    if operator == "ConvTranspose" and groups > 1:
        split = np.swapaxes(stored.reshape(groups, -1, *stored.shape[1:]), 1, 2)
        return split.reshape(-1, *split.shape[2:])
    return np.moveaxis(stored, axis, 0)


def _filter_axis(operator: str, stored: Array, given: Mapping[str, object]) -> int:
    if operator == "Conv":
        return 0
    if operator == "ConvTranspose":
        return 1
    if operator == "Gemm":
        return 0 if given.get("transB") else 1
    return stored.ndim - 1
