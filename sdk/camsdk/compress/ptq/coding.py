"""Codes and scales of one layer, chosen for its output by second moments of its inputs."""

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.codes import CodedTensor, project
from camsdk.compress.graph.layers import Layer
from camsdk.compress.options import CodeSet, WeightOptions
from camsdk.compress.ptq.edges import EDGE_BITS
from camsdk.compress.ptq.learned import round_learned
from camsdk.compress.ptq.rounding import fit_scale, refine, round_gptq


def first_scale(weights: NDArray[np.float64], options: WeightOptions) -> NDArray[np.float32]:
    """That of a projection; with many codes the one that reaches the largest weight is near it."""
    code_set = options.code_set
    if code_set.bit_width < EDGE_BITS:
        return project(weights, code_set, options.granularity).scale
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    if options.granularity == "tensor":
        largest = largest.max()
    return np.where(largest > 0, largest / code_set.largest, 1.0).astype(np.float32)


def round_to_output(
    weights: NDArray[np.float64],
    start: NDArray[np.float32],
    second: NDArray[np.float64],
    layer: Layer,
    code_set: CodeSet,
    *,
    is_learned: bool,
) -> CodedTensor:
    """Round for the output's sake, with a scale near a given one.

    Args:
        weights: Float64, filters first.
        start: float32, () or (filters,).
        second: Second moments of the layer's inputs, (groups, columns, columns).
        is_learned: By AdaRound instead of GPTQ.
    """
    grouped = weights.reshape(layer.groups, -1, second.shape[-1])
    is_shared = start.ndim == 0
    scale = np.broadcast_to(start.astype(np.float64), (layer.shape[0],)).reshape(grouped.shape[:2])
    fitted = fit_scale(grouped, scale, second, code_set, is_shared=is_shared)
    # what is stored is float32: codes must be chosen for that
    fitted = fitted.astype(np.float32).astype(np.float64)
    if is_learned:
        codes = round_learned(grouped, fitted, second, code_set)
    else:
        codes = round_gptq(grouped, fitted, second, code_set)
        if code_set.bit_width < EDGE_BITS:
            codes, fitted = refine(codes, grouped, fitted, second, code_set, is_shared=is_shared)
    return CodedTensor(
        codes.reshape(weights.shape),
        np.asarray(fitted.flat[0] if is_shared else fitted.reshape(-1), np.float32),
        code_set,
    )
