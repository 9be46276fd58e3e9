"""Means and second moments of what a layer's weights are multiplied with.

A convolution is a product with the columns of its unfolded input ("im2col"); their moments are what
rounding (``rounding``) and bias correction need, and all that is kept.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Moments:
    """Of a layer's unfolded inputs.

    Attributes:
        first: float64 (groups, columns), means over all inputs and places.
        second: float64 (groups, columns, columns), means of x x^T; None if not asked for.
        cross: Means of z x^T, the same shape, z being what the reference has in place of x; without
            a reference z is x.
        sampled, reference: Means of x and of z over the places that ``second`` and ``cross`` were
            taken from.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64] | None = None
    cross: NDArray[np.float64] | None = None
    sampled: NDArray[np.float64] | None = None
    reference: NDArray[np.float64] | None = None

    @property
    def about_means(self) -> "Moments":
        """With covariances as second moments: what is left to a layer whose bias takes up the mean
        error of its output."""
        if self.second is None or self.cross is None:
            return self
        assert self.sampled is not None
        assert self.reference is not None
        mean = self.sampled[:, np.newaxis, :]
        return replace(
            self,
            second=self.second - self.sampled[:, :, np.newaxis] * mean,
            cross=self.cross - self.reference[:, :, np.newaxis] * mean,
        )


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
        self._layer, self._node, self._with_second = layer, node, with_second
        columns = int(np.prod(layer.shape[1:]))
        self._first = np.zeros((layer.groups, columns))
        if with_second:
            self._second, self._cross = np.zeros((2, layer.groups, columns, columns))
            self._sampled, self._reference = np.zeros((2, layer.groups, columns))
        self._count = self._taken = 0
        self._places = -(-max(_FEWEST_PLACES, _PLACES_PER_COLUMN * columns) // inputs)

    def add(self, values: Floats, reference: Floats, rng: np.random.Generator) -> None:
        """What enters the layer for one input, in its model and in the reference."""
        if self._layer.operator == "Conv":
            sums = _sums(values, window(self._node, self._layer.shape, values.shape))
            self._first += sums.reshape(self._first.shape)
            shape = self._windows(values).shape
            count = shape[1] * shape[2]
        else:
            rows = values.reshape(-1, values.shape[-1])
            self._first += rows.sum(axis=0, dtype=np.float64)
            count = len(rows)
        self._count += count
        if self._with_second:
            places = rng.permutation(count)[: self._places]
            self._add_sampled(self._rows(values, places), self._rows(reference, places))

    def _windows(self, values: Floats) -> Floats:
        return unfold(values, window(self._node, self._layer.shape, values.shape))

    def _rows(self, values: Floats, places: NDArray[np.integer]) -> Floats:
        """Some unfolded inputs: (groups, places, columns)."""
        if self._layer.operator != "Conv":
            return np.asarray(values.reshape(-1, values.shape[-1])[np.newaxis, places])
        windows = self._windows(values)
        channels, _, columns, *_ = windows.shape
        groups = self._layer.groups
        taken = windows[:, places // columns, places % columns]  # (channels, places, kernel)
        taken = taken.reshape(groups, channels // groups, len(places), -1)
        return taken.transpose(0, 2, 1, 3).reshape(groups, len(places), -1)

    def _add_sampled(self, rows: Floats, others: Floats) -> None:
        self._second += rows.transpose(0, 2, 1) @ rows
        self._cross += others.transpose(0, 2, 1) @ rows
        self._sampled += rows.sum(axis=1, dtype=np.float64)
        self._reference += others.sum(axis=1, dtype=np.float64)
        self._taken += rows.shape[1]

    def result(self) -> Moments:
        first = self._first / max(1, self._count)
        if not self._with_second:
            return Moments(first)
        sums = (self._second, self._cross, self._sampled, self._reference)
        return Moments(first, *(total / max(1, self._taken) for total in sums))


def gather(
    model: onnx.ModelProto,
    layers: Iterable[Layer],
    inputs: Inputs,
    *,
    seed: int,
    with_second: bool,
    reference: onnx.ModelProto | None = None,
) -> Mapping[str, Moments]:
    """Moments of layers' inputs, by layer name, in one pass over ``inputs``.

    Args:
        layers: Of ``model``; each must be one that ``can_unfold``.
        seed: Of the places that are sampled for the second moments.
        reference: Another model with the same tensors, for ``Moments.cross``.

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
    tensors = [layer.input for layer, _ in gatherers.values()]
    for found, others in _probe_both(model, reference, tensors, inputs):
        for layer, gatherer in gatherers.values():
            gatherer.add(found[layer.input], others[layer.input], rng)
    return {name: gatherer.result() for name, (_, gatherer) in gatherers.items()}


def _probe_both(
    model: onnx.ModelProto, other: onnx.ModelProto | None, tensors: list[str], inputs: Inputs
) -> Iterator[tuple[Mapping[str, Floats], Mapping[str, Floats]]]:
    """Values in both models; of the first alone if there is no other."""
    if other is None:
        for found in probe(model, tensors, inputs):
            yield found, found
    else:
        yield from zip(probe(model, tensors, inputs), probe(other, tensors, inputs), strict=True)
