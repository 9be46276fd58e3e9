"""Figures of one pipeline: what it saw, and what each stage cost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Stage = Literal["source", "gate", "detect", "track", "zones", "crops", "features", "sink"]
STAGES: Final[tuple[Stage, ...]] = (
    "source",
    "gate",
    "detect",
    "track",
    "zones",
    "crops",
    "features",
    "sink",
)


@dataclass(frozen=True)
class PipelineStats:
    """A snapshot.

    Attributes:
        frame_count: Frames that came out of the source and went through.
        open_frames: Frames at which the gate was open.
        skipped_frames: Frames of which nothing is known: damaged, or left out by ``detect_every``.
        detector_calls: Frames that a detector saw or failed on.
        detector_failures: Frames on which the runtime failed.
        last_frame_timestamp_s: Capture time of the latest result, 0 before the first.
        cpu_s: CPU seconds by stage, of this process. ``detect`` holds the making of inputs and the
            decoding of outputs; ``source`` the decoding of video, in whichever thread.
        runtime_cpu_s: CPU seconds of the detector's runtime in its own process.
        is_online, is_finished, reconnects, dropped_frames, undecodable_packets: Of the source.
    """

    frame_count: int
    open_frames: int
    skipped_frames: int
    detector_calls: int
    detector_failures: int
    last_frame_timestamp_s: float
    cpu_s: Mapping[Stage, float]
    runtime_cpu_s: float
    is_online: bool
    is_finished: bool
    reconnects: int
    dropped_frames: int
    undecodable_packets: int

    @property
    def cpu_ms_per_frame(self) -> float:
        """CPU milliseconds per frame without the detector."""
        spent_s = sum(cpu for stage, cpu in self.cpu_s.items() if stage != "detect")
        return 1000.0 * spent_s / max(1, self.frame_count)

    @property
    def detector_cpu_ms(self) -> float:
        """CPU milliseconds per detector call, making of inputs and decoding included."""
        spent_s = self.cpu_s["detect"] + self.runtime_cpu_s
        return 1000.0 * spent_s / max(1, self.detector_calls)


class StageClock:
    """Counts frames and charges the CPU time of the pipeline's thread to its stages.

    Written by that thread only; ``snapshot`` may be called from any.
    """

    def __init__(self) -> None:
        self.frame_count = 0
        self.open_frames = 0
        self.skipped_frames = 0
        self.detector_calls = 0
        self.detector_failures = 0
        self.last_frame_timestamp_s = 0.0
        self.runtime_cpu_s = 0.0
        self._cpu_s: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._mark_s = 0.0

    def start(self) -> None:
        """Begin to measure; call it in the pipeline's thread."""
        self._mark_s = time.thread_time()

    def lap(self, stage: Stage) -> None:
        """Charge to ``stage`` what has been spent since the last call."""
        now_s = time.thread_time()
        self._cpu_s[stage] += now_s - self._mark_s
        self._mark_s = now_s

    def snapshot(
        self,
        *,
        is_online: bool,
        is_finished: bool,
        reconnects: int,
        dropped_frames: int,
        undecodable_packets: int,
        source_thread_cpu_s: float,
    ) -> PipelineStats:
        """Figures so far, with those of the source."""
        cpu_s = dict(self._cpu_s)
        cpu_s["source"] += source_thread_cpu_s
        return PipelineStats(
            frame_count=self.frame_count,
            open_frames=self.open_frames,
            skipped_frames=self.skipped_frames,
            detector_calls=self.detector_calls,
            detector_failures=self.detector_failures,
            last_frame_timestamp_s=self.last_frame_timestamp_s,
            cpu_s=MappingProxyType(cpu_s),
            runtime_cpu_s=self.runtime_cpu_s,
            is_online=is_online,
            is_finished=is_finished,
            reconnects=reconnects,
            dropped_frames=dropped_frames,
            undecodable_packets=undecodable_packets,
        )
