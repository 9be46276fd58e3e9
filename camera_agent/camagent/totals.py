"""``CameraTotals``: figures of one camera over all the pipelines that it has had."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from camagent.stats import STAGES, PipelineStats


@dataclass(frozen=True)
class CameraTotals:
    """Sums; ``totals + stats`` adds those of one more pipeline.

    Attributes:
        last_frame_timestamp_s: Capture time of the latest result, 0 before the first.
        runtime_cpu_s: CPU seconds of the model's process.
        stage_cpu_s: CPU seconds of the agent by stage.
    """

    frame_count: int = 0
    detector_calls: int = 0
    dropped_frames: int = 0
    reconnects: int = 0
    last_frame_timestamp_s: float = 0.0
    runtime_cpu_s: float = 0.0
    stage_cpu_s: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def __add__(self, stats: PipelineStats) -> "CameraTotals":
        return CameraTotals(
            frame_count=self.frame_count + stats.frame_count,
            detector_calls=self.detector_calls + stats.detector_calls,
            dropped_frames=self.dropped_frames + stats.dropped_frames,
            reconnects=self.reconnects + stats.reconnects,
            last_frame_timestamp_s=stats.last_frame_timestamp_s or self.last_frame_timestamp_s,
            runtime_cpu_s=self.runtime_cpu_s + stats.runtime_cpu_s,
            stage_cpu_s={name: self.stage_cpu_s[name] + stats.cpu_s[name] for name in STAGES},
        )

    @property
    def cpu_ms_per_frame(self) -> float:
        """CPU milliseconds per frame without the detector."""
        spent_s = sum(cpu_s for name, cpu_s in self.stage_cpu_s.items() if name != "detect")
        return 1000 * spent_s / max(1, self.frame_count)

    @property
    def detector_cpu_ms(self) -> float:
        """CPU milliseconds per detector call, both processes."""
        if not self.detector_calls:
            return 0.0
        return 1000 * (self.stage_cpu_s["detect"] + self.runtime_cpu_s) / self.detector_calls
