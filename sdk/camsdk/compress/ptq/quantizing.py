"""Quantization after training, from a float model to codes and ranges.

With inputs, they are what everything is measured on. Without, inputs are made up
(``synthetic``), and where the model has BatchNorm, its layers are measured as if these inputs had
the statistics of the training data (``folding.as_if_trained``).

In order: BatchNorm is folded, layers with one scale a tensor are equalized, weights are rounded
layer by layer (a few at a time, each on inputs that have passed the layers rounded already and, if
they are real or have the statistics of real ones, towards what the float model made of its own),
each layer's bias takes up the mean error of its output, and ranges of activations are observed
last, on the rounded weights. The first and the last layers keep 7 bits (``edges``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from camsdk.compress.codes import CodedTensor, project
from camsdk.compress.graph.layers import Layer, list_layers
from camsdk.compress.graph.qdq import ActivationRange, emit_qdq
from camsdk.compress.options import PruneOptions, QuantizeOptions, RangeRule, WeightOptions
from camsdk.compress.ptq.coding import first_scale, round_to_output
from camsdk.compress.ptq.edges import EDGE_BITS, with_precise_edges
from camsdk.compress.ptq.equalize import apply, equalize, find_pairs, unbind
from camsdk.compress.ptq.folding import (
    Prepared,
    as_if_trained,
    doubles,
    prepare,
    weights_of,
    write,
)
from camsdk.compress.ptq.inputs import Inputs
from camsdk.compress.ptq.moments import Moments, can_unfold, gather
from camsdk.compress.ptq.probing import Floats, float_tensors, input_shape, probe
from camsdk.compress.ptq.quantized import LayerReport, Ptq, PtqReport
from camsdk.compress.ptq.ranges import (
    activation_options,
    find_ranges,
    for_synthetic,
    observe,
    output_error,
    widened,
)
from camsdk.compress.ptq.rounding import towards, weighted_error
from camsdk.compress.ptq.sparse import find_sparsities, prune_and_round
from camsdk.compress.ptq.synthetic import Synthesis, synthesise
from camsdk.errors import InvalidInput

OnProgress = Callable[[int, int], None]

DEFAULTS: Final = Synthesis()

_STAGES: Final = 12
_STAGES_OF_FINE: Final = 4
"""Where all weights have 7 bits or more, so that layers leave each other little to make up for."""
_ROUNDING_INPUTS: Final = 64
"""Inputs that moments are taken from; ranges are taken from all."""
_JUDGED: Final = 16
"""Inputs that ranges of different rules are compared on."""
_STAGE_BYTES: Final = 300 * 1024**2
"""Of second moments that are held at a time."""


def quantize_after_training(
    model: onnx.ModelProto,
    options: QuantizeOptions,
    calibration: Iterable[NDArray[np.generic]] | None = None,
    *,
    prune: PruneOptions | None = None,
    layer_sparsity: Mapping[str, float] | None = None,
    synthesis: Synthesis = DEFAULTS,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Ptq:
    """Quantize a float model, and prune it if asked to (``sparse``).

    Args:
        model: ONNX with one input of a fixed shape and named nodes, BatchNorm folded or not.
        calibration: Preprocessed inputs, each of the input's shape with or without the batch axis;
            taken once, one by one. None makes inputs up, and the range rule "mean" becomes
            "extreme".
        prune: Sparsity and granularity; what concerns a training is not looked at.
        layer_sparsity: By layer name, in place of the one for all; the others stay dense.
        synthesis: How, then: the mean and std of the manifest.
        seed: Of everything random.
        on_progress: Called with steps done and steps in all.

    Raises:
        InvalidInput: No input, or one that is not finite or has another shape; a layer that
            ``options`` names does not exist.
        UnsupportedModel: More than one input, open shapes, nameless layers.
        ResourceExhausted: Too many inputs.
        RuntimeFailure: The model cannot be run.
    """
    shape = input_shape(model)
    prepared = prepare(model)
    _check_names(prepared.model, options)
    given = calibration
    if given is None:
        given = synthesise(
            shape,
            synthesis.count_for(shape),
            seed,
            synthesis.mean,
            synthesis.std,
            is_channels_last=synthesis.is_channels_last,
        )
    with Inputs(given, shape) as inputs, inputs.some(_ROUNDING_INPUTS) as some:
        options = with_precise_edges(prepared.model, options)
        work = _Work(prepared, options, inputs, some, calibration is None, seed, on_progress)
        return work.run(prune, layer_sparsity)


def corrects_biases(
    options: QuantizeOptions, bit_widths: Iterable[int], *, is_synthetic: bool
) -> bool:
    """Whether biases take up the mean errors of outputs.

    Where all is finely rounded, the means of made-up inputs are more wrong than what there is
    to mend: EfficientNet-Lite0 of 8 bits went from 3 to 93 millinats by it.

    Args:
        bit_widths: Of the weights of each layer that has codes.
        is_synthetic: Whether inputs are made up.
    """
    is_coarse = any(bits < EDGE_BITS for bits in bit_widths)
    return options.correct_bias and (not is_synthetic or is_coarse)


def _check_names(model: onnx.ModelProto, options: QuantizeOptions) -> None:
    names = [layer.name for layer in list_layers(model)]
    unknown = sorted(options.layers.keys() - set(names))
    if unknown:
        ends = [name for name in names if name.endswith(unknown[0])]
        near = ends or get_close_matches(unknown[0], names, cutoff=0.0)
        raise InvalidInput(
            f"the model has no layer {', '.join(unknown)}",
            f"names near to {unknown[0]}: {', '.join(near)}; the report's JSON lists all",
        )


class _Work:
    """One quantization in progress."""

    def __init__(
        self,
        prepared: Prepared,
        options: QuantizeOptions,
        inputs: Inputs,
        some: Inputs,
        is_synthetic: bool,
        seed: int,
        on_progress: OnProgress | None,
    ) -> None:
        self._options, self._inputs, self._seed = options, inputs, seed
        self._some = some
        self._is_synthetic, self._on_progress = is_synthetic, on_progress
        self._exact = prepared.model
        self._layers = list_layers(prepared.model)
        self._coded: dict[str, CodedTensor] = {}
        self._reports: dict[str, LayerReport] = {}
        self._prune: PruneOptions | None = None
        self._sparsity: Mapping[str, float] = {}
        # What is measured: the model itself, or the one with the statistics of the data.
        self._has_statistics = is_synthetic and bool(prepared.normalised)
        self._measured = self._exact
        if self._has_statistics:
            self._measured = as_if_trained(prepared, self._layers, some)

    def run(
        self, prune: PruneOptions | None = None, layer_sparsity: Mapping[str, float] | None = None
    ) -> Ptq:
        stages = _stages(
            [x for x in self._layers if self._weights_of(x) is not None],
            _STAGES if any(map(self._is_coarse, self._layers)) else _STAGES_OF_FINE,
        )
        total = len(stages) + 2
        expected = _copy(self._exact)  # biases are to be corrected in place
        equalized = self._equalize() if self._options.equalize else 0
        if prune is not None:
            self._prune = prune
            self._sparsity = (
                find_sparsities(self._measured, stages, self._some, prune, seed=self._seed)
                if layer_sparsity is None
                else layer_sparsity
            )
        self._tell(1, total)
        unfoldable = [layer for stage in stages for layer in stage if can_unfold(layer)]
        exact = gather(self._measured, unfoldable, self._some, seed=self._seed, with_second=False)
        rounded = _copy(self._measured)
        for number, stage in enumerate(stages, start=2):
            self._round_stage(stage, exact, rounded)
            self._tell(number, total)
        activations, best_range_rule = self._ranges(rounded, expected)
        self._tell(total, total)
        report = PtqReport(
            self._reports,
            len(self._inputs),
            self._is_synthetic,
            equalized,
            self._has_statistics,
            best_range_rule,
        )
        return Ptq(self._coded, activations, self._exact, report)

    def _weights_of(self, layer: Layer) -> WeightOptions | None:
        return self._options.of(layer.name).weights

    def _is_coarse(self, layer: Layer) -> bool:
        """Whether it has so few bits that more is to be done than to round column by column."""
        options = self._weights_of(layer)
        return options is not None and options.code_set.bit_width < EDGE_BITS

    def _aims_at_float(self, layer: Layer) -> bool:
        """Whether its weights make up for what the layers before it got wrong.

        What pictures that nothing ties to the model make of those errors is not what real ones
        make of them: a detector without statistics lost 5 to 15 points of AP50 at 4 bits by it.
        """
        return self._is_coarse(layer) and (not self._is_synthetic or self._has_statistics)

    @property
    def _corrects_means(self) -> bool:
        options = [self._weights_of(layer) for layer in self._layers]
        widths = [of.code_set.bit_width for of in options if of is not None]
        return corrects_biases(self._options, widths, is_synthetic=self._is_synthetic)

    def _tell(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, total)

    def _equalize(self) -> int:
        """Only for one scale a tensor: filters with scales of their own gain nothing by it."""
        weights = self._options.weights
        if weights.granularity == "filter":
            return 0
        if weights.code_set.bit_width < EDGE_BITS:
            for model in (self._exact, self._measured):
                unbind(model)
        bounded = [p.limiting.input[0] for p in find_pairs(self._exact) if p.limiting is not None]
        peaks: dict[str, NDArray[np.float64]] = {}
        for found in probe(self._measured, bounded, self._some):
            for name, values in found.items():
                peak = values.max(axis=tuple(i for i in range(values.ndim) if i != 1))
                peaks[name] = np.maximum(peaks.get(name, -np.inf), peak.astype(np.float64))
        factors = equalize(self._exact, peaks)
        apply(self._exact, factors)
        if self._measured is not self._exact:
            apply(self._measured, factors)
        return len(factors)

    def _round_stage(
        self, stage: Sequence[Layer], exact: Mapping[str, Moments], rounded: onnx.ModelProto
    ) -> None:
        """Round some layers and put them into ``rounded``, on whose tensors they are measured."""
        layers = [layer for layer in stage if can_unfold(layer)]
        found = gather(
            rounded,
            layers,
            self._some,
            seed=self._seed,
            with_second=self._options.rounding != "nearest",
            reference=self._measured if any(map(self._aims_at_float, layers)) else None,
        )
        weights = weights_of(self._exact, tuple(stage))
        measured = weights_of(self._measured, tuple(stage))
        for layer in stage:
            moments = found.get(layer.name)
            has_mean_corrected = self._corrects_means and layer.bias is not None
            seen = moments.about_means if moments is not None and has_mean_corrected else moments
            coded = self._round(layer, weights[layer.name], seen)
            self._coded[layer.name] = coded
            factor = _row_factors(measured[layer.name], weights[layer.name])
            wide = factor.reshape(-1, *(1,) * (len(layer.shape) - 1))
            values = coded.values * wide
            write(rounded, {layer.weight: layer.as_stored(values)})
            if moments is not None and has_mean_corrected and layer.bias is not None:
                missing = _product(measured[layer.name], exact[layer.name].first, layer)
                missing = missing - _product(values, moments.first, layer)
                _add(rounded, layer.bias, missing)
                _add(self._exact, layer.bias, missing / factor)

    def _round(
        self, layer: Layer, weights: NDArray[np.float64], moments: Moments | None
    ) -> CodedTensor:
        options = self._weights_of(layer)
        assert options is not None
        second = None if moments is None else moments.second
        target = weights
        if (
            moments is not None
            and second is not None
            and moments.cross is not None
            and self._aims_at_float(layer)
        ):
            grouped = weights.reshape(layer.groups, -1, second.shape[-1])
            target = towards(grouped, second, moments.cross).reshape(weights.shape)
        sparsity = self._sparsity.get(layer.name, 0.0)
        if self._prune is not None and sparsity:
            granularity = self._prune.granularity
            coded = prune_and_round(target, second, layer, sparsity, granularity, options)
        elif second is None:
            coded = project(weights, options.code_set, options.granularity)
        else:
            is_learned = self._options.rounding == "adaround"
            scale = first_scale(weights, options)
            coded = round_to_output(
                target, scale, second, layer, options.code_set, is_learned=is_learned
            )
        noise = float("nan")
        if second is not None:
            grouped = weights.reshape(layer.groups, -1, second.shape[-1])
            difference = grouped - coded.values.reshape(grouped.shape)
            signal = weighted_error(grouped, second).sum()
            noise = float(weighted_error(difference, second).sum() / max(signal, 1e-30))
        self._reports[layer.name] = LayerReport(noise, options.code_set.bit_width)
        return coded

    def _ranges(
        self, rounded: onnx.ModelProto, expected: onnx.ModelProto
    ) -> tuple[Mapping[str, ActivationRange], RangeRule | None]:
        """By tensor, and the rule that "best" came to."""
        wanted = activation_options(float_tensors(rounded), self._layers, self._options)
        if self._is_synthetic:
            wanted = {name: for_synthetic(of) for name, of in wanted.items()}
        observers = observe(rounded, wanted, self._inputs)
        outputs = [value.name for value in expected.graph.output]
        with self._inputs.some(_JUDGED) as judged:

            @cache
            def answers() -> list[Mapping[str, Floats]]:
                return list(probe(expected, outputs, judged))

            def error(ranges: Mapping[str, ActivationRange]) -> float:
                model = emit_qdq(self._exact, self._coded, ranges)
                return output_error(model, answers(), judged)

            found, best = find_ranges(observers, wanted, error)
        return (widened(found, observers, rounded) if self._is_synthetic else found), best


def _stages(layers: Sequence[Layer], count: int) -> list[list[Layer]]:
    """Neighbouring layers to be measured in one pass: few enough that their moments fit."""
    stages: list[list[Layer]] = []
    most = -(-len(layers) // count)
    size = 0
    for layer in layers:
        needed = 16 * layer.groups * int(np.prod(layer.shape[1:])) ** 2
        if not stages or len(stages[-1]) >= most or size + needed > _STAGE_BYTES:
            stages.append([])
            size = 0
        stages[-1].append(layer)
        size += needed
    return stages


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def _row_factors(
    measured: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What each filter of the measured model is multiplied with; 1 where that is all zeros."""
    rows, others = measured.reshape(len(measured), -1), weights.reshape(len(weights), -1)
    norm, other = np.linalg.norm(rows, axis=1), np.linalg.norm(others, axis=1)
    is_usable = (norm > 0) & (other > 0)
    return np.where(is_usable, norm, 1.0) / np.where(is_usable, other, 1.0)


def _product(
    weights: NDArray[np.floating], mean: NDArray[np.float64], layer: Layer
) -> NDArray[np.float64]:
    """Mean output of each filter without its bias."""
    grouped = weights.reshape(layer.groups, -1, mean.shape[-1])
    return np.asarray(np.einsum("grk,gk->gr", grouped, mean).reshape(-1))


def _add(model: onnx.ModelProto, bias: str, values: NDArray[np.float64]) -> None:
    write(model, {bias: doubles(model, bias) + values})
