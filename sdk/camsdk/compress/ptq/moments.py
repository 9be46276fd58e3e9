"""Means and second moments of what a layer's weights are multiplied with.

A convolution is a product with the columns of its unfolded input ("im2col"); their moments are what
rounding (``rounding``) and bias correction need, and all that is kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from camsdk.compress.graph.layers import Layer, attributes
from camsdk.compress.ptq.inputs import Inputs
from camsdk.compress.ptq.probing import Floats, probe
from camsdk.errors import UnsupportedModel

_PLACES_PER_COLUMN: Final = 4
_FEWEST_PLACES: Final = 4096
"""Places of feature maps that are unfolded over all inputs together: enough for moments of full
rank with little noise. Neighbours say nearly the same."""


@dataclass
class Moments:
    """Of a layer's unfolded inputs.

    Attributes:
        first: float64 (groups, columns), means over all inputs and places.
        second: float64 (groups, columns, columns), means of x x^T; None if not asked for.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64] | None


@dataclass(frozen=True)
class Window:
    """How a convolution walks over its input; all pairs are (rows, columns)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]


def can_unfold(layer: Layer) -> bool:
    """Whether moments can be had: convolutions over one or two axes and products of matrices."""
    if layer.operator == "Conv":
        return len(layer.shape) in (3, 4)
    return layer.operator in ("Gemm", "MatMul") and len(layer.shape) == 2


def window(node: onnx.NodeProto, shape: tuple[int, ...], size: tuple[int, ...]) -> Window:
    """Of a Conv node.

    Args:
        shape: Of its weights, filters first.
        size: Of its input, (1, channels, rows, columns).
    """
    given = attributes(node)
    axes = len(shape) - 2
    kernel = shape[2:]
    strides = _integers(given, "strides", (1,) * axes)
    dilations = _integers(given, "dilations", (1,) * axes)
    pads = _integers(given, "pads", (0,) * 2 * axes)
    auto = given.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [
            max(0, (-(-s // t) - 1) * t + (k - 1) * d + 1 - s)
            for s, t, k, d in zip(size[-axes:], strides, kernel, dilations, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*small, *large) if auto == b"SAME_UPPER" else (*large, *small)
    if axes == 1:
        return Window((1, kernel[0]), (1, strides[0]), (1, dilations[0]), (0, pads[0], 0, pads[1]))
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]),
    )


def _integers(given: Mapping[str, object], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    values = given.get(name, default)
    assert isinstance(values, list | tuple)
    return tuple(int(value) for value in values)


def _padded(values: Floats, of: Window) -> Floats:
    picture = values[0] if values.ndim == 4 else values[0][:, np.newaxis]
    top, left, bottom, right = of.pads
    return np.pad(picture, ((0, 0), (top, bottom), (left, right)))


def _steps(of: Window, size: tuple[int, ...]) -> tuple[int, int]:
    """How many windows fit into a padded map, along rows and columns."""
    rows, columns = (
        (s - (k - 1) * d - 1) // t + 1
        for s, k, d, t in zip(size, of.kernel, of.dilations, of.strides, strict=True)
    )
    return rows, columns


def _sums(values: Floats, of: Window) -> Floats:
    """The sum over all windows for each place in the kernel: (channels, kernel rows, columns).

    As two products with zeros and ones, without a window being unfolded.
    """
    padded = _padded(values, of)
    chosen = []
    for axis, count in enumerate(_steps(of, padded.shape[1:])):
        matrix = np.zeros((padded.shape[axis + 1], of.kernel[axis]), np.float32)
        for place in range(of.kernel[axis]):
            begin, stride = place * of.dilations[axis], of.strides[axis]
            matrix[begin : begin + count * stride : stride, place] = 1
        chosen.append(matrix)
    return np.asarray(chosen[0].T @ (padded @ chosen[1]))


def unfold(values: Floats, of: Window) -> Floats:
    """A view of every window: (channels, out rows, out columns, kernel rows, kernel columns).

    Args:
        values: (1, channels, rows, columns) or (1, channels, columns).
    """
    padded = _padded(values, of)
    out = _steps(of, padded.shape[1:])
    plane, row, column = padded.strides
    strides = (
        plane,
        row * of.strides[0],
        column * of.strides[1],
        row * of.dilations[0],
        column * of.dilations[1],
    )
    return as_strided(padded, (padded.shape[0], *out, *of.kernel), strides, writeable=False)


class _Gatherer:
    """Sums of one layer."""

    def __init__(
        self, layer: Layer, node: onnx.NodeProto, inputs: int, *, with_second: bool
    ) -> None:
        self._layer, self._node = layer, node
        groups = layer.groups
        columns = int(np.prod(layer.shape[1:]))
        self._first = np.zeros((groups, columns))
        self._second = np.zeros((groups, columns, columns)) if with_second else None
        self._count = self._sampled = 0
        self._places = -(-max(_FEWEST_PLACES, _PLACES_PER_COLUMN * columns) // inputs)

    def add(self, values: Floats, rng: np.random.Generator) -> None:
        if self._layer.operator == "Conv":
            self._add_windows(values, rng)
            return
        rows = values.reshape(-1, values.shape[-1])
        self._first += rows.sum(axis=0, dtype=np.float64)
        self._count += len(rows)
        self._add_sampled(rows[np.newaxis], rng)

    def _add_windows(self, values: Floats, rng: np.random.Generator) -> None:
        of = window(self._node, self._layer.shape, values.shape)
        windows = unfold(values, of)
        channels, rows, columns, *_ = windows.shape
        groups = self._layer.groups
        self._first += _sums(values, of).reshape(groups, -1)
        self._count += rows * columns
        if self._second is None:
            return
        places = rng.permutation(rows * columns)[: self._places]
        taken = windows[:, places // columns, places % columns]  # (channels, places, kernel)
        taken = taken.reshape(groups, channels // groups, len(places), -1)
        self._add_sampled(taken.transpose(0, 2, 1, 3).reshape(groups, len(places), -1), rng)

    def _add_sampled(self, rows: Floats, rng: np.random.Generator) -> None:
        """(groups, places, columns)."""
        if self._second is None:
            return
        if rows.shape[1] > self._places:
            rows = rows[:, rng.permutation(rows.shape[1])[: self._places]]
        self._second += rows.transpose(0, 2, 1) @ rows
        self._sampled += rows.shape[1]

    def result(self) -> Moments:
        second = None if self._second is None else self._second / max(1, self._sampled)
        return Moments(self._first / max(1, self._count), second)


def gather(
    model: onnx.ModelProto,
    layers: Iterable[Layer],
    inputs: Inputs,
    *,
    seed: int,
    with_second: bool,
) -> Mapping[str, Moments]:
    """Moments of layers' inputs, by layer name, in one pass over ``inputs``.

    Args:
        layers: Of ``model``; each must be one that ``can_unfold``.
        seed: Of the places that are sampled for the second moments.

    Raises:
        UnsupportedModel: A layer cannot be unfolded.
        InvalidInput, RuntimeFailure: As ``probing.probe``.
    """
    nodes = {node.name: node for node in model.graph.node}
    gatherers = {}
    for layer in layers:
        if not can_unfold(layer):
            raise UnsupportedModel(f"{layer.operator} layer {layer.name} cannot be unfolded")
        gatherers[layer.name] = (
            layer,
            _Gatherer(layer, nodes[layer.name], len(inputs), with_second=with_second),
        )
    rng = np.random.default_rng(seed)
    for found in probe(model, [layer.input for layer, _ in gatherers.values()], inputs):
        for layer, gatherer in gatherers.values():
            gatherer.add(found[layer.input], rng)
    return {name: gatherer.result() for name, (_, gatherer) in gatherers.items()}
