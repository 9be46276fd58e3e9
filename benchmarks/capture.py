"""CPU time of one camera without its detector, by stage, against decoding alone and against OpenCV.

    python benchmarks/capture.py [--video PATH] [--json]

Boxes come from the float NanoDet-g, once, before anything is timed; every run gets the same ones.
Each clip is measured as it is and encoded anew as H.264 (crf 23), because most cameras send that.
Baselines: ``decode`` is PyAV decoding and nothing else; ``opencv`` is what a script would do:
``VideoCapture`` to BGR, grey, a background model (MOG2) on a quarter of the size; no tracker.
Best of three runs, milliseconds of CPU per frame. Needs the assets vtest.avi and nanodet.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from pathlib import Path

import av
import cv2

from camagent.config import CameraSettings
from camagent.detect import Look
from camagent.features import Features
from camagent.gate import Gate
from camagent.pipeline import Pipeline
from camagent.runtimes.cpu import CpuRuntime
from camagent.source import open_source
from camagent.stats import PipelineStats
from camagent.track import ByteTracker
from camagent.zones import Zones
from camsdk import assets
from camsdk.artifact.decode import decode
from camsdk.artifact.manifest import Manifest
from camsdk.artifact.preprocess import make_input
from camsdk.compress.nanodet import import_float
from camsdk.vision.frames import Frame
from camsdk.vision.results import Detections, FrameResult
from camsdk.vision.rules import parse_rules

RUNS = 3
BUDGET_MS = 2.5
CAPTURE_BUDGET_MS = 0.8


class Counting:
    """A sink that keeps a count only: batching is measured elsewhere."""

    def __init__(self) -> None:
        self.tracks = 0

    def put(self, result: FrameResult) -> None:
        self.tracks += len(result.tracks)


@dataclass
class Cached:
    """A detector that has seen the clip before."""

    boxes: list[Detections]
    digest: str = "cached"

    def look(self, frame: Frame) -> Look:
        return Look(self.boxes[frame.index], self.digest, 0.0)


def settings(video: Path) -> CameraSettings:
    return CameraSettings("bench", str(video), pace="fast", start_time_s=0.0)


def detect_all(video: Path) -> tuple[list[Detections], Manifest]:
    draft = import_float(assets.pull("nanodet.json"), assets.pull("nanodet.bin"))
    manifest = draft.manifest
    runtime = CpuRuntime.start(draft.members[manifest.model.path])
    try:
        boxes = [
            decode(runtime.infer(make_input(f, manifest.input)), manifest, f.width, f.height)
            for f in open_source(settings(video)).frames()
        ]
    finally:
        runtime.close()
    return boxes, manifest


def run_pipeline(video: Path, boxes: list[Detections], manifest: Manifest) -> PipelineStats:
    rules = resources.files("camsdk.cli").joinpath("demo_rules.yaml").read_text()
    pipeline = Pipeline(
        "bench",
        open_source(settings(video)),
        Gate(),
        Cached(boxes),
        ByteTracker(),
        Zones(parse_rules(rules).for_camera("bench"), manifest.classes),
        Features(),
        Counting(),
    )
    pipeline.run(threading.Event())
    return pipeline.stats()


def decode_only(video: Path) -> int:
    with av.open(str(video)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def opencv_only(video: Path) -> int:
    capture, count = cv2.VideoCapture(str(video)), 0
    model = cv2.createBackgroundSubtractorMOG2()
    while True:
        is_read, picture = capture.read()
        if not is_read:
            return count
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        model.apply(cv2.resize(grey, None, fx=0.25, fy=0.25))
        count += 1


def best_ms(run: Callable[[Path], int], video: Path) -> float:
    """CPU milliseconds per frame of this process, best of ``RUNS``."""
    figures = []
    for _ in range(RUNS):
        started_s = time.process_time()
        count = run(video)
        figures.append(1000 * (time.process_time() - started_s) / count)
    return min(figures)


def as_h264(video: Path, folder: Path) -> Path:
    path = folder / "h264.mp4"
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        origin = source.streams.video[0]
        stream = target.add_stream("libx264", rate=Fraction(origin.average_rate or 10))
        stream.width, stream.height, stream.pix_fmt = origin.width, origin.height, "yuv420p"
        stream.options = {"crf": "23", "preset": "medium"}
        for index, frame in enumerate(source.decode(origin)):
            frame.pts, frame.time_base = index, 1 / stream.average_rate
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def measure(video: Path, boxes: list[Detections], manifest: Manifest) -> dict[str, object]:
    runs = [run_pipeline(video, boxes, manifest) for _ in range(RUNS)]
    best = min(runs, key=lambda stats: stats.cpu_ms_per_frame)
    stages = {s: round(1000 * cpu_s / best.frame_count, 3) for s, cpu_s in best.cpu_s.items()}
    decoding, opencv = best_ms(decode_only, video), best_ms(opencv_only, video)
    capture = stages["source"] + stages["gate"] + stages["sink"]
    return {
        "frames": best.frame_count,
        "open_share": round(best.open_frames / best.frame_count, 3),
        "stages_ms": {name: spent for name, spent in stages.items() if name != "detect"},
        "capture_ms": round(capture, 3),
        "all_ms": round(best.cpu_ms_per_frame, 3),
        "decode_ms": round(decoding, 3),
        "opencv_ms": round(opencv, 3),
        "all_over_decode": round(best.cpu_ms_per_frame / decoding, 2),
        "all_over_opencv": round(best.cpu_ms_per_frame / opencv, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="a clip; default vtest.avi")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    video = arguments.video or assets.pull("vtest.avi")
    boxes, manifest = detect_all(video)
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            "as it is": measure(video, boxes, manifest),
            "as H.264 crf 23": measure(as_h264(video, Path(folder)), boxes, manifest),
        }
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, row in figures.items():
        print(f"{name}:")
        for key, value in row.items():
            print(f"  {key:16} {value}")
    print(f"budgets: capture {CAPTURE_BUDGET_MS} ms, all stages {BUDGET_MS} ms a frame")


if __name__ == "__main__":
    main()
