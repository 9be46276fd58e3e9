"""What int8 buys and costs: NanoDet-g against its own float32 on the walkers' clip.

    python benchmarks/detector.py [--calibration 24] [--evaluation 200] [--size 416x320] [--json]

Imports the published graph, quantizes it with frames from the first third of ``vtest.avi`` and
evaluates on frames of its second half. Times are CPU milliseconds on one thread, medians, both
models taking turns frame by frame. AP50 takes the float model's boxes from score 0.35 on as truth:
it says what quantization changed, not how good the detector is.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from camsdk import assets
from camsdk.artifact.decode import decode
from camsdk.artifact.preprocess import make_input
from camsdk.compress import nanodet
from camsdk.compress.clips import ClipSplit, count_frames, read_frames, split_clip
from camsdk.compress.library_int8 import compress_int8
from camsdk.compress.packaging import Draft
from camsdk.compress.quantize import Int8Options
from camsdk.compress.sessions import Session


@dataclass(frozen=True)
class Figures:
    """Of one quantization.

    Attributes:
        weight_bits: 7 is the default, see ``camsdk.compress.quantize``.
        fp32_ms, int8_ms: Median CPU time of an inference.
        speedup: Of int8 over fp32.
        ap50_person, ap50_all: int8 against fp32.
        fp32_mib, int8_mib: Of the model files.
        compress_s: Wall time of quantizing and evaluating.
        preprocess_ms, decode_ms: Median CPU time beside the inference.
        boxes: Of fp32, that count as truth.
    """

    weight_bits: int
    fp32_ms: float
    int8_ms: float
    speedup: float
    ap50_person: float
    ap50_all: float
    fp32_mib: float
    int8_mib: float
    compress_s: float
    preprocess_ms: float
    decode_ms: float
    calibration_frames: int
    evaluation_frames: int
    boxes: int


def run(calibration: int, evaluation: int, size: tuple[int, int]) -> list[Figures]:
    """Both widths of weights."""
    clip = assets.pull("vtest.avi")
    source = nanodet.import_float(
        assets.pull("nanodet.json"), assets.pull("nanodet.bin"), size=size
    )
    split = split_clip(count_frames(clip), calibration=calibration, evaluation=evaluation)
    return [measure(source, clip, split, Int8Options(weight_bits=bits)) for bits in (7, 8)]


def measure(source: Draft, clip: Path, split: ClipSplit, options: Int8Options) -> Figures:
    """Quantize, evaluate, and time what surrounds an inference."""
    started = time.perf_counter()
    made = compress_int8(source, clip, options=options, split=split)
    spent_s = time.perf_counter() - started
    manifest, agreement, session = made.draft.manifest, made.agreement, Session(made.draft.model)
    preprocess_ns, decode_ns = [], []
    for frame in read_frames(clip, split.evaluation):
        start_ns = time.thread_time_ns()
        tensor = make_input(frame, manifest.input)
        preprocess_ns.append(time.thread_time_ns() - start_ns)
        outputs = session.infer(tensor)
        start_ns = time.thread_time_ns()
        decode(outputs, manifest, frame.width, frame.height)
        decode_ns.append(time.thread_time_ns() - start_ns)
    return Figures(
        weight_bits=options.weight_bits,
        fp32_ms=agreement.reference_ms,
        int8_ms=agreement.candidate_ms,
        speedup=agreement.speedup,
        ap50_person=agreement.values["ap50_person"],
        ap50_all=agreement.values["ap50_all"],
        fp32_mib=len(source.model) / 2**20,
        int8_mib=len(made.draft.model) / 2**20,
        compress_s=spent_s,
        preprocess_ms=float(np.median(preprocess_ns)) / 1e6,
        decode_ms=float(np.median(decode_ns)) / 1e6,
        calibration_frames=len(split.calibration),
        evaluation_frames=agreement.counts["frames"],
        boxes=agreement.counts["boxes"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--calibration", type=int, default=24)
    parser.add_argument("--evaluation", type=int, default=200)
    parser.add_argument("--size", default="416x320")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    width, height = map(int, options.size.split("x"))
    rows = [asdict(row) for row in run(options.calibration, options.evaluation, (width, height))]
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    for name in rows[0]:
        print(f"{name:<20}" + "".join(f"{row[name]:>12.4g}" for row in rows))


if __name__ == "__main__":
    main()
