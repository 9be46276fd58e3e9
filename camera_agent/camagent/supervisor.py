"""``Agent``: all parts of one device, started in order, watched, stopped in order.

Threads: one a camera, and one each for the uploader, the shadow, the updater and the clock of the
batches; the caller's thread watches. A thread that dies of our own mistake ends the agent: whoever
started it (systemd, Kubernetes, the demo) starts it again, and nothing committed is lost by that.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

import cv2

from camagent.batch import Losses
from camagent.camera import CameraWorker, Watch
from camagent.config import AgentConfig
from camagent.detect import Detect
from camagent.folder_lock import FolderLock
from camagent.identity import load_identity
from camagent.link import CloudLink
from camagent.outbox import Outbox
from camagent.rulebook import RuleBook
from camagent.runtimes.base import Runtime
from camagent.shadow import Desired, Report, Shadow
from camagent.slots import Slots
from camagent.status import AgentStatus, ProcessFigures, StatusFile
from camagent.updater import Updater
from camagent.upload import Uploader
from camsdk import __version__
from camsdk.errors import InternalError, SourceError

_log = logging.getLogger(__name__)

_WATCH_S: Final = 0.2
_STATUS_S: Final = 1.0
_BATCH_POLL_S: Final = 0.05
_JOIN_S: Final = 10.0  # the longest inference, a farewell to the cloud, a read timeout


class Agent:
    """An enrolled device at work. :meth:`run` blocks; everything else may be called meanwhile.

    Args:
        config: Of the agent; its ``data_dir`` holds an identity.
        start_runtime: Loads a model.

    Raises:
        NotFound: the device is not enrolled.
        Conflict: another agent uses its folder.
        CamError: the identity, the outbox, the artifacts or the rules cannot be read.
    """

    def __init__(self, config: AgentConfig, start_runtime: Callable[[bytes], Runtime]) -> None:
        self._config = config
        self._startup_cpu_s = time.process_time()
        self._status_file = StatusFile(config.status_file) if config.status_file else None
        self._status_due_s = float("-inf")
        self._stop = threading.Event()
        self._broken = ""
        self._is_revoked = False
        self._desired = Desired()
        self._class_names: tuple[str, ...] = ()
        self._configuring = threading.Lock()
        self._book = RuleBook(config.data_dir, config.rules)
        self._detect = Detect()
        identity = load_identity(config.data_dir)
        self._lock = FolderLock(config.data_dir)
        slots = Slots(config.data_dir / "artifacts")
        self._link = CloudLink(identity, config.data_dir)
        self._outbox = Outbox(config.data_dir / "outbox.db", config.outbox.max_bytes)
        self._uploader = Uploader(self._outbox, self._link)
        self._shadow = Shadow(self._link, self._report, self._take, config.report_interval_s)
        self._updater = Updater(
            self._link, slots, self._detect, start_runtime, config.update, self._on_update
        )
        self._workers = tuple(
            CameraWorker(camera, config, self._outbox, self._detect, self._watch(camera.camera_id))
            for camera in config.cameras
        )

    def run(self, stop: threading.Event) -> AgentStatus:
        """Works until ``stop``, or until all recordings are done if the configuration says so.

        Returns:
            The last figures.

        Raises:
            SourceError: a recording was given up.
            InternalError: a part of the agent has died of our own mistake.
        """
        cv2.setNumThreads(0)  # cameras run side by side: its pool costs 0.4 ms of CPU a frame
        cameras = [
            self._start(f"camera-{worker.camera_id}", worker.run, self._stop)
            for worker in self._workers
        ]
        cloud = [
            self._start("uploader", self._uploader.run),
            self._start("shadow", self._shadow.run),
        ]
        updater = self._start("updater", self._updater.run)
        clock = self._start("batch-clock", self._run_batch_clock)
        try:
            while not (stop.wait(_WATCH_S) or self._stop.is_set() or self._is_done()):
                self._watch_over()
        finally:
            self._stop.set()
            _join([*cameras, clock])
            self._shadow.poke()
            self._uploader.stop()
            self._shadow.stop()
            last = self._write_status()
            self._updater.stop()
            self._link.close()
            _join([*cloud, updater])
            self._outbox.close()
            self._lock.release()
        self._raise_what_broke()
        reason = "told to stop" if stop.is_set() else "all recordings are read and shipped"
        _log.info("leaving: %s, %d batches wait for the cloud", reason, last.outbox.depth)
        return last

    def status(self) -> AgentStatus:
        """Figures of now."""
        identity = self._link.identity
        upload = self._uploader.stats()
        detector = self._updater.detector
        losses = self._losses()
        return AgentStatus(
            device_id=identity.device_id,
            fleet=identity.fleet,
            pid=os.getpid(),
            timestamp_s=time.time(),
            is_connected=upload.is_connected and self._shadow.is_connected,
            is_revoked=self._is_revoked,
            certificate_expires_timestamp_s=identity.not_after_s,
            shadow_reconnects=max(0, self._shadow.reconnects),
            lost_frames=losses.frames,
            lost_events=losses.events,
            lost_crops=losses.crops,
            report=self._report(),
            outbox=self._outbox.stats(),
            upload=upload,
            process=ProcessFigures.now(
                self._startup_cpu_s,
                detector.runtime.rss_bytes if detector else 0,
                detector.runtime.cpu_time_s if detector else 0.0,
            ),
        )

    def _start(self, name: str, target: Callable[..., None], *args: object) -> threading.Thread:
        def body() -> None:
            try:
                target(*args)
            except BaseException:
                self._broken = name
                self._stop.set()
                raise  # shown by threading.excepthook

        thread = threading.Thread(target=body, name=name, daemon=True)
        thread.start()
        return thread

    def _is_done(self) -> bool:
        """Whether there is nothing left to do for an agent that may leave."""
        if any(worker.failure for worker in self._workers):
            return True
        return (
            self._config.exit_when_finished
            and all(worker.is_finished for worker in self._workers)
            and not self._updater.is_busy
            and self._outbox.stats().depth == 0
        )

    def _watch_over(self) -> None:
        """What is done a few times a second: renewal, status."""
        if self._link.renew_if_due():
            self._uploader.wake()
            self._shadow.poke()
        if self._status_file is not None and time.monotonic() >= self._status_due_s:
            self._status_due_s = time.monotonic() + _STATUS_S
            self._write_status()

    def _write_status(self) -> AgentStatus:
        status = self.status()
        if self._status_file is not None:
            self._status_file.write(status)
        return status

    def _run_batch_clock(self) -> None:
        """Has batches leave in time: what would be due before the next look leaves now."""
        poll_s = max(_BATCH_POLL_S, self._config.outbox.batch_wait_s / 8)
        while not self._stop.wait(poll_s):
            for worker in self._workers:
                worker.flush_due(time.monotonic() + poll_s)

    def _take(self, desired: Desired) -> None:
        """A wish of the cloud: rules at once, so that a new artifact runs under them."""
        if desired.is_revoked and not self._is_revoked:
            _log.error(
                "this device has been revoked: enrol it again with a new token and --replace"
            )
        self._is_revoked = desired.is_revoked
        if desired.rules_yaml and desired.rules_digest != self._desired.rules_digest:
            if self._book.take(desired.rules_yaml):
                self._configure_cameras()
            self._shadow.poke()
        self._desired = desired
        self._updater.want(desired)

    def _on_update(self) -> None:
        detector = self._updater.detector
        class_names = detector.manifest.classes if detector else ()
        if class_names and class_names != self._class_names:
            self._class_names = class_names
            self._configure_cameras()
        self._shadow.poke()

    def _configure_cameras(self) -> None:
        # Rules come in one thread, a model's classes in another: whoever is last reads both.
        with self._configuring:
            for worker in self._workers:
                worker.configure(self._watch(worker.camera_id))

    def _watch(self, camera_id: str) -> Watch:
        return Watch(self._book.rules.for_camera(camera_id), self._class_names)

    def _losses(self) -> Losses:
        return sum((worker.losses for worker in self._workers), start=Losses())

    def _report(self) -> Report:
        outbox, upload = self._outbox.stats(), self._uploader.stats()
        detector, losses = self._updater.detector, self._losses()
        figures = ProcessFigures.now(
            self._startup_cpu_s, detector.runtime.rss_bytes if detector else 0
        )
        return Report(
            update=self._updater.report,
            cameras=tuple(worker.report() for worker in self._workers),
            desired_version=self._updater.handled_version,
            rules_digest=self._book.rules.digest,
            hardware=self._link.identity.hardware,
            agent_version=__version__,
            metrics={
                "rss_bytes": figures.rss_bytes,
                "runtime_rss_bytes": figures.runtime_rss_bytes,
                "cpu_s": figures.agent_cpu_s,
                "outbox_depth": outbox.depth,
                "outbox_bytes": outbox.waiting_bytes,
                "dropped_batches": outbox.dropped_batches,
                "dropped_frames": outbox.dropped_frames,
                "dropped_events": outbox.dropped_events,
                "lost_frames": losses.frames,
                "lost_events": losses.events,
                "lost_crops": losses.crops,
                "upload_reconnects": upload.reconnects,
                "uploaded_bytes": upload.sent_bytes,
            },
        )

    def _raise_what_broke(self) -> None:
        if self._broken:
            raise InternalError(f"the agent's {self._broken} broke off", "its log says why")
        for worker in self._workers:
            if worker.failure:
                raise SourceError(f"camera {worker.camera_id} was given up: {worker.failure}")


def _join(threads: list[threading.Thread]) -> None:
    deadline_s = time.monotonic() + _JOIN_S
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
        if thread.is_alive():
            _log.error("%s does not end", thread.name)
