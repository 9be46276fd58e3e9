"""Ranges of activations from what a model computes for calibration inputs.

Nothing is stored but extremes and a histogram per tensor, so memory does not grow with the inputs.
Which rule is best differs from model to model: with extremes MobileNetV2 on small pictures came out
nearer to itself in float, with least squared errors a detector did. So both are tried.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from camsdk.compress.graph.layers import Layer
from camsdk.compress.graph.qdq import ActivationRange
from camsdk.compress.options import ActivationOptions, QuantizeOptions, RangeRule
from camsdk.compress.ptq.probing import Floats, probe
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput

Ranges = Mapping[str, ActivationRange]

_BINS: Final = 4096
_SAMPLES: Final = 1 << 15
"""Values of a tensor that enter its histogram per input."""
_LEAST_REACH: Final = 1e-30
"""Bins of less cannot be told apart in float32."""
_PERCENTILE: Final = 99.995
_UNSEEN: Final = 3.0
"""How much further than made-up inputs showed the range of what is one value a channel goes."""
_BOUNDED: Final = ("Clip", "HardSigmoid", "Sigmoid", "Softmax", "Tanh")
"""Operators whose outputs have bounds of their own."""
_TRIED: Final[tuple[RangeRule, ...]] = ("extreme", "mse")
"""What "best" is the best of; of two that do as well, the first."""
_SHRUNK: Final = np.linspace(0.2, 1.0, 81)
"""Shares of the extremes that are tried as bounds for the least squared error."""


class Observer:
    """What was seen of one tensor.

    The histogram spans [-reach, reach) in ``_BINS`` bins; when a value lies beyond, ``reach``
    doubles and neighbouring bins become one, so counts stay exact.
    """

    def __init__(self) -> None:
        self.count = self.places = 0
        self.lowest, self.highest = np.inf, -np.inf
        self.sum_of_lows = self.sum_of_highs = 0.0
        self._reach = 0.0
        self._bins = np.zeros(_BINS, np.int64)

    def add(self, values: Floats) -> None:
        """Take one tensor, of any shape, finite and not empty."""
        low, high = float(values.min()), float(values.max())
        self.count += 1
        self.places += int(np.prod(values.shape[2:]))
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        self.sum_of_lows += low
        self.sum_of_highs += high
        self._widen(max(-low, high))
        stride = max(1, values.size // _SAMPLES)
        sampled = values.ravel()[self.count % stride :: stride]  # in the end of every place
        if self._reach:
            self._bins += np.histogram(sampled, _BINS, (-self._reach, self._reach))[0]

    def _widen(self, largest: float) -> None:
        if not self._reach and largest:
            self._reach = max(largest, _LEAST_REACH)
        while self._reach < largest:
            halved = self._bins.reshape(-1, 2).sum(axis=1)
            self._bins = np.zeros(_BINS, np.int64)
            self._bins[_BINS // 4 : _BINS // 4 * 3] = halved
            self._reach *= 2

    @property
    def is_flat(self) -> bool:
        """Whether there is one value a channel: features of a whole picture, scores."""
        return self.places == self.count

    def range(self, options: ActivationOptions) -> ActivationRange:
        """By the rule that the options name; always holds 0.

        Raises:
            InvalidInput: Nothing was seen.
        """
        if not self.count:
            raise InvalidInput("a tensor has not been seen, so it has no range")
        if options.range_rule == "mean":
            low, high = self.sum_of_lows / self.count, self.sum_of_highs / self.count
        elif options.range_rule == "percentile":
            low, high = self._percentile()
        elif options.range_rule == "mse":
            low, high = self._least_squares(2**options.bit_width - 1)
        else:
            low, high = self.lowest, self.highest
        return ActivationRange(min(0.0, float(low)), max(0.0, float(high)), options.bit_width)

    @property
    def _centres(self) -> NDArray[np.float64]:
        return (np.arange(_BINS) + 0.5) / _BINS * 2 * self._reach - self._reach

    def _percentile(self) -> tuple[float, float]:
        total = np.cumsum(self._bins)
        if not total[-1]:
            return self.lowest, self.highest
        shares = total / total[-1] * 100
        low, high = np.searchsorted(shares, [100 - _PERCENTILE, _PERCENTILE])
        centres = self._centres
        return (
            max(self.lowest, float(centres[low])),
            min(self.highest, float(centres[min(high, _BINS - 1)])),
        )

    def _least_squares(self, steps: int) -> tuple[float, float]:
        """Bounds of least squared error of rounding and clipping, one bound after the other."""
        seen = self._bins > 0
        values, weights = self._centres[seen], self._bins[seen]
        low, high = min(0.0, self.lowest), max(0.0, self.highest)
        if not len(values) or high == low:
            return low, high
        highest, lowest = high, low
        for _ in range(2):
            high = min(
                (highest * s for s in _SHRUNK), key=lambda b: _error(values, weights, low, b, steps)
            )
            low = min(
                (lowest * s for s in _SHRUNK), key=lambda b: _error(values, weights, b, high, steps)
            )
        return low, high


def _error(
    values: NDArray[np.float64], weights: NDArray[np.int64], low: float, high: float, steps: int
) -> float:
    step = (high - low) / steps or 1.0
    zero = np.rint(-low / step)
    rounded = (np.clip(np.rint(values / step) + zero, 0, steps) - zero) * step
    return float(np.sum(weights * (values - rounded) ** 2))


def activation_options(
    tensors: Iterable[str], layers: Iterable[Layer], options: QuantizeOptions
) -> dict[str, ActivationOptions]:
    """By tensor: what the layers that read it want, else 8 bits; float layers' inputs are left out.

    Sums and outputs that enter no layer stay at 8 bits: nothing multiplies them.
    """
    wanted: dict[str, ActivationOptions] = {}
    left_out = set()
    for layer in layers:
        of = options.of(layer.name).activations
        if of is None:
            left_out.add(layer.input)
        elif layer.input not in wanted or wanted[layer.input].bit_width < of.bit_width:
            wanted[layer.input] = of
    other = ActivationOptions(8, options.activations.range_rule)
    return {name: wanted.get(name, other) for name in tensors if name not in left_out}


def for_synthetic(options: ActivationOptions) -> ActivationOptions:
    """One made-up input says little about extremes, so only all of them together count."""
    if options.range_rule in ("mean", "best"):
        return replace(options, range_rule="extreme")
    return options


def observe(
    model: onnx.ModelProto, tensors: Iterable[str], inputs: Iterable[Floats]
) -> Mapping[str, Observer]:
    """Run a model on all inputs and watch tensors inside it. Raises as ``probing.probe``."""
    observers: dict[str, Observer] = {name: Observer() for name in tensors}
    for found in probe(model, observers, inputs):
        for name, values in found.items():
            observers[name].add(values)
    return observers


def find_ranges(
    observers: Mapping[str, Observer],
    wanted: Mapping[str, ActivationOptions],
    error: Callable[[Ranges], float],
) -> tuple[Ranges, RangeRule | None]:
    """By tensor, as the options say.

    Args:
        error: How far the model's outputs are off with given ranges. Asked only where a rule is
            "best".

    Returns:
        The ranges, and the rule that "best" came to; None where nothing was to be the best.
    """
    if all(of.range_rule != "best" for of in wanted.values()):
        return {name: observers[name].range(of) for name, of in wanted.items()}, None
    tried: dict[RangeRule, Ranges] = {}
    for rule in _TRIED:
        ruled = {
            name: replace(of, range_rule=rule) if of.range_rule == "best" else of
            for name, of in wanted.items()
        }
        tried[rule] = {name: observers[name].range(of) for name, of in ruled.items()}
    best = min(tried, key=lambda rule: error(tried[rule]))
    return tried[best], best


def widened(
    ranges: Ranges, observers: Mapping[str, Observer], model: onnx.ModelProto
) -> dict[str, ActivationRange]:
    """Ranges with room for what made-up inputs do not show.

    They have the borders and the spectrum of photographs, and nothing in them is a thing. What is
    one value a channel tells of whole pictures: on photographs the pooled features and the scores
    of EfficientNet-Lite0 went twice as far, and clipped scores are wrong answers.

    Args:
        model: In which the tensors are.
    """
    bounded = {
        name for node in model.graph.node if node.op_type in _BOUNDED for name in node.output
    }
    return {
        name: replace(of, low=of.low * _UNSEEN, high=of.high * _UNSEEN)
        if observers[name].is_flat and name not in bounded
        else of
        for name, of in ranges.items()
    }


def output_error(
    model: onnx.ModelProto, expected: Sequence[Mapping[str, Floats]], inputs: Iterable[Floats]
) -> float:
    """Mean over the outputs of the squared error over the square of what was expected.

    Args:
        expected: For each input the outputs by name, float32.
    """
    session = Session(model.SerializeToString())
    errors = dict.fromkeys(expected[0], 0.0)
    squares = dict.fromkeys(expected[0], 1e-30)
    for given, wanted in zip(inputs, expected, strict=True):
        found = session.infer(given)
        for name, values in wanted.items():
            difference = found[name].astype(np.float64) - values
            errors[name] += float(np.square(difference).sum())
            squares[name] += float(np.square(values, dtype=np.float64).sum())
    return float(np.mean([errors[name] / squares[name] for name in errors]))
