"""``Batcher``: the pipeline's sink; gathers frames of a session into batches for the outbox.

A batch leaves when it is full (of frames or of tracks), when its first frame has waited
``batch_wait_s``, when the frame size or the model changes (a batch has one of each), and at once
when a frame brings an event. Frames at or below the session's watermark were shipped in an earlier
life and are dropped here.

When the disk refuses a batch, it stays and is tried again without its crops, a second later or
with the next event; beyond ``_MAX_HELD`` frames the oldest without events are dropped, then the
oldest of all. All is counted.
"""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from camagent.config import OutboxSettings
from camagent.outbox import NewBatch, Outbox, Session
from camsdk.errors import ResourceExhausted
from camsdk.vision.results import FrameResult
from camsdk.wire import Crop, encode_batch

_log = logging.getLogger(__name__)

_MAX_HELD: Final = 1024  # frames in memory while the disk is full: some MB
# Of one batch, far below what the cloud takes (camsdk.wire): it sets aside what is beyond.
_MAX_ROWS: Final = 4096  # tracks, over all frames
_MAX_EVENTS: Final = 1024
_RETRY_S: Final = 1.0  # between two attempts on a full disk


@dataclass(frozen=True)
class Losses:
    """What a full disk has cost."""

    frames: int = 0
    events: int = 0
    crops: int = 0

    def __add__(self, other: "Losses") -> "Losses":
        return Losses(
            self.frames + other.frames, self.events + other.events, self.crops + other.crops
        )


class Batcher:
    """Sink of one camera's pipeline.

    Args:
        outbox: Where full batches go.
        camera_id: The camera.
        session: The first, as the outbox gave it.
        settings: Size and waiting time of a batch.

    Attributes:
        dropped_frames, dropped_events, dropped_crops: Lost while the disk was full.
    """

    def __init__(
        self, outbox: Outbox, camera_id: str, session: Session, settings: OutboxSettings
    ) -> None:
        self._outbox = outbox
        self._camera_id = camera_id
        self._session = session
        self._settings = settings
        self._lock = threading.Lock()
        self._held: list[FrameResult] = []
        self._due_s = float("inf")  # monotonic: when the oldest held frame has waited enough
        self._retry_s = float("-inf")  # monotonic: until then a full batch waits for a full disk
        self.dropped_frames = 0
        self.dropped_events = 0
        self.dropped_crops = 0

    @property
    def losses(self) -> Losses:
        """So far. From any thread."""
        return Losses(self.dropped_frames, self.dropped_events, self.dropped_crops)

    def put(self, result: FrameResult) -> None:
        """Takes the next frame's result; returns once an event in it is durable."""
        if result.frame_index <= self._session.watermark:
            return
        with self._lock:
            if self._held and _kind(self._held[-1]) != _kind(result):
                self._flush()
            if not self._held:
                self._due_s = time.monotonic() + self._settings.batch_wait_s
            self._held.append(result)
            now_s = time.monotonic()
            is_full = self._is_full() and now_s >= self._retry_s
            if result.events or is_full or now_s >= self._due_s:
                self._flush()
            elif len(self._held) > _MAX_HELD:
                self._shorten()

    def begin(self, session: Session) -> None:
        """Commits the rest of the present session and goes on with another."""
        with self._lock:
            self._flush()
            self._abandon()
            self._session = session

    def flush_due(self, now_s: float) -> float:
        """Commits what has waited enough at ``now_s``; returns when to ask again.

        Both are of the monotonic clock; infinity means that nothing waits.
        """
        with self._lock:
            if now_s >= self._due_s:
                self._flush()
            return self._due_s

    def close(self) -> None:
        """Commits the rest; what a full disk refuses even now is counted as dropped."""
        with self._lock:
            self._flush()
            self._abandon()

    def _is_full(self) -> bool:
        rows = sum(len(result.tracks) for result in self._held)
        return len(self._held) >= self._settings.batch_frames or rows >= _MAX_ROWS

    def _abandon(self) -> None:
        if self._held:
            _log.error("camera %s: %d frames were lost", self._camera_id, len(self._held))
        for result in self._held:
            self._count(result)
        self._held = []
        self._due_s = float("inf")

    def _count(self, dropped: FrameResult) -> None:
        self.dropped_frames += 1
        self.dropped_events += len(dropped.events)

    def _flush(self) -> None:
        """Commits all that is held, run by run of one kind (several only after a full disk)."""
        while self._held:
            kind = _kind(self._held[0])
            run = _fitting(
                takewhile(
                    lambda result: _kind(result) == kind,  # noqa: B023 # used up within the turn
                    self._held[: self._settings.batch_frames],
                )
            )
            try:
                self._commit(run)
            except ResourceExhausted as error:
                _log.error("camera %s: %s", self._camera_id, error)
                self._due_s = time.monotonic() + max(_RETRY_S, self._settings.batch_wait_s)
                self._retry_s = time.monotonic() + _RETRY_S
                self._shorten()
                return
            del self._held[: len(run)]
        self._due_s = float("inf")

    def _commit(self, run: list[FrameResult]) -> None:
        def encode(epoch: int, first_event_sequence: int) -> bytes:
            return encode_batch(
                run,
                camera_id=self._camera_id,
                session=self._session.session,
                epoch=epoch,
                first_event_sequence=first_event_sequence,
                crops=_numbered(run, first_event_sequence),
            )

        self._outbox.commit(
            NewBatch(
                camera_id=self._camera_id,
                session=self._session.session,
                last_frame_index=run[-1].frame_index,
                frame_count=len(run),
                event_count=sum(len(result.events) for result in run),
                encode=encode,
            )
        )

    def _shorten(self) -> None:
        """The drop rule of a full disk: pictures go first, and at once, for they are large."""
        with_crops = [row for row, result in enumerate(self._held) if result.crops]
        for row in with_crops:
            self.dropped_crops += sum(map(bool, self._held[row].crops))
            self._held[row] = replace(self._held[row], crops=())
        if with_crops:
            _log.error("camera %s: %d crops dropped so far", self._camera_id, self.dropped_crops)
        while len(self._held) > _MAX_HELD:
            quiet = (index for index, result in enumerate(self._held) if not result.events)
            self._count(self._held.pop(next(quiet, 0)))


def _fitting(results: Iterable[FrameResult]) -> list[FrameResult]:
    """As many of the first results as make a batch that the cloud takes, at least one."""
    run: list[FrameResult] = []
    rows = events = 0
    for result in results:
        rows += len(result.tracks)
        events += len(result.events)
        if run and (rows > _MAX_ROWS or events > _MAX_EVENTS):
            break
        run.append(result)
    return run


def _numbered(run: Iterable[FrameResult], first_event_sequence: int) -> list[Crop]:
    """The crops of a run, each with the number that its event is given."""
    crops = []
    for result in run:
        # A frame has a crop for each of its events, or none at all: hence not strict.
        pairs = zip(result.events, result.crops, strict=False)
        crops += [
            Crop(event.track_id, event.frame_index, event.timestamp_s, jpeg, sequence)
            for sequence, (event, jpeg) in enumerate(pairs, first_event_sequence)
            if jpeg
        ]
        first_event_sequence += len(result.events)
    return crops


def _kind(result: FrameResult) -> tuple[int, int, str]:
    """What all frames of a batch share."""
    return result.width, result.height, result.model_digest
