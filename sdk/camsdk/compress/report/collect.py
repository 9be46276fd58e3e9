"""Gathers the facts of a run from the models before and after."""

import resource
import sys
from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from camsdk.artifact.decode import decode
from camsdk.artifact.preprocess import make_input
from camsdk.compress.codes import CodedTensor
from camsdk.compress.evaluate import Contender
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.graph.qdq import ActivationRange
from camsdk.compress.report.drawing import boxed
from camsdk.compress.report.facts import LayerFacts, Sample, histogram
from camsdk.vision.frames import Frame


def layer_facts(
    model: onnx.ModelProto,
    weights: Mapping[str, CodedTensor],
    activations: Mapping[str, ActivationRange],
    noise: Mapping[str, float],
    sensitivities: Mapping[str, float],
) -> tuple[LayerFacts, ...]:
    """Of every layer, in the order of the graph.

    Args:
        model: The float model that the codes were made of.
        weights: By layer name; what is missing was left in float.
        noise, sensitivities: By layer name; what is missing was not probed.
        activations: By tensor name.
    """
    stored = constants(model)
    facts = []
    for layer in list_layers(model):
        before = layer.filters_first(stored[layer.weight]).astype(np.float32)
        coded, entering = weights.get(layer.name), activations.get(layer.input)
        after = before if coded is None else coded.values
        density = np.count_nonzero(after) / max(1, after.size)
        energy = float(np.square(before).sum()) or 1.0
        facts.append(
            LayerFacts(
                name=layer.name,
                operator=layer.operator,
                shape=layer.shape,
                bit_width=None if coded is None else coded.code_set.bit_width,
                activation_bits=None if coded is None or entering is None else entering.bit_width,
                sparsity=1 - density,
                macs=layer.macs,
                nonzero_macs=round(layer.macs * density),
                weight_error=float(np.sqrt(np.square(after - before).sum() / energy)),
                noise_to_signal=noise.get(layer.name),
                sensitivity=sensitivities.get(layer.name),
                weights=histogram(before),
                codes=histogram(before if coded is None else coded.codes),
            )
        )
    return tuple(facts)


def draw_samples(
    reference: Contender, candidate: Contender, frames: Iterable[Frame]
) -> tuple[Sample, ...]:
    """Both models' boxes on the same frames."""
    return tuple(
        Sample(frame.index, _drawn(reference, frame), _drawn(candidate, frame)) for frame in frames
    )


def _drawn(contender: Contender, frame: Frame) -> bytes:
    manifest = contender.manifest
    outputs = contender.session.infer(make_input(frame, manifest.input))
    found = decode(outputs, manifest, frame.width, frame.height)
    return boxed(frame, found, manifest.classes)


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
