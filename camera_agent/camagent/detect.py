"""The detector that runs now, and how another takes its place without losing a frame.

A frame is seen by exactly one detector: ``look`` takes a lease on the current one, ``swap`` puts a
new one in place at once and returns the old when its last lease has ended, so that the caller may
close its runtime. Several cameras may share one ``Detect``.

All knowledge of inputs and outputs comes from the artifact's manifest. What reads it is imported
with the first look: pydantic takes 8 MiB, which an agent without a model saves.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from camagent.runtimes.base import Runtime
from camsdk.errors import InvalidInput, RuntimeFailure
from camsdk.vision.frames import Frame
from camsdk.vision.results import Detections

if TYPE_CHECKING:
    from camsdk.artifact.manifest import Manifest

_LATENCIES_KEPT = 64


@dataclass(frozen=True)
class Detector:
    """An artifact that is ready to run.

    Attributes:
        manifest: What it expects and gives.
        runtime: Runs it.
        digest: Of the artifact, sha256 in hexadecimal.
    """

    manifest: "Manifest"
    runtime: Runtime
    digest: str


@dataclass(frozen=True, eq=False)
class Look:
    """What one detector saw in one frame.

    Attributes:
        detections: In pixels of the frame.
        digest: Artifact that saw them.
        runtime_cpu_s: CPU time of the runtime's own process for it, seconds.
    """

    detections: Detections
    digest: str
    runtime_cpu_s: float


@dataclass(frozen=True)
class DetectorHealth:
    """How the current detector has done since it took its place.

    Attributes:
        digest: Empty without a detector.
        calls: Frames looked at, failed ones included.
        failures: Frames for which the runtime failed.
        median_latency_ms: Wall time of the latest looks, 0 without any.
        last_failure: Message of the latest failure, or empty.
    """

    digest: str = ""
    calls: int = 0
    failures: int = 0
    median_latency_ms: float = 0.0
    last_failure: str = ""


@dataclass(eq=False)
class _Slot:
    """A detector with its leases and its record."""

    detector: Detector
    leases: int = 0
    calls: int = 0
    failures: int = 0
    last_failure: str = ""
    runtime_cpu_s: float = 0.0
    turn: threading.Lock = field(default_factory=threading.Lock)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES_KEPT))


class Detect:
    """The ``detect`` stage. Safe to use from several threads."""

    def __init__(self, detector: Detector | None = None) -> None:
        self._slot = _slot(detector)
        self._changed = threading.Condition()

    @property
    def digest(self) -> str:
        """Of the current detector, or empty."""
        slot = self._slot
        return slot.detector.digest if slot else ""

    def __call__(self, frame: Frame) -> Detections:
        """Detections of a frame, in its pixels; none without a detector.

        Raises:
            RuntimeFailure: The runtime failed on this frame.
        """
        look = self.look(frame)
        return look.detections if look else Detections.empty()

    def look(self, frame: Frame) -> Look | None:
        """As a call, with who saw it and what it cost; None without a detector.

        Raises:
            RuntimeFailure: The runtime failed on this frame.
        """
        with self._lease() as slot:
            if slot is None:
                return None
            started_s = time.monotonic()
            try:
                look = _look(slot, frame)
            except RuntimeFailure as error:
                self._record(slot, started_s, error)
                raise
            self._record(slot, started_s, None)
            return look

    def swap(self, new: Detector | None) -> Detector | None:
        """Put a detector (or none) in place; frames from now on are seen by it.

        Returns:
            The one before, which no frame uses any more. Waits for looks that are under way, so
            at most for the runtime's own deadline.
        """
        slot = _slot(new)
        with self._changed:
            old, self._slot = self._slot, slot
            if old is None:
                return None
            self._changed.wait_for(lambda: old.leases == 0)
            return old.detector

    def health(self) -> DetectorHealth:
        """Record of the current detector."""
        with self._changed:
            slot = self._slot
            if slot is None:
                return DetectorHealth()
            latencies = sorted(slot.latencies_ms)
            return DetectorHealth(
                digest=slot.detector.digest,
                calls=slot.calls,
                failures=slot.failures,
                median_latency_ms=latencies[len(latencies) // 2] if latencies else 0.0,
                last_failure=slot.last_failure,
            )

    @contextmanager
    def _lease(self) -> Iterator[_Slot | None]:
        with self._changed:
            slot = self._slot
            if slot is not None:
                slot.leases += 1
        try:
            yield slot
        finally:
            if slot is not None:
                with self._changed:
                    slot.leases -= 1
                    if slot.leases == 0:
                        self._changed.notify_all()

    def _record(self, slot: _Slot, started_s: float, error: RuntimeFailure | None) -> None:
        latency_ms = (time.monotonic() - started_s) * 1000.0
        with self._changed:
            slot.calls += 1
            slot.latencies_ms.append(latency_ms)
            if error is not None:
                slot.failures += 1
                slot.last_failure = error.message


def _slot(detector: Detector | None) -> _Slot | None:
    if detector is None:
        return None
    return _Slot(detector, runtime_cpu_s=detector.runtime.cpu_time_s)


def _look(slot: _Slot, frame: Frame) -> Look:
    from camsdk.artifact.decode import decode
    from camsdk.artifact.preprocess import make_input

    detector = slot.detector
    tensor = make_input(frame, detector.manifest.input)
    with slot.turn:  # one at a time, so that CPU time goes to the frame that cost it
        try:
            outputs = detector.runtime.infer(tensor)
        except InvalidInput as error:
            raise RuntimeFailure(
                f"the model does not take what its manifest says: {error.message}",
                "the model and its manifest do not belong together",
            ) from error
        runtime_cpu_s = detector.runtime.cpu_time_s
        spent_s = max(0.0, runtime_cpu_s - slot.runtime_cpu_s)
        slot.runtime_cpu_s = runtime_cpu_s
    detections = decode(outputs, detector.manifest, frame.width, frame.height)
    return Look(detections, detector.digest, spent_s)
