"""int8 by onnxruntime's own quantizer: the light path, a few seconds and nothing to choose.

What ``compressing.compress`` does with more care and for any number of bits, a maintained library
does as well for plain int8 with data; ``benchmarks/detector.py`` prints both.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from camsdk.artifact.manifest import Lineage
from camsdk.artifact.preprocess import make_input
from camsdk.compress.agreement import check_float, evaluate
from camsdk.compress.clips import ClipSplit, split_clip
from camsdk.compress.figures import Agreement
from camsdk.compress.footage import Footage, open_footage
from camsdk.compress.lineages import TOOL
from camsdk.compress.packaging import TOOL_VERSION, Draft, describe, make_draft
from camsdk.compress.quantize import DEFAULTS, Int8Options, Quantized, quantize_int8
from camsdk.compress.steps import OnProgress


@dataclass(frozen=True)
class Compressed:
    """An int8 artifact and how it compares with the float one.

    Attributes:
        draft: Its manifest carries the agreement as metrics.
        split: Which frames of the clip served what.
    """

    draft: Draft
    agreement: Agreement
    split: ClipSplit


def compress_int8(
    source: Draft,
    clip: Path,
    *,
    name: str | None = None,
    version: int | None = None,
    options: Int8Options = DEFAULTS,
    split: ClipSplit | None = None,
    on_progress: OnProgress | None = None,
) -> Compressed:
    """Quantize a float artifact with frames of a clip, and measure it on other frames of it.

    Args:
        source: The float artifact.
        clip: A recording such as the model will see.
        name, version: Of the new artifact; by default the source's name and the next version.
        options: Of the quantizer.
        split: Which frames; by default ``split_clip``.
        on_progress: Frames decoded and evaluated, of all that will be.

    Raises:
        InvalidInput: The source is not float, or the clip is too short.
        SourceError: The clip cannot be read.
    """
    check_float(source)
    footage = open_footage(clip)
    split = split or split_clip(len(footage))
    progress = _Progress(split, on_progress)
    quantized = _quantized(source, footage, split, options, progress)
    lineage = Lineage(
        source=source.manifest.reference,
        source_sha256=hashlib.sha256(source.model).hexdigest(),
        tool=TOOL,
        tool_version=TOOL_VERSION,
        options={**options.as_text(), "calibration_inputs": str(quantized.calibration_count)},
        calibration_sha256=quantized.calibration_sha256,
    )
    description = replace(
        describe(source.manifest),
        name=name or source.manifest.name,
        version=version or source.manifest.version + 1,
        precision="int8",
        lineage=lineage,
    )
    draft = make_draft(quantized.model, description)
    agreement = evaluate(source, draft, footage, split.evaluation, on_frame=progress.evaluated)
    manifest = draft.manifest.model_copy(update={"metrics": agreement.as_metrics()})
    progress.finish()
    return Compressed(replace(draft, manifest=manifest), agreement, split)


def _quantized(
    source: Draft,
    footage: Footage,
    split: ClipSplit,
    options: Int8Options,
    progress: "_Progress",
) -> Quantized:
    frames = footage.read(split.calibration)
    return quantize_int8(
        onnx.load_from_string(source.model),
        (make_input(frame, source.manifest.input) for frame in frames),
        options=options,
        on_input=progress.calibrated,
    )


class _Progress:
    """Frames of both phases as one count."""

    def __init__(self, split: ClipSplit, on_progress: OnProgress | None) -> None:
        self._before = len(split.calibration)
        self._total = self._before + len(split.evaluation)
        self._on_progress = on_progress

    def calibrated(self, count: int) -> None:
        self._tell(count)

    def evaluated(self, count: int) -> None:
        self._tell(self._before + count)

    def finish(self) -> None:
        self._tell(self._total)

    def _tell(self, done: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, self._total)
