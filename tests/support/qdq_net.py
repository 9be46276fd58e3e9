"""Small random networks in QDQ form, built operator by operator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


class QdqNet:
    """Grows a graph from the input ``x``; methods give the name of a float tensor.

    Args:
        shape: Of ``x``, float32.
        seed: Of all grids and weights.
        dtype: Of activation codes.
        is_tied: Scales are powers of two, so that values lie half way between codes often.
    """

    def __init__(
        self, shape: Sequence[int], seed: int, *, dtype: type = np.uint8, is_tied: bool = False
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape, self._dtype, self._is_tied = tuple(shape), dtype, is_tied
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._grids: dict[str, tuple[str, str]] = {}
        self._scales: dict[str, np.float32] = {}

    def constant(self, value: Any, name: str = "") -> str:
        """An initializer."""
        name = name or f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """One operator."""
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def quantized(
        self,
        tensor: str,
        *,
        like: str = "",
        zero_point: int | None = None,
        scale: float = 0.0,
        bit_width: int = 8,
    ) -> str:
        """Through QuantizeLinear and back.

        Args:
            like: Takes the grid of this tensor, which ``quantized`` gave.
            zero_point, scale: By default random.
            bit_width: Below 8, the uint8 codes are clipped to so many bits.
        """
        grid = self._grids[like] if like else self._grid(zero_point, scale)
        codes = self.node("QuantizeLinear", [tensor, *grid])
        if bit_width < 8:
            bounds = (np.array(value, self._dtype) for value in (0, 2**bit_width - 1))
            codes = self.node("Clip", [codes, *(self.constant(bound) for bound in bounds)])
        real = self.node("DequantizeLinear", [codes, *grid])
        self._grids[real], self._scales[real] = grid, self._scales[grid[0]]
        return real

    def weights(self, shape: Sequence[int], *, axis: int = 0, limit: int = 63) -> str:
        """Random int8 codes with a scale for each index of ``axis``."""
        codes = self.rng.integers(-limit, limit + 1, shape).astype(np.int8)
        scales = self._random_scale(shape[axis]) / 4
        inputs = [self.constant(codes), self.constant(scales.astype(np.float32))]
        inputs.append(self.constant(np.zeros(shape[axis], np.int8)))
        real = self.node("DequantizeLinear", inputs, axis=axis)
        self._scales[real] = scales.astype(np.float32)
        return real

    def shifted_weights(self, shape: Sequence[int], *, dtype: type = np.int8) -> str:
        """Random codes of this type with one scale and a zero point that is not 0."""
        limits = np.iinfo(dtype)
        middle = (limits.min + limits.max + 1) // 2
        codes = self.rng.integers(middle - 60, middle + 64, shape).astype(dtype)
        scale = np.float32(self._random_scale() / 4)
        inputs = [self.constant(codes), self.constant(scale)]
        inputs.append(self.constant(np.array(middle + 5, dtype)))
        real = self.node("DequantizeLinear", inputs)
        self._scales[real] = scale
        return real

    def bias(self, tensor: str, weights: str) -> str:
        """Random int32 with the scale that the kernels expect."""
        scale = np.asarray(self._scales[tensor] * self._scales[weights], np.float32)
        codes = self.rng.integers(-2000, 2000, scale.shape).astype(np.int32)
        inputs = [self.constant(codes), self.constant(scale)]
        inputs.append(self.constant(np.zeros(scale.shape, np.int32)))
        return self.node("DequantizeLinear", inputs, axis=0)

    def model(self, output: str) -> onnx.ModelProto:
        """The graph up to this tensor, which is named ``y``."""
        self._nodes.append(helper.make_node("Identity", [output], ["y"]))
        graph = helper.make_graph(
            self._nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def _random_scale(self, size: int | None = None) -> Array:
        if self._is_tied:
            return np.asarray(2.0 ** self.rng.integers(-7, -4, size))
        return np.asarray(self.rng.uniform(0.008, 0.06, size))

    def _grid(self, zero_point: int | None, scale: float) -> tuple[str, str]:
        limits = np.iinfo(self._dtype)
        middle = (limits.min + limits.max) // 2
        if zero_point is None:
            zero_point = middle + int(self.rng.integers(-90, 90))
        value = np.float32(scale or self._random_scale())
        grid = self.constant(value), self.constant(np.array(zero_point, self._dtype))
        self._scales[grid[0]] = value
        return grid


def with_code_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The same model with these code tensors as its only outputs."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    types = {tensor.name: tensor.data_type for tensor in changed.graph.initializer}
    zeros = {node.output[0]: node.input[2] for node in changed.graph.node if len(node.input) > 2}
    for name in names:
        info = helper.make_tensor_value_info(name, types[zeros[name]], None)
        changed.graph.output.append(info)
    return changed
