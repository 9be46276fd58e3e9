"""``CameraWorker``: one camera's thread, from its source to the outbox, and back after a failure.

A recording keeps its session until it was read to its end: after a kill or a failure it is read
again from its start, identically, and the batcher drops what the outbox already has. A live source
begins a session with each connection.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from camagent.batch import Batcher, Losses
from camagent.config import AgentConfig, CameraSettings
from camagent.crops import Crops
from camagent.detect import Detect
from camagent.features import Features
from camagent.gate import Gate
from camagent.link import Backoff
from camagent.outbox import Outbox, Session
from camagent.pipeline import Pipeline
from camagent.shadow import CameraReport
from camagent.source import Presence, Source, is_recording, open_source, redact
from camagent.totals import CameraTotals
from camagent.track import ByteTracker
from camagent.zones import Zones
from camsdk.errors import CamError, SourceError
from camsdk.vision.rules import CameraRules

_log = logging.getLogger(__name__)

_MAX_RECORDING_FAILURES = 3  # a file that fails thrice will fail again
_POLL_S = 0.05


@dataclass(frozen=True)
class Watch:
    """What a camera looks for: its rules, and the names of the running model's classes."""

    rules: CameraRules
    class_names: tuple[str, ...]


class CameraWorker:
    """See the module. :meth:`run` is the body of its thread.

    Args:
        settings: Of the camera.
        config: Of the agent.
        outbox: Where results go.
        detect: Shared by all cameras.
        watch: What to look for, at the start.
        clock: Wall clock, for the start of a recording's session, seconds since the Unix epoch.

    Attributes:
        is_finished: A recording that was read to its end.
        failure: Why a recording was given up, or empty.
    """

    def __init__(
        self,
        settings: CameraSettings,
        config: AgentConfig,
        outbox: Outbox,
        detect: Detect,
        watch: Watch,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._config = config
        self._outbox = outbox
        self._detect = detect
        self._watch = watch
        self._clock = clock
        self._is_recording = is_recording(settings)
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None
        self._zones: Zones | None = None
        self._crops: Crops | None = None
        self._batcher: Batcher | None = None
        self._session = Session(0, 0.0)
        self._past = CameraTotals()
        self.is_finished = False
        self.failure = ""
        self._past_losses = Losses()

    @property
    def camera_id(self) -> str:
        """Of the settings."""
        return self._settings.camera_id

    @property
    def losses(self) -> Losses:
        """Dropped so far while the disk was full."""
        with self._lock:
            now = self._batcher.losses if self._batcher is not None else Losses()
            return self._past_losses + now

    def run(self, stop: threading.Event) -> None:
        """Reads the camera until its recording has ended or ``stop``; comes back from failures."""
        backoff = Backoff(first_s=0.25, cap_s=10.0)
        failures = 0
        while not (stop.is_set() or self.is_finished or self.failure):
            try:
                self._run_once(stop)
            except CamError as error:
                _log.error("camera %s: %s", self.camera_id, error)
                failures += 1
                is_over = self._is_recording and failures >= _MAX_RECORDING_FAILURES
                if is_over and self._config.exit_when_finished:
                    self.failure = str(error)
                else:
                    stop.wait(backoff.next_s())

    def configure(self, watch: Watch) -> None:
        """Has the camera look for something else from its next frame on."""
        with self._lock:
            self._watch = watch
            pipeline, zones, crops = self._pipeline, self._zones, self._crops
        if pipeline is None or zones is None or crops is None:
            return

        def apply() -> None:
            zones.configure(watch.rules, watch.class_names)
            crops.configure(watch.rules)

        pipeline.between_frames(apply)

    def flush_due(self, now_s: float) -> None:
        """Commits frames that have waited enough at ``now_s`` of the monotonic clock."""
        batcher = self._batcher
        if batcher is not None:
            batcher.flush_due(now_s)

    def report(self) -> CameraReport:
        """Figures since the agent's start."""
        with self._lock:
            stats = self._pipeline.stats() if self._pipeline is not None else None
            totals = self._past + stats if stats else self._past
        return CameraReport(
            camera_id=self.camera_id,
            is_online=stats.is_online if stats else False,
            frame_count=totals.frame_count,
            detector_calls=totals.detector_calls,
            reconnects=totals.reconnects,
            last_frame_timestamp_s=totals.last_frame_timestamp_s,
            cpu_ms_per_frame=totals.cpu_ms_per_frame,
            detector_cpu_ms=totals.detector_cpu_ms,
            dropped_frames=totals.dropped_frames,
            session=self._session.session,
            is_finished=self.is_finished,
            stage_cpu_s=totals.stage_cpu_s,
            runtime_cpu_s=totals.runtime_cpu_s,
        )

    def _run_once(self, stop: threading.Event) -> None:
        """One opening of the source.

        Raises:
            CamError: the source or the disk fails.
        """
        if self._is_recording:
            key = self._recording_key()
            if self._outbox.is_finished(self.camera_id, key) and not self._settings.is_repeated:
                _log.info("camera %s: the recording was read before", self.camera_id)
                self.is_finished = True
                return
            if not self._wait_for_model(stop):
                return
            self._session = self._next_session(key)
            _log.info("camera %s: the recording begins", self.camera_id)
        source = open_source(self._settings, start_s=self._session.start_s)
        try:
            frame_count = self._run_pipeline(source, stop)
        finally:
            source.close()
        if self._is_recording and source.is_finished:
            self._outbox.finish_session(self.camera_id, self._session.session)
            _log.info("camera %s: the recording ended, %d frames", self.camera_id, frame_count)
            self.is_finished = True

    def _run_pipeline(self, source: Source, stop: threading.Event) -> int:
        """Reads a source until it ends; returns how many frames it had."""
        batcher = Batcher(self._outbox, self.camera_id, self._session, self._config.outbox)

        def begin_session(presence: Presence) -> None:
            if presence.is_online:
                self._session = self._next_session(redact(self._settings.source))
                batcher.begin(self._session)

        source.subscribe(begin_session)  # before the pipeline, so that its first event is in it
        with self._lock:
            zones = Zones(self._watch.rules, self._watch.class_names)
            crops = Crops(self._watch.rules)
            pipeline = Pipeline(
                self.camera_id,
                source,
                Gate(),
                self._detect,
                ByteTracker(),
                zones,
                Features(),
                batcher,
                crops=crops,
                detect_every=self._settings.detect_every,
            )
            self._zones, self._crops = zones, crops
            self._pipeline, self._batcher = pipeline, batcher
        try:
            pipeline.run(stop)
        finally:
            batcher.close()
            with self._lock:
                self._past_losses += batcher.losses
                self._past += pipeline.stats()
                self._zones = self._crops = self._pipeline = self._batcher = None
        return pipeline.stats().frame_count

    def _next_session(self, source_key: str) -> Session:
        start_s = self._settings.start_time_s
        return self._outbox.next_session(
            self.camera_id,
            source_key,
            self._is_recording,
            self._clock() if start_s is None else start_s,
            self._settings.is_repeated,
        )

    def _recording_key(self) -> str:
        """What makes two openings the same recording: the file as it is, and its stated start."""
        path = Path(self._settings.source)
        try:
            info = path.stat()
        except OSError as error:
            raise SourceError(
                f"the recording {path} cannot be opened: {error.strerror}", "check its path"
            ) from error
        return f"{path}|{info.st_size}|{info.st_mtime_ns}|{self._settings.start_time_s}"

    def _wait_for_model(self, stop: threading.Event) -> bool:
        """Holds a recording back until a detector is in place; False when stopped meanwhile."""
        if not self._config.recordings_wait_for_model:
            return True
        while not self._detect.digest:
            if stop.wait(_POLL_S):
                return False
        return True
