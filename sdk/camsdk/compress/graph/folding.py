"""What follows a layer and is affine per channel becomes part of its weights and bias.

y = f (W x + b) + s is (f W) x + (f b + s). BatchNorm in inference is that with f = gamma /
sqrt(variance + epsilon), s = beta - f mean (arXiv:1712.05877, section 3.2); so are Mul, Div, Add
and Sub with a constant per channel. Codes of weights stay what they are, since their sets are
symmetric: f goes into the scale, its sign into the codes.

Names of layers do not change, so that what is known by layer name holds before and after.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.layers import (
    Array,
    Layer,
    attributes,
    constants,
    drop_unused,
    list_layers,
    shapes,
)

Doubles = NDArray[np.float64]

_SMALLEST: Final = 1e-30


@dataclass(frozen=True)
class Folded:
    """A model with less behind its layers.

    Attributes:
        model: A copy.
        weights: The codes that were given, those of folded layers with other scales and signs.
    """

    model: onnx.ModelProto
    weights: Mapping[str, CodedTensor]


@dataclass(frozen=True)
class _Affine:
    """Per channel, float64 (channels,): ``factor * y + shift``; shift None where there is none."""

    factor: Doubles
    shift: Doubles | None


def fold(
    model: onnx.ModelProto,
    weights: Mapping[str, CodedTensor] | None = None,
    *,
    keep_batchnorm: bool = False,
) -> Folded:
    """Fold BatchNorm and constant arithmetic into the Conv, ConvTranspose, Gemm or MatMul before.

    A Gemm's alpha and beta are folded too. A MatMul of a matrix that gets a bias becomes a Gemm.

    Args:
        model: Constants as initializers.
        weights: Codes by layer name; the layer's weights in the result are exactly theirs.
        keep_batchnorm: Leave BatchNorm where it is, for training.

    Raises:
        UnsupportedModel: As for ``list_layers``.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    coded = dict(weights or {})
    known = shapes(result)
    for layer in list_layers(result):
        _Folding(result, layer, known, coded).run(keep_batchnorm=keep_batchnorm)
    drop_unused(result)
    return Folded(result, coded)


