"""One camera's pipeline in this process: a clip in, everything that would be shipped out."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from camagent.config import CameraSettings
from camagent.detect import Detect, Detector
from camagent.features import Features
from camagent.gate import Gate
from camagent.pipeline import Pipeline
from camagent.runtimes.cpu import CpuRuntime
from camagent.source import open_source
from camagent.stats import PipelineStats
from camagent.track import ByteTracker
from camagent.zones import Zones
from camsdk.artifact.manifest import Manifest
from camsdk.vision.results import Event, FrameResult
from camsdk.vision.rules import CameraRules
from support.frame_results import Recorder

START_S = 1_700_000_000.0


@dataclass(frozen=True)
class Watched:
    """What a camera made of a clip.

    Attributes:
        results: Of every frame, in order, and the closing one.
        stats: What the stages cost.
    """

    results: list[FrameResult]
    stats: PipelineStats

    @property
    def events(self) -> list[Event]:
        """All events, in order."""
        return [event for result in self.results for event in result.events]


def watch(
    clip: Path, detector: tuple[Manifest, Mapping[str, bytes]], rules: CameraRules
) -> Watched:
    """Plays a recording through the real stages and the real model process."""
    manifest, members = detector
    (model,) = [members[file.path] for file in manifest.members if file.format == "onnx"]
    recorder = Recorder()
    runtime = CpuRuntime.start(model)
    source = open_source(CameraSettings("gate", str(clip), pace="fast"), start_s=START_S)
    pipeline = Pipeline(
        "gate", source, Gate(), Detect(Detector(manifest, runtime, "digest")), ByteTracker(),
        Zones(rules, manifest.classes), Features(), recorder,
    )  # fmt: skip
    try:
        pipeline.run(threading.Event())
    finally:
        source.close()
        runtime.close()
    return Watched(recorder.results, pipeline.stats())
