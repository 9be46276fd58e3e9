"""How much a model's outputs change when one layer alone is compressed."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from camsdk.compress.allocate import FLOAT_BITS, LayerChoice, Trial
from camsdk.compress.codes import CodedTensor, project
from camsdk.compress.graph.layers import Layer, constants, list_layers
from camsdk.compress.options import (
    MAX_POWER_OF_TWO_BITS,
    CodeSet,
    Element,
    PruneGranularity,
    WeightOptions,
)
from camsdk.compress.sessions import ENGINE_FAILURES, Array
from camsdk.compress.sparsity import find_masks
from camsdk.errors import InvalidInput, RuntimeFailure

Floats = NDArray[np.float32]

_BYTES_PER_SCALE: Final = 4
_FLOAT_BYTES: Final = 4


def predict_bytes(coded: CodedTensor) -> float:
    """What a layer's weights take in a packed file: the codes at their empirical entropy, which an
    entropy coder reaches within a percent on a thousand codes, and the scales."""
    _, counts = np.unique(coded.codes, return_counts=True)
    return _entropy_bytes(counts) + _BYTES_PER_SCALE * coded.scale.size


def predict_float_bytes(weights: Floats) -> float:
    """The same for weights in float: which are zero, at its entropy, and the others in full."""
    kept = int(np.count_nonzero(weights))
    return _entropy_bytes(np.array([kept, weights.size - kept])) + _FLOAT_BYTES * kept


def compress_weights(
    weights: Floats,
    choice: LayerChoice,
    options: WeightOptions = WeightOptions(),  # noqa: B008 - a frozen value
    granularity: PruneGranularity = Element(),  # noqa: B008 - a frozen value
) -> tuple[Floats, float]:
    """Weights, filters first, as one choice makes them without training, and their packed bytes.

    The smallest by magnitude go, what stays goes to the nearest codes.
    """
    if choice.bit_width == FLOAT_BITS:
        mask = _mask(weights, choice, granularity)
        kept = weights if mask is None else np.where(mask, weights, np.float32(0))
        return kept, predict_float_bytes(kept)
    coded = code_weights(weights, choice, options, granularity)
    return coded.values, predict_bytes(coded)


def code_weights(
    weights: Floats,
    choice: LayerChoice,
    options: WeightOptions,
    granularity: PruneGranularity = Element(),  # noqa: B008 - a frozen value
) -> CodedTensor:
    """The same as codes, of a choice that is not to leave them in float."""
    spacing = options.code_set.spacing
    if choice.bit_width > MAX_POWER_OF_TWO_BITS:
        spacing = "uniform"
    code_set = CodeSet(choice.bit_width, spacing)
    mask = _mask(weights, choice, granularity)
    return project(weights, code_set, options.granularity, mask)


def _mask(
    weights: Floats, choice: LayerChoice, granularity: PruneGranularity
) -> NDArray[np.bool_] | None:
    """What stays; None if all of it."""
    if not choice.sparsity:
        return None
    return find_masks({"": np.abs(weights)}, choice.sparsity, granularity)[""]


def measure_sensitivity(
    model: onnx.ModelProto,
    layers: Iterable[Layer],
    choices: Sequence[LayerChoice] | Mapping[str, Sequence[LayerChoice]],
    calibration_inputs: Iterable[Floats],
    *,
    options: WeightOptions = WeightOptions(),  # noqa: B008 - a frozen value
    granularity: PruneGranularity = Element(),  # noqa: B008 - a frozen value
    is_unlike_data: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, dict[LayerChoice, Trial]]:
    """Error and packed bytes of every choice in every layer.

    Args:
        model: In float.
        layers: Those to measure.
        choices: The same for all layers, or by layer name.
        calibration_inputs: Real inputs, or synthetic ones; 16 to 64 are enough to rank layers.
        is_unlike_data: Whether nothing ties the inputs to what the model was trained on. Then they
            have half a say: the other half is how much the weights themselves change.
        on_progress: Called with the share done.

    Returns:
        By layer name and choice; an error is the squared error over the output's power, mean over
        the outputs.

    Raises:
        InvalidInput: There are no inputs.
        RuntimeFailure: The model cannot be loaded, or not run on these inputs.
    """
    inputs = list(calibration_inputs)
    if not inputs:
        raise InvalidInput("there are no calibration inputs", "give at least one batch")
    layers = list(layers)
    session = _Overridable(model, [layer.weight for layer in layers])
    weights = constants(model)
    expected = [session.run(tensor, {}) for tensor in inputs]
    result: dict[str, dict[LayerChoice, Trial]] = {}
    noise: dict[str, dict[LayerChoice, float]] = {}
    for index, layer in enumerate(layers):
        filters = layer.filters_first(weights[layer.weight]).astype(np.float32)
        result[layer.name], noise[layer.name] = {}, {}
        for choice in choices[layer.name] if isinstance(choices, Mapping) else choices:
            values, size = compress_weights(filters, choice, options, granularity)
            override = {layer.weight: layer.as_stored(values).astype(np.float32)}
            errors = [
                _difference(session.run(tensor, override), right)
                for tensor, right in zip(inputs, expected, strict=True)
            ]
            result[layer.name][choice] = Trial(float(np.mean(errors)), size)
            noise[layer.name][choice] = _difference([values], [filters])
        if on_progress is not None:
            on_progress((index + 1) / len(layers))
    return _with_noise(result, noise) if is_unlike_data else result


def _with_noise(
    measured: Mapping[str, Mapping[LayerChoice, Trial]],
    noise: Mapping[str, Mapping[LayerChoice, float]],
) -> dict[str, dict[LayerChoice, Trial]]:
    """Errors with as much again for the relative change of the weights, the same in all layers.

    The unit is the median of what was measured for one of noise. A layer that made-up inputs hardly
    move is so not given away: of a classifier of 25 thousand weights the divergence at 20.8 kB fell
    from 61, 38 and 35 to 10, 6 and 7 millinats (3 seeds, with four times the inputs).
    """
    ratios = [
        trial.error / noise[name][choice]
        for name, table in measured.items()
        for choice, trial in table.items()
        if noise[name][choice] > 0
    ]
    unit = float(np.median(ratios)) if ratios else 0.0
    return {
        name: {
            choice: replace(trial, error=trial.error + unit * noise[name][choice])
            for choice, trial in table.items()
        }
        for name, table in measured.items()
    }


def measure_coded_layers(
    model: onnx.ModelProto,
    weights: Mapping[str, CodedTensor],
    inputs: Sequence[Array],
    *,
    budget_s: float,
) -> dict[str, float]:
    """Error of the outputs when the weights of one layer alone are its codes, all else in float.

    Input after input, every layer once; layers whose weights changed most come first. When the time
    is up, what is unfinished is left out: an input that not all layers have seen, or, of the first
    one, the layers that were not reached.

    Args:
        model: The float model that the codes were made of.
        weights: By layer name.
        inputs: Of the model's shape and type; a few suffice to rank layers.
        budget_s: Seconds of CPU, looked at between two runs; so a machine that does other things
            too gives the same figures.

    Returns:
        Mean over outputs and inputs of the squared error over the output's power, by layer name.

    Raises:
        InvalidInput: There are no inputs.
        RuntimeFailure: The model cannot be loaded, or not run on these inputs.
    """
    if not inputs:
        raise InvalidInput("there are no inputs to measure layers on", "give at least one")
    deadline_s = time.thread_time() + budget_s
    changed = _most_changed_first(model, weights)
    session = _Overridable(model, [layer.weight for layer, _ in changed])
    rounds: list[dict[str, float]] = []
    for tensor in inputs:
        expected = session.run(tensor, {})
        found: dict[str, float] = {}
        for layer, values in changed:
            if time.thread_time() > deadline_s:
                return _means(rounds) if rounds else found
            outputs = session.run(tensor, {layer.weight: values})
            found[layer.name] = _difference(outputs, expected)
        rounds.append(found)
    return _means(rounds)


def _most_changed_first(
    model: onnx.ModelProto, weights: Mapping[str, CodedTensor]
) -> list[tuple[Layer, Floats]]:
    """Layers with the values of their codes as the model stores them."""
    stored = constants(model)
    changes: list[tuple[float, Layer, Floats]] = []
    for layer in list_layers(model):
        if layer.name in weights:
            before = np.asarray(stored[layer.weight], np.float32)
            after = layer.as_stored(weights[layer.name].values).astype(np.float32)
            power = max(float(np.square(before, dtype=np.float64).sum()), 1e-30)
            error = float(np.square(after - before, dtype=np.float64).sum()) / power
            changes.append((error, layer, after))
    changes.sort(key=lambda change: -change[0])
    return [(layer, values) for _, layer, values in changes]


def _means(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([found[name] for found in rounds])) for name in rounds[0]}


class _Overridable:
    """A session whose weights can be replaced for one run, so that it is loaded only once."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        model = _with_open_weights(model, names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except ENGINE_FAILURES as error:
            raise RuntimeFailure(f"the model cannot be loaded: {error}") from error
        self._input = self._session.get_inputs()[0].name

    def run(self, tensor: Array, overrides: Mapping[str, Floats]) -> list[Floats]:
        try:
            outputs: list[Floats] = self._session.run(None, {self._input: tensor, **overrides})
        except ENGINE_FAILURES as error:
            raise RuntimeFailure(f"the model cannot be run: {error}") from error
        return outputs


def _with_open_weights(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy in which these initializers are also inputs, which makes them defaults."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    initializers = {tensor.name: tensor for tensor in result.graph.initializer}
    given = {value.name for value in result.graph.input}
    for name in dict.fromkeys(names):
        if name not in initializers:
            array = constants(model)[name]
            for node in [node for node in result.graph.node if name in node.output]:
                result.graph.node.remove(node)
            result.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            initializers[name] = result.graph.initializer[-1]
        if name not in given:
            tensor = initializers[name]
            result.graph.input.append(
                onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            )
    return result


def _difference(found: Sequence[Floats], expected: Sequence[Floats]) -> float:
    errors = [
        np.square(f - e, dtype=np.float64).mean() / max(np.square(e).mean(), 1e-12)
        for f, e in zip(found, expected, strict=True)
    ]
    return float(np.mean(errors))


def _entropy_bytes(counts: NDArray[np.int_]) -> float:
    """Of symbols with these frequencies, by an ideal coder."""
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum() / 8)