class _Folding:
    """Of one layer, in place."""

    def __init__(
        self,
        model: onnx.ModelProto,
        layer: Layer,
        known: Mapping[str, tuple[int, ...]],
        coded: dict[str, CodedTensor],
    ) -> None:
        self._model, self._layer, self._coded = model, layer, coded
        self._node = next(node for node in model.graph.node if node.name == layer.name)
        self._stored = constants(model)
        self._rank = len(known[layer.output])
        self._channel = 1 if layer.operator in ("Conv", "ConvTranspose") else self._rank - 1
        self._can_have_bias = layer.operator != "MatMul" or self._rank == 2

    def run(self, *, keep_batchnorm: bool) -> None:
        if self._layer.bias is None and len(self._node.input) > 2 and self._node.input[2]:
            return  # its bias is computed
        bias = self._bias()
        total = self._own(bias)
        if total is None:
            return
        followers = []
        while (follower := self._follower(keep_batchnorm=keep_batchnorm)) is not None:
            affine = self._affine(follower)
            if affine is None or (affine.shift is not None and not self._can_have_bias):
                break
            total = _composed(total, affine)
            self._node.output[0] = follower.output[0]
            self._model.graph.node.remove(follower)
            followers.append(follower)
        has_factors = self._layer.operator == "Gemm" and _has_factors(self._node)
        if followers or has_factors or self._layer.name in self._coded:
            self._write(total)

    def _bias(self) -> Array | None:
        return None if self._layer.bias is None else self._stored[self._layer.bias]

    def _own(self, bias: Array | None) -> _Affine | None:
        """What the layer itself does to the product of weights and input; None if not affine."""
        count = self._layer.shape[0]
        given = attributes(self._node) if self._layer.operator == "Gemm" else {}
        alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))  # type: ignore[arg-type] # floats by the standard
        shift = None
        if bias is not None:
            per_channel = self._per_channel(bias) if self._layer.operator == "Gemm" else bias
            if per_channel is None:
                return None
            shift = beta * per_channel.astype(np.float64)
        return _Affine(np.full(count, alpha), shift)

    def _follower(self, *, keep_batchnorm: bool) -> onnx.NodeProto | None:
        """The one node that reads the layer's output."""
        tensor = self._node.output[0]
        if any(value.name == tensor for value in self._model.graph.output):
            return None
        readers = [node for node in self._model.graph.node for name in node.input if name == tensor]
        if len(readers) != 1:
            return None
        is_kept = keep_batchnorm and readers[0].op_type == "BatchNormalization"
        return None if is_kept else readers[0]

    def _affine(self, node: onnx.NodeProto) -> _Affine | None:
        if node.op_type == "BatchNormalization":
            return self._batchnorm(node)
        if node.op_type not in ("Mul", "Div", "Add", "Sub"):
            return None
        is_first = node.input[0] == self._node.output[0]
        constant = self._stored.get(node.input[1 if is_first else 0])
        value = None if constant is None else self._per_channel(constant)
        if value is None:
            return None
        ones = np.ones(self._layer.shape[0])
        if node.op_type == "Mul":
            return _Affine(value, None)
        if node.op_type == "Div":
            return _Affine(1 / value, None) if is_first and np.all(value != 0) else None
        if node.op_type == "Add":
            return _Affine(ones, value)
        return _Affine(ones, -value) if is_first else _Affine(-ones, value)

    def _batchnorm(self, node: onnx.NodeProto) -> _Affine | None:
        given = attributes(node)
        is_fixed = all(name in self._stored for name in node.input[1:])
        if given.get("training_mode", 0) or not is_fixed or self._channel != 1:
            return None
        gamma, beta, mean, variance = (
            self._stored[name].astype(np.float64) for name in node.input[1:5]
        )
        epsilon = float(given.get("epsilon", 1e-5))  # type: ignore[arg-type] # a float
        factor = gamma / np.sqrt(variance + epsilon)
        return _Affine(factor, beta - factor * mean)

    def _per_channel(self, value: Array) -> Doubles | None:
        """A constant that is the same wherever a channel is, as (channels,); else None."""
        count = self._layer.shape[0]
        if value.ndim > self._rank or not np.issubdtype(value.dtype, np.floating):
            return None
        shape = (1,) * (self._rank - value.ndim) + value.shape
        others = [size for axis, size in enumerate(shape) if axis != self._channel]
        if any(size != 1 for size in others) or shape[self._channel] not in (1, count):
            return None
        return np.broadcast_to(value.astype(np.float64).reshape(-1), (count,))

    def _write(self, total: _Affine) -> None:
        layer, node = self._layer, self._node
        kind = self._stored[layer.weight].dtype
        if layer.name in self._coded:
            self._coded[layer.name] = scaled(self._coded[layer.name], total.factor)
            values: NDArray[np.floating] = self._coded[layer.name].values
        else:
            filters = layer.filters_first(self._stored[layer.weight]).astype(np.float64)
            values = filters * total.factor.reshape(-1, *(1,) * (filters.ndim - 1))
        node.input[1] = self._store(layer.weight, layer.as_stored(values.astype(kind)))
        if total.shift is not None:
            bias = self._store(layer.bias or f"{layer.name}.bias", total.shift.astype(kind))
            node.input[:] = [*node.input[:2], bias]
            if node.op_type == "MatMul":
                node.op_type = "Gemm"
        kept = [item for item in node.attribute if item.name not in ("alpha", "beta")]
        if node.op_type == "Gemm" and len(kept) < len(node.attribute):
            copies = [onnx.AttributeProto.FromString(item.SerializeToString()) for item in kept]
            del node.attribute[:]
            node.attribute.extend(copies)

    def _store(self, name: str, value: Array) -> str:
        """Replace an initializer, or add one if other nodes read it."""
        uses = sum(given == name for node in self._model.graph.node for given in node.input)
        taken = self._stored.keys() | {
            tensor for node in self._model.graph.node for tensor in node.output
        }
        for tensor in self._model.graph.initializer:
            if tensor.name == name and uses == 1:
                tensor.CopyFrom(numpy_helper.from_array(value, name))
                return name
        own = name
        while own in taken:
            own += ".folded"
        self._model.graph.initializer.append(numpy_helper.from_array(value, own))
        return own


def _has_factors(gemm: onnx.NodeProto) -> bool:
    given = attributes(gemm)
    return any(given.get(name, 1.0) != 1.0 for name in ("alpha", "beta"))


def _composed(first: _Affine, second: _Affine) -> _Affine:
    shift = second.shift
    if first.shift is not None:
        shift = first.shift * second.factor + (0.0 if shift is None else shift)
    return _Affine(first.factor * second.factor, shift)


def scaled(coded: CodedTensor, factor: Doubles) -> CodedTensor:
    """Codes and scales of weights whose filters are multiplied by factors of any sign.

    Args:
        factor: float64 (filters,). Codes keep their size; where it is 0 they are 0.
    """
    if coded.scale.ndim == 0 and np.all(factor == factor[0]):
        whole = np.array(coded.scale * factor[0], np.float32)
        if whole >= _SMALLEST:
            return CodedTensor(coded.codes, whole, coded.code_set)
    scale = (coded.scale * np.abs(factor)).astype(np.float32)
    # A factor so small that the scale is no normal number is as good as 0.
    signs = np.where(scale < _SMALLEST, 0, np.sign(factor)).astype(np.int8)
    codes = coded.codes * signs.reshape(-1, *(1,) * (coded.codes.ndim - 1))
    return CodedTensor(codes, np.where(signs == 0, np.float32(1), scale), coded.code_set)
