"""Gathers the facts of a run from the models before and after."""

import resource
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.bundle import pack
from camsdk.artifact.decode import class_logits, class_scores, decode
from camsdk.artifact.manifest import Manifest
from camsdk.artifact.preprocess import make_input
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.figures import Agreement
from camsdk.compress.footage import Footage
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.graph.optimise import Report
from camsdk.compress.packaging import PACKED_MEMBER, Draft
from camsdk.compress.ptq.synthetic import synthesise
from camsdk.compress.report.drawing import SHOWN_SCORE, boxed, coloured, named, written
from camsdk.compress.report.facts import LayerFacts, RunFacts, Sample, histogram
from camsdk.compress.report.probes import Probes, probe
from camsdk.compress.sessions import Array, Session
from camsdk.vision.frames import Frame

SAMPLE_FRAMES: Final = 3
_FEW: Final = 4
_GROUND: Final = 96
"""Luma of samples without stills."""
_COLOURLESS: Final = 128


def few_inputs(
    source: Draft,
    footage: Footage | None,
    frames: Sequence[int],
    seed: int = 0,
    count: int = _FEW,
) -> tuple[NDArray[Any], ...]:
    """So many inputs of the model: of these frames, evenly spaced, or made up without footage."""
    spec = source.manifest.input
    if footage is not None:
        count = min(count, len(frames))
        chosen = [frames[place * len(frames) // count] for place in range(count)]
        return tuple(make_input(frame, spec) for frame in footage.read(chosen))
    is_last = spec.layout == "NHWC"
    made = synthesise(spec.shape, count, seed, spec.mean, spec.std, is_channels_last=is_last)
    return tuple(tensor.astype(spec.dtype) for tensor in made)


def collect_facts(
    source: Draft,
    draft: Draft,
    optimised: Report,
    made: CodedModel,
    agreement: Agreement | None,
    durations: Mapping[str, float],
    inputs: Sequence[Array] = (),
    *,
    is_synthetic: bool = False,
) -> RunFacts:
    """All facts but the samples; layers and engines are measured where there are inputs.

    Args:
        source, draft: The float artifact and the compressed one.
        optimised: What was done to the graph before.
        made: What the compressed one was emitted from.
        agreement: None where there was nothing to compare on.
        durations: Seconds by step.
        inputs: See ``few_inputs``.
        is_synthetic: Whether they were made up.
    """
    probes = Probes({}, (), {})
    if inputs:
        probes = probe(source, draft, made, inputs, sum(durations.values()))
    sizes = {
        "float model": len(source.model),
        "model as devices run it": len(draft.model),
        "model packed": len(draft.members[PACKED_MEMBER]),
        "artifact, unsigned": len(pack(draft.manifest, draft.members, None)),
    }
    figures = () if agreement is None else agreement.measured
    return RunFacts(
        source=source.manifest.reference,
        result=draft.manifest.reference,
        options=draft.manifest.lineage.options,
        layers=layer_facts(made, probes.sensitivity),
        sizes_bytes=sizes,
        accuracy={figure.title: figure.value for figure in figures},
        accuracy_before={figure.title: figure.reference for figure in figures},
        latency=probes.latency,
        duration_s={**durations, **probes.duration_s},
        peak_rss_bytes=peak_rss_bytes(),
        compared=None if agreement is None else agreement.counts,
        optimised=optimised,
        probe_inputs=_told(inputs, is_synthetic=is_synthetic),
        unprobed=probes.unprobed,
        history={"loss": made.history} if made.history else {},
    )


def _told(inputs: Sequence[Array], *, is_synthetic: bool) -> str:
    kind = "made-up pictures" if is_synthetic else "calibration frames"
    return f"{len(inputs)} {kind}" if inputs else ""


def layer_facts(made: CodedModel, sensitivities: Mapping[str, float]) -> tuple[LayerFacts, ...]:
    """Of every layer, in the order of the graph.

    Args:
        made: Layers without codes were left in float.
        sensitivities: By layer name; what is missing was not probed.
    """
    stored, originals = constants(made.before), {x.name: x for x in list_layers(made.before)}
    facts = []
    for layer in list_layers(made.model):
        before = layer.filters_first(stored[originals[layer.name].weight]).astype(np.float32)
        coded, entering = made.weights.get(layer.name), made.activations.get(layer.input)
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
                noise_to_signal=made.noise.get(layer.name),
                sensitivity=sensitivities.get(layer.name),
                weights=histogram(before),
                codes=histogram(before if coded is None else coded.codes),
            )
        )
    return tuple(facts)


def draw_samples(
    source: Draft,
    draft: Draft,
    footage: Footage,
    frames: Sequence[int],
    *,
    has_stills: bool = True,
) -> tuple[Sample, ...]:
    """What both models say of a few of these frames, evenly spaced.

    Args:
        has_stills: Whether it is drawn on the frames, or on a plain ground.
    """
    chosen = frames[:: max(1, len(frames) // SAMPLE_FRAMES)][:SAMPLE_FRAMES]
    before, after = Session(source.model), Session(draft.model)
    samples = []
    for frame in footage.read(chosen):
        in_float, seen = _drawn(source.manifest, before, frame, has_stills)
        compressed, seen_after = _drawn(draft.manifest, after, frame, has_stills)
        legend = _legend(seen | seen_after, source.manifest.classes)
        samples.append(Sample(frame.index, in_float, compressed, legend))
    return tuple(samples)


def _legend(class_ids: Collection[int], classes: Sequence[str]) -> dict[str, str]:
    """Of the classes that have another name in pictures."""
    drawn = {written(class_id, classes): classes[class_id] for class_id in sorted(class_ids)}
    return {label: name for label, name in drawn.items() if label != name}


def _drawn(
    manifest: Manifest, session: Session, frame: Frame, has_stills: bool
) -> tuple[bytes, set[int]]:
    """A picture, and the ids of the classes whose names are in it."""
    outputs = session.infer(make_input(frame, manifest.input))
    if not has_stills:
        grey = np.full_like(frame.u, _COLOURLESS)
        frame = replace(frame, y=np.full_like(frame.y, _GROUND), u=grey, v=grey)
    if manifest.kind == "classifier":
        scores = class_scores(class_logits(outputs, manifest))
        return named(frame, scores, manifest.classes), {int(scores.argmax())}
    if manifest.kind == "segmenter":
        class_map = class_logits(outputs, manifest).argmax(axis=0)
        picture = coloured(frame, class_map, manifest.classes, manifest.input)
        return picture, {*np.unique(class_map).tolist()} - {0}
    found = decode(outputs, manifest, frame.width, frame.height)
    shown = found.class_ids[found.scores >= SHOWN_SCORE]
    return boxed(frame, found, manifest.classes), {*shown.tolist()}


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
