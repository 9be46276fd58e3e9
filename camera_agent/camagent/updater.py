"""``Updater``: from a wish of the cloud to an artifact that has earned its place, or back.

    download -> verify -> canary -> trial on live frames -> good
         \\________\\_________\\________\\__ failed: the old one runs on

One thread works on one order at a time; a newer order ends the work on an older one. The swap is
blue-green: the new model is loaded and has passed its canary before the first frame goes to it, and
the old one stays loaded until the trial is over, so neither a swap nor a way back loses a frame.

What is refused, each with one sentence in the report: an envelope that does not open (changed, for
another device), a bundle that no trusted key signed, another hardware, a version older than what
has been good unless a rollback says so, a model that fails its canary, exceeds its bounds or fails
on live frames. A refused order is not tried again under the same attempt, not even after a restart.

What opens artifacts is imported with the first one: an idle agent saves 10 MiB.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from camagent.config import UpdateSettings
from camagent.detect import Detect, Detector
from camagent.link import CloudLink
from camagent.runtimes.base import Runtime
from camagent.shadow import Desired, UpdateReport, UpdateState
from camagent.slots import Slot, Slots
from camagent.trial import watch_trial
from camsdk.errors import ArtifactRefused, CamError, DataCorrupted

if TYPE_CHECKING:
    from camsdk.artifact.bundle import Bundle

_log = logging.getLogger(__name__)

StartRuntime = Callable[[bytes], Runtime]
"""Loads a model; raises ``RuntimeFailure``."""


class _SupersededError(Exception):
    """A newer order, or the agent's end; never leaves this module."""


