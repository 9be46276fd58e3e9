"""``AgentStatus``: the figures of a running agent as one JSON object.

For people, for monitoring and for the demo.
"""

import json
import logging
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from camagent.outbox import OutboxStats
from camagent.shadow import CameraReport, Report
from camagent.upload import UploadStats
from camsdk.files import write_atomic

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessFigures:
    """What the agent costs.

    Attributes:
        rss_bytes, peak_rss_bytes: Of the agent's own process.
        agent_cpu_s: Of the agent's own process since it began to work, user and system.
        startup_cpu_s: Before that: starting Python and loading the libraries.
        runtime_rss_bytes, runtime_cpu_s: Of the model's process, 0 without one.
    """

    rss_bytes: int
    peak_rss_bytes: int
    agent_cpu_s: float
    startup_cpu_s: float
    runtime_rss_bytes: int = 0
    runtime_cpu_s: float = 0.0

    @staticmethod
    def now(
        startup_cpu_s: float, runtime_rss_bytes: int = 0, runtime_cpu_s: float = 0.0
    ) -> "ProcessFigures":
        """Figures of this moment; ``startup_cpu_s`` is the process' CPU when work began."""
        return ProcessFigures(
            rss_bytes=psutil.Process().memory_info().rss,
            peak_rss_bytes=_peak_rss_bytes(),
            agent_cpu_s=time.process_time() - startup_cpu_s,
            startup_cpu_s=startup_cpu_s,
            runtime_rss_bytes=runtime_rss_bytes,
            runtime_cpu_s=runtime_cpu_s,
        )


@dataclass(frozen=True)
class AgentStatus:
    """All figures.

    Attributes:
        device_id, fleet, pid: Which agent.
        timestamp_s: When, seconds since the Unix epoch.
        is_connected: Whether the cloud answers on both streams.
        is_revoked: Whether the cloud has said so.
        certificate_expires_timestamp_s: End of the certificate's life.
        shadow_reconnects: Streams to the shadow that were opened after the first.
        lost_frames, lost_events, lost_crops: Dropped while the disk was full.
        report: What the cloud is told.
    """

    device_id: str
    fleet: str
    pid: int
    timestamp_s: float
    is_connected: bool
    is_revoked: bool
    certificate_expires_timestamp_s: float
    shadow_reconnects: int
    lost_frames: int
    lost_events: int
    lost_crops: int
    report: Report
    outbox: OutboxStats
    upload: UploadStats
    process: ProcessFigures

    def to_dict(self) -> dict[str, Any]:
        """Plain values, one level deep but for the groups; ``totals`` sums up the cameras."""
        values = asdict(self)
        report = values.pop("report")
        update = report.pop("update")
        process = values.pop("process")
        cameras = [
            camera | {"detect_cpu_s": camera["stage_cpu_s"].get("detect", 0.0)}
            for camera in report.pop("cameras")
        ]
        return {
            **{name: value for name, value in values.items() if not isinstance(value, dict)},
            "running_digest": update["running_digest"],
            "running_name": update["running_name"],
            **process,
            "rules_digest": report["rules_digest"],
            "hardware": report["hardware"],
            "agent_version": report["agent_version"],
            "totals": totals(self.report.cameras),
            "cameras": cameras,
            "update": update,
            "outbox": values["outbox"],
            "upload": values["upload"],
        }


def totals(cameras: tuple[CameraReport, ...]) -> Mapping[str, float | bool]:
    """Sums over cameras; means are weighted by frames and by detector calls."""
    frames = sum(camera.frame_count for camera in cameras)
    calls = sum(camera.detector_calls for camera in cameras)
    cpu_ms = sum(camera.cpu_ms_per_frame * camera.frame_count for camera in cameras)
    detector_ms = sum(camera.detector_cpu_ms * camera.detector_calls for camera in cameras)
    return {
        "frames": frames,
        "detector_calls": calls,
        "detector_calls_per_frame": calls / max(1, frames),
        "cpu_ms_per_frame_without_detector": cpu_ms / max(1, frames),
        "cpu_ms_per_frame_with_detector": (cpu_ms + detector_ms) / max(1, frames),
        "detector_cpu_ms": detector_ms / max(1, calls),
        "reconnects": sum(camera.reconnects for camera in cameras),
        "dropped_frames": sum(camera.dropped_frames for camera in cameras),
        "is_finished": all(camera.is_finished for camera in cameras),
    }


def _peak_rss_bytes() -> int:
    """Of this program. On Linux not from getrusage(2): that keeps what the process was before."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    lines = (line.split() for line in status.splitlines())
    return next((int(line[1]) * 1024 for line in lines if line[:1] == ["VmHWM:"]), 0)


class StatusFile:
    """The figures on disk; a disk that fails costs the file, never the agent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_failing = False

    def write(self, status: AgentStatus) -> None:
        """Replaces the file; a failure is said once until it works again."""
        try:
            write_atomic(self._path, json.dumps(status.to_dict(), indent=1).encode(), mode=None)
        except OSError as error:
            if not self._is_failing:
                _log.warning("the status file %s is not written: %s", self._path, error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False
