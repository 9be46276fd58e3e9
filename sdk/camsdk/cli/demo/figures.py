"""What the demo measured, as one value: for people a table, for programs one JSON object."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from rich.table import Table

from camsdk.cli.demo.h264 import EncodedClip

SMALL_KINDS: Final = ("tracks", "embeddings", "envelope")
"""What is compared with video: boxes and appearance codes, with what names camera and model in each
batch. ``ratio_to_h264_all`` has events and pictures too."""

_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Latency:
    """Camera to subscriber: from a frame's capture time to the event in the application.

    Attributes:
        p50_ms, p95_ms: Percentiles, milliseconds; None without an event.
        event_count: Events behind them.
        pace: Always ``realtime``: as fast as it goes, a recording has no capture time.
    """

    p50_ms: float | None
    p95_ms: float | None
    event_count: int
    pace: str = "realtime"

    @staticmethod
    def of(samples_s: Sequence[float]) -> "Latency":
        """Percentiles of delays in seconds."""
        if not samples_s:
            return Latency(None, None, 0)
        p50, p95 = np.percentile(np.asarray(samples_s) * 1e3, [50, 95])
        return Latency(round(float(p50), 1), round(float(p95), 1), len(samples_s))


@dataclass(frozen=True)
class Memory:
    """Resident memory of the agent, MiB; ``peak`` is the largest of samples taken from outside.

    Attributes:
        idle_mib: Agent with cameras and connections, before it has a model.
        peak_mib: Agent and its model process together while it works; shared pages count twice.
        peak_model_mib: The model process alone.
    """

    idle_mib: float
    peak_mib: float
    peak_model_mib: float

    @staticmethod
    def of(idle_bytes: int, samples: Sequence[Mapping[str, int]]) -> "Memory":
        """From samples of ``CamctlProcess.rss_bytes``."""
        peak = max((s["process"] + s["children"] for s in samples), default=0)
        model = max((s["children"] for s in samples), default=0)
        return Memory(*(round(value / _MIB, 1) for value in (idle_bytes, peak, model)))


@dataclass(frozen=True)
class DemoFigures:
    """All that ``camctl demo`` reports.

    Attributes:
        frames: Of the clip that went through the agent.
        detector_calls_per_frame: Calls over frames.
        cpu_ms_per_frame_without_detector: Whole agent process (decoding, stages, batching, outbox,
            upload) less its detect stage, CPU milliseconds.
        cpu_ms_per_frame_with_detector: Agent and model process together, CPU milliseconds.
        entries: Persons over the line by direction.
        events_by_kind: Stored in the cloud.
        bytes_by_kind: Shipped, as the cloud counted them.
        h264: The same clip as video.
        ratio_to_h264: H.264 bytes over bytes of tracks, embeddings and their envelopes.
        ratio_to_h264_all: H.264 bytes over everything shipped.
        latency: Camera to subscriber at real pace.
        reconnects: Of the cameras' sources.
        dropped_frames: By full queues.
        memory: Of the agent.
        model: Name, digest and what was measured when it was made.
        model_digest_by_device: What each device says that it runs.
        rollout: Id, state and executions.
        search: Query event, the picture cut from its frame, and the tracks that look like it.
        duration_s: Of the demo, downloads apart.
        files: What it left on disk.
    """

    frames: int
    detector_calls_per_frame: float
    cpu_ms_per_frame_without_detector: float
    cpu_ms_per_frame_with_detector: float
    entries: Mapping[str, int]
    events_by_kind: Mapping[str, int]
    bytes_by_kind: Mapping[str, int]
    h264: EncodedClip
    ratio_to_h264: float
    ratio_to_h264_all: float
    latency: Latency
    reconnects: int
    dropped_frames: int
    memory: Memory
    model: Mapping[str, Any]
    model_digest_by_device: Mapping[str, str]
    rollout: Mapping[str, Any]
    search: Mapping[str, Any]
    duration_s: float
    files: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values under the attributes' names."""
        return asdict(self)

    def headline(self) -> list[tuple[str, str]]:
        """The four figures of the contact sheet: value and meaning."""
        p95 = self.latency.p95_ms
        return [
            (f"{self.entries['in']} in · {self.entries['out']} out", "persons over the line"),
            (f"{self.cpu_ms_per_frame_without_detector:.2f} ms", "CPU a frame, without detector"),
            (f"{self.ratio_to_h264:.0f} x", f"smaller than H.264 crf {self.h264.crf}"),
            ("–" if p95 is None else f"{p95:.0f} ms", "camera to subscriber, p95"),
        ]

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title="What the camera saw and what it cost", show_header=False)
        table.add_column(style="bold")
        table.add_column()
        for name, value in self._rows():
            table.add_row(name, value)
        return table

    def _rows(self) -> list[tuple[str, str]]:
        latency, memory = self.latency, self.memory
        shipped = sum(self.bytes_by_kind.values())
        kinds = ", ".join(f"{kind} {size:,}" for kind, size in self.bytes_by_kind.items() if size)
        events = ", ".join(f"{kind} {count}" for kind, count in self.events_by_kind.items())
        devices = ", ".join(f"{name} {d[:12]}" for name, d in self.model_digest_by_device.items())
        delay = (
            "no event at real pace"
            if latency.p50_ms is None
            else f"p50 {latency.p50_ms:.0f} ms, p95 {latency.p95_ms:.0f} ms"
            f" ({latency.event_count} events at real pace)"
        )
        return [
            ("persons over the line", f"{self.entries['in']} in, {self.entries['out']} out"),
            ("events", events or "none"),
            ("frames", f"{self.frames}, {self.detector_calls_per_frame:.2f} detector calls each"),
            (
                "CPU a frame",
                f"{self.cpu_ms_per_frame_without_detector:.2f} ms without,"
                f" {self.cpu_ms_per_frame_with_detector:.1f} ms with the detector",
            ),
            ("shipped", f"{shipped:,} bytes: {kinds}"),
            (
                f"as H.264 crf {self.h264.crf} ({self.h264.preset})",
                f"{self.h264.size_bytes:,} bytes: {self.ratio_to_h264:.0f} x boxes and"
                f" codes, {self.ratio_to_h264_all:.0f} x everything shipped",
            ),
            ("camera to subscriber", delay),
            ("reconnects, dropped frames", f"{self.reconnects}, {self.dropped_frames}"),
            (
                "agent memory",
                f"{memory.idle_mib:.0f} MiB without a model, {memory.peak_mib:.0f} MiB with it"
                f" ({memory.peak_model_mib:.0f} of them in the model's process)",
            ),
            ("model", f"{self.model['reference']}, sha256 {self.model['digest'][:12]}"),
            ("on each device", devices),
            ("who looks like the first of them", self._look_alikes()),
            ("rollout", f"{self.rollout['rollout_id']}: {self.rollout['state']}"),
            ("took", f"{self.duration_s:.0f} s, downloads apart"),
        ]

    def _look_alikes(self) -> str:
        hits = self.search["hits"]
        if not hits:
            return "nobody was searched for"
        shown = ", ".join(
            f"{hit['camera_id']} track {hit['track_id']} ({hit['similarity']:.2f})"
            for hit in hits[:3]
        )
        return f"{shown}; by {self.search['method']}"