class Updater:
    """See the module. :meth:`run` is the body of its thread.

    Args:
        link: The channel, and who this device is.
        slots: What is on the device.
        detect: Where a detector takes its place.
        start_runtime: Loads a model.
        settings: How long and how strict.
        on_change: Called when :attr:`report` or :attr:`detector` has changed.
    """

    def __init__(
        self,
        link: CloudLink,
        slots: Slots,
        detect: Detect,
        start_runtime: StartRuntime,
        settings: UpdateSettings,
        on_change: Callable[[], None],
    ) -> None:
        self._link = link
        self._slots = slots
        self._detect = detect
        self._start_runtime = start_runtime
        self._settings = settings
        self._on_change = on_change
        self._changed = threading.Condition()
        self._wish: Desired | None = None
        self._is_busy = True  # until what is on the device runs
        self._is_stopping = False
        self.report = UpdateReport()
        self.detector: Detector | None = None
        self.handled_version = 0

    @property
    def is_busy(self) -> bool:
        """Whether something is under way or waits."""
        with self._changed:
            return self._is_busy or self._wish is not None

    def want(self, desired: Desired) -> None:
        """Takes the newest wish; work on another order ends soon."""
        with self._changed:
            self._wish = desired
            self._changed.notify_all()

    def stop(self) -> None:
        """Has :meth:`run` end soon; a trial that it cuts short begins again at the next start."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def run(self) -> None:
        """Starts what is on the device, then serves orders until :meth:`stop`."""
        self._restore()
        if self.detector is None:
            _log.info("waiting for a model: none runs on this device until the cloud orders one")
        while (desired := self._next_wish()) is not None:
            with suppress(_SupersededError):
                self._serve_or_say_why(desired)
                self.handled_version = desired.version
                self._on_change()
        self._put(None)

    def _next_wish(self) -> Desired | None:
        with self._changed:
            self._is_busy = False
            self._changed.wait_for(lambda: self._wish is not None or self._is_stopping)
            wish, self._wish = self._wish, None
            self._is_busy = not self._is_stopping
            return None if self._is_stopping else wish

    def _is_wanted(self, desired: Desired) -> bool:
        """Whether no other order has come meanwhile; rules alone make no order."""
        wish = self._wish
        is_same = wish is None or _order(wish) == _order(desired)
        return is_same and not self._is_stopping

    def _pause(self, desired: Desired, pause_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_wanted(desired), pause_s)
        return self._is_wanted(desired)

    def _restore(self) -> None:
        """Runs the good artifact, or the one before when that is damaged."""
        state = self._slots.state
        detail = state.failure.detail if state.failure else ""
        for slot in (state.good, state.previous if state.good else None):
            if slot is None or self._is_stopping:
                continue
            try:
                self._put(self._load(self._open(slot.digest, is_rollback=True)))
                _log.info("%s runs, as before", slot.reference)
                break
            except CamError as error:
                detail = f"{slot.reference} does not start: {error.message}"
                _log.error("%s", detail)
                if isinstance(error, ArtifactRefused | DataCorrupted):
                    self._slots.forget(slot.digest)
        running = self.detector.digest if self.detector else ""
        wanted = state.good.digest if state.good else ""
        if running != wanted:
            self._tell("failed", wanted, state.attempt, detail)
        elif state.failure and state.failure.attempt > state.attempt:
            self._tell("failed", state.failure.digest, state.failure.attempt, detail)
        else:
            self._tell("good" if running else "idle", running, state.attempt)

    def _serve_or_say_why(self, desired: Desired) -> None:
        """A disk that takes no note of what happened must not end the agent."""
        try:
            self._serve(desired)
        except CamError as error:
            _log.error("%s", error)
            self._tell("failed", desired.digest, desired.attempt, str(error))

    def _serve(self, desired: Desired) -> None:
        """Carries out one wish, or finds that there is nothing to do."""
        digest, attempt = desired.digest, desired.attempt
        state = self._slots.state
        running = self.detector.digest if self.detector else ""
        failure = state.failure
        if not digest and not attempt:
            return  # nobody has ordered anything yet: what runs, runs
        if digest == running == (state.good.digest if state.good else ""):
            self._tell("good" if digest else "rolled_back", digest, attempt)
        elif failure and (failure.digest, failure.attempt) == _order(desired):
            self._tell("failed", digest, attempt, failure.detail)
        elif not digest:
            self._slots.clear(attempt)
            self._put(None)
            _log.info("no model is to run: waiting for the next")
            self._tell("rolled_back", "", attempt)
        else:
            self._install_or_fail(desired)

    def _install_or_fail(self, desired: Desired) -> None:
        digest, attempt = desired.digest, desired.attempt
        try:
            self._install(desired)
        except CamError as error:
            detail = str(error)
            _log.error("%s failed: %s", _label(desired), detail)
            self._slots.discard(digest)
            self._slots.fail(digest, attempt, detail)
            self._tell("failed", digest, attempt, detail)
            return
        self._advance("good", desired)

    def _install(self, desired: Desired) -> None:
        bundle = self._obtain(desired)
        slot = Slot(desired.digest, bundle.manifest.name, bundle.manifest.version)
        self._advance("canary", desired)
        detector = self._load(bundle, has_canary=True)
        try:
            if not self._is_wanted(desired):
                raise _SupersededError
            starts = self._slots.begin_trial(slot, desired.attempt)
            if starts > self._settings.max_trial_starts:
                raise ArtifactRefused(
                    f"the agent died {starts - 1} times in {slot.reference}'s trial"
                )
        except BaseException:
            detector.runtime.close()
            raise
        self._try_live(desired, slot, detector)

    def _try_live(self, desired: Desired, slot: Slot, detector: Detector) -> None:
        """The swap, the trial, and the way back if it fails."""
        old = self._swap(detector)
        self._advance("trial", desired)
        try:
            if not watch_trial(
                self._detect,
                slot.reference,
                self._settings,
                lambda pause_s: self._pause(desired, pause_s),
            ):
                self._slots.end_trial()
                raise _SupersededError
            self._slots.mark_good(slot, desired.attempt)
        except BaseException:
            self._close(self._swap(old))
            raise
        self._close(old)

    def _obtain(self, desired: Desired) -> "Bundle":
        """The verified bundle: from its slot, or downloaded.

        What an earlier life has left, a download's part or a whole file, gets a second try.
        """
        digest = desired.digest
        is_resumed = self._slots.is_leftover(digest)
        if not self._slots.has(digest):
            is_resumed = self._download(desired)
        self._tell("verifying", digest, desired.attempt)
        try:
            return self._open(digest, is_rollback=desired.is_rollback)
        except (ArtifactRefused, DataCorrupted):
            if not is_resumed:
                raise
        # The cloud may have sealed it anew since the first part: once more from the beginning.
        self._slots.discard(digest)
        self._download(desired)
        return self._open(digest, is_rollback=desired.is_rollback)

    def _download(self, desired: Desired) -> bool:
        """Fetches into the part file; returns whether an earlier attempt had begun it."""
        from camagent.fetch import fetch_artifact

        self._advance("downloading", desired)
        path = self._slots.part_path(desired.digest)
        is_resumed = path.exists()
        if not fetch_artifact(
            self._link,
            desired.digest,
            path,
            lambda: self._is_wanted(desired),
            lambda pause_s: self._pause(desired, pause_s),
        ):
            raise _SupersededError
        return is_resumed

    def _open(self, digest: str, *, is_rollback: bool) -> "Bundle":
        from camagent.admission import admit

        sealed = self._slots.read(digest)
        floors = self._slots.state.floors
        return admit(sealed, digest, self._link.identity, floors, is_rollback=is_rollback)

    def _load(self, bundle: "Bundle", *, has_canary: bool = False) -> Detector:
        from camagent.canary import run_canary

        runtime = self._start_runtime(bundle.model)
        try:
            if has_canary:
                run_canary(bundle, runtime, self._settings.canary_deadline_s)
        except CamError:
            runtime.close()
            raise
        return Detector(bundle.manifest, runtime, bundle.digest)

    def _swap(self, detector: Detector | None) -> Detector | None:
        self.detector = detector
        old = self._detect.swap(detector)
        self._on_change()
        return old

    def _put(self, detector: Detector | None) -> None:
        self._close(self._swap(detector))

    def _close(self, detector: Detector | None) -> None:
        if detector is not None:
            detector.runtime.close()

    def _advance(self, state: UpdateState, desired: Desired) -> None:
        """A step of an order, for the log and for the cloud."""
        _log.info("%s: %s", _label(desired), state)
        self._tell(state, desired.digest, desired.attempt)

    def _tell(self, state: UpdateState, digest: str, attempt: int, detail: str = "") -> None:
        slots = self._slots.state
        running = self.detector
        others = [slot.digest for slot in (slots.good, slots.previous) if slot]
        running_digest = running.digest if running else ""
        self.report = UpdateReport(
            state=state,
            digest=digest,
            detail=detail,
            attempt=attempt,
            running_digest=running_digest,
            running_name=running.manifest.reference if running else "",
            previous_digest=next((other for other in others if other != running_digest), ""),
        )
        self._on_change()


def _label(desired: Desired) -> str:
    return desired.name or desired.digest[:12]


def _order(desired: Desired) -> tuple[str, int]:
    """What makes two wishes the same order."""
    return desired.digest, desired.attempt
