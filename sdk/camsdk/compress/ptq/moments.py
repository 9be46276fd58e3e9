"""Means and second moments of what a layer's weights are multiplied with.

A convolution is a product with the columns of its unfolded input ("im2col"); their moments are what
rounding (``rounding``) and bias correction need, and all that is kept.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

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
_ROWS_AT_A_TIME: Final = 1024

_Kind = Literal["first", "second", "cross"]
"""What is summed: means alone; second moments too; those with a reference as well."""


@dataclass(frozen=True)
class Moments:
    """Of a layer's unfolded inputs.

    Attributes:
        first: float64 (groups, columns), means over all inputs and places.
        second: float64 (groups, columns, columns), means of x x^T; None if not asked for.
        cross: Means of z x^T, the same shape, z being what the reference has in place of x; None
            without a reference.
        sampled, reference: Means of x and of z over the places that ``second`` and ``cross`` were
            taken from; None where those are.
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
        if self.second is None or self.sampled is None:
            return self
        mean = self.sampled[:, np.newaxis, :]
        second = self.second - self.sampled[:, :, np.newaxis] * mean
        if self.cross is None or self.reference is None:
            return replace(self, second=second)
        cross = self.cross - self.reference[:, :, np.newaxis] * mean
        return replace(self, second=second, cross=cross)


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
    """(channels, rows, columns), with one row if the convolution has one axis."""
    picture = np.asarray(values[0] if values.ndim == 4 else values[0][:, np.newaxis])
    if not any(of.pads):
        return picture
    top, left, bottom, right = of.pads
    return np.pad(picture, ((0, 0), (top, bottom), (left, right)))


def _steps(of: Window, size: tuple[int, ...]) -> tuple[int, int]:
    """How many windows fit into a padded map, along rows and columns."""
    rows, columns = (
        (s - (k - 1) * d - 1) // t + 1
        for s, k, d, t in zip(size, of.kernel, of.dilations, of.strides, strict=True)
    )
    return rows, columns


def _sums(padded: Floats, of: Window) -> Floats:
    """The sum over all windows for each place in the kernel: (channels, kernel rows, columns).

    As two products with zeros and ones, without a window being unfolded.
    """
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
    return _unfolded(_padded(values, of), of)


def _unfolded(padded: Floats, of: Window) -> Floats:
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

    def __init__(self, layer: Layer, node: onnx.NodeProto, inputs: int, *, kind: _Kind) -> None:
        self._layer, self._node, self._kind = layer, node, kind
        columns = int(np.prod(layer.shape[1:]))
        self._first = np.zeros((layer.groups, columns))
        self._count = 0
        self._places = -(-max(_FEWEST_PLACES, _PLACES_PER_COLUMN * columns) // inputs)
        if kind != "first":
            self._products = _Products(layer.groups, columns, has_other=kind == "cross")

    def add(self, values: Floats, reference: Floats, rng: np.random.Generator) -> None:
        """What enters the layer for one input, in its model and in the reference."""
        of = None
        if self._layer.operator == "Conv":
            of = window(self._node, self._layer.shape, values.shape)
            values = _padded(values, of)
            self._first += _sums(values, of).reshape(self._first.shape)
            count = int(np.prod(_steps(of, values.shape[1:])))
        else:
            values = values.reshape(-1, values.shape[-1])
            self._first += values.sum(axis=0, dtype=np.float64)
            count = len(values)
        self._count += count
        if self._kind != "first":
            places = rng.permutation(count)[: self._places]
            rows = self._rows(values, of, places)
            others = rows
            if self._kind == "cross":
                other = _padded(reference, of) if of else reference.reshape(values.shape)
                others = self._rows(other, of, places)
            self._products.add(rows, others)

    def _rows(self, values: Floats, of: Window | None, places: NDArray[np.integer]) -> Floats:
        """Some unfolded inputs: (groups, places, columns)."""
        if of is None:
            return np.asarray(values[np.newaxis, places])
        windows = _unfolded(values, of)
        channels, _, columns, *_ = windows.shape
        groups = self._layer.groups
        taken = windows[:, places // columns, places % columns]  # (channels, places, kernel)
        taken = taken.reshape(groups, channels // groups, len(places), -1)
        return taken.transpose(0, 2, 1, 3).reshape(groups, len(places), -1)

    def result(self) -> Moments:
        first = self._first / max(1, self._count)
        return Moments(first) if self._kind == "first" else self._products.result(first)


class _Products:
    """Sums of x x^T and z x^T, over many rows at a time: small products are slow."""

    def __init__(self, groups: int, columns: int, *, has_other: bool) -> None:
        self._second = np.zeros((groups, columns, columns))
        self._cross = np.zeros_like(self._second) if has_other else self._second
        self._sampled, self._reference = np.zeros((2, groups, columns))
        self._has_other, self._taken = has_other, 0
        self._most = max(_ROWS_AT_A_TIME, columns)
        self._held: list[tuple[Floats, Floats]] = []

    def add(self, rows: Floats, others: Floats) -> None:
        """Both (groups, rows, columns); the same where there is no reference."""
        self._held.append((rows, others))
        self._taken += rows.shape[1]
        if sum(held.shape[1] for held, _ in self._held) >= self._most:
            self._multiply()

    def _multiply(self) -> None:
        rows = np.concatenate([held for held, _ in self._held], axis=1)
        self._second += rows.transpose(0, 2, 1) @ rows
        self._sampled += rows.sum(axis=1, dtype=np.float64)
        if self._has_other:
            others = np.concatenate([held for _, held in self._held], axis=1)
            self._cross += others.transpose(0, 2, 1) @ rows
            self._reference += others.sum(axis=1, dtype=np.float64)
        self._held = []

    def result(self, first: NDArray[np.float64]) -> Moments:
        if self._held:
            self._multiply()
        taken = max(1, self._taken)
        self._second /= taken
        if not self._has_other:
            return Moments(first, self._second, sampled=self._sampled / taken)
        self._cross /= taken
        sums = self._sampled / taken, self._reference / taken
        return Moments(first, self._second, self._cross, *sums)


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
    kind: _Kind = "first"
    if with_second:
        kind = "second" if reference is None else "cross"
    for layer in layers:
        if not can_unfold(layer):
            raise UnsupportedModel(f"{layer.operator} layer {layer.name} cannot be unfolded")
        gatherers[layer.name] = (
            layer,
            _Gatherer(layer, nodes[layer.name], len(inputs), kind=kind),
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
