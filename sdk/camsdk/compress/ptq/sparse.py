"""Pruning after training: which weights of a layer go, and how the others make up for them.

What a layer's output loses when one weight goes and the others of its row are moved in the best way
is w^2 / [H^-1]_jj, H the second moments of the layer's inputs (the optimal brain surgeon;
SparseGPT, arXiv:2301.00774, eq. 3). The moving itself is ``rounding.round_gptq`` with a mask, for
which H is there anyway.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from camsdk.compress.codes import CodedTensor, project
from camsdk.compress.graph.layers import Layer
from camsdk.compress.options import NOfM, PruneGranularity, PruneOptions, WeightOptions
from camsdk.compress.ptq.folding import weights_of
from camsdk.compress.ptq.inputs import Inputs
from camsdk.compress.ptq.moments import can_unfold, gather
from camsdk.compress.ptq.rounding import Doubles, damped, fit_scale, round_gptq
from camsdk.compress.sparsity import Mask, find_masks, measure_sparsity, suits
from camsdk.errors import InvalidInput


def losses(weights: Doubles, second: Doubles) -> Doubles:
    """What the output loses by each weight, (groups, rows, columns) as the weights.

    Args:
        weights: (groups, rows, columns).
        second: Second moments of the inputs, (groups, columns, columns).
    """
    inverse = np.diagonal(np.linalg.inv(damped(second)), axis1=-2, axis2=-1)
    return np.asarray(weights**2 / inverse[:, np.newaxis, :])


def find_sparsities(
    model: onnx.ModelProto,
    stages: Iterable[Sequence[Layer]],
    inputs: Inputs,
    options: PruneOptions,
    *,
    seed: int,
) -> dict[str, float]:
    """The sparsity of each layer, so that together they have that of the options.

    Layers that are to stay dense, or do not suit the granularity, have none and do not count. One
    threshold for all others, on what a weight adds to its layer's output as a share of that output;
    without ``is_global``, and with N:M, each of them has the same sparsity.

    Args:
        model: In float.
        stages: Layers, so few at a time that their second moments fit into memory.
        seed: As of ``moments.gather``.

    Returns:
        By layer; those that cannot be unfolded have the sparsity of all.

    Raises:
        InvalidInput: There is no layer of a name in ``options.dense``.
    """
    stages = [list(stage) for stage in stages]
    every = {layer.name: layer for stage in stages for layer in stage}
    pruned = _prunable(every, options)
    found = dict.fromkeys(every, 0.0) | dict.fromkeys(pruned, options.sparsity)
    if not options.is_global or isinstance(options.granularity, NOfM):
        return found
    scores: dict[str, NDArray[np.float64]] = {}
    for stage in stages:
        layers = [layer for layer in stage if layer.name in pruned and can_unfold(layer)]
        moments = gather(model, layers, inputs, seed=seed, with_second=True)
        weights = weights_of(model, tuple(layers))
        for layer in layers:
            second = moments[layer.name].second
            assert second is not None
            scores[layer.name] = share_of_output(weights[layer.name], second, layer)
    costs = None
    if options.saves == "macs":
        costs = {name: pruned[name].macs // math.prod(pruned[name].shape) for name in scores}
        scores = {name: score / costs[name] for name, score in scores.items()}
    masks = find_masks(scores, options.sparsity, options.granularity, costs=costs)
    return found | {name: measure_sparsity({name: mask}) for name, mask in masks.items()}


def _prunable(layers: Mapping[str, Layer], options: PruneOptions) -> dict[str, Layer]:
    if unknown := sorted(set(options.dense) - layers.keys()):
        raise InvalidInput(
            f"no such layer to keep dense: {', '.join(unknown)}",
            f"those that can be pruned are {', '.join(layers)}",
        )
    return {
        name: layer
        for name, layer in layers.items()
        if name not in options.dense and suits(layer.shape, options.granularity)
    }


def share_of_output(weights: NDArray[np.float64], second: Doubles, layer: Layer) -> Doubles:
    """What each weight adds to its layer's output, as a share of all: to compare between layers.

    Args:
        weights: Filters first.
        second: Second moments of the layer's inputs.

    Returns:
        As the weights; of a layer without output, zeros.
    """
    grouped = weights.reshape(layer.groups, -1, second.shape[-1])
    power = grouped**2 * np.diagonal(second, axis1=-2, axis2=-1)[:, np.newaxis, :]
    signal = float(np.sum((grouped @ second) * grouped))
    return np.asarray(power / max(signal, 1e-30)).reshape(weights.shape)


def prune_and_round(
    weights: NDArray[np.float64],
    second: Doubles | None,
    layer: Layer,
    sparsity: float,
    granularity: PruneGranularity,
    options: WeightOptions,
) -> CodedTensor:
    """Codes of one layer, of which a share is zero.

    Args:
        weights: Filters first.
        second: Second moments of the layer's inputs, (groups, columns, columns); without them the
            smallest weights go and nothing makes up for them.
        sparsity: Share of zeros, 0 to below 1.

    Raises:
        InvalidInput: As ``sparsity.find_masks``.
    """
    if second is None:
        mask = _mask(np.abs(weights), sparsity, granularity)
        return project(weights, options.code_set, options.granularity, mask)
    grouped = weights.reshape(layer.groups, -1, second.shape[-1])
    mask = _mask(losses(grouped, second).reshape(weights.shape), sparsity, granularity)
    kept = mask.reshape(grouped.shape)
    start = project(weights, options.code_set, options.granularity, mask)
    is_shared = start.scale.ndim == 0
    scale = np.broadcast_to(start.scale.astype(np.float64), (layer.shape[0],))
    scale = scale.reshape(grouped.shape[:2])
    fitted = scale
    if options.code_set.has_zero:  # else a pruned weight would seem to need a code
        fitted = fit_scale(grouped * kept, scale, second, options.code_set, is_shared=is_shared)
    # what is stored is float32: codes must be chosen for that
    fitted = fitted.astype(np.float32).astype(np.float64)
    codes = round_gptq(grouped, fitted, second, options.code_set, kept)
    stored = fitted.flat[0] if is_shared else fitted.reshape(-1)
    return replace(start, codes=codes.reshape(weights.shape), scale=np.asarray(stored, np.float32))


def _mask(scores: NDArray[np.float64], sparsity: float, granularity: PruneGranularity) -> Mask:
    return find_masks({"": scores}, sparsity, granularity)[""]
