"""One camera, from frame to result.

    frame -> gate -> detect -> track -> zones -> crops -> features -> sink

What happens to a frame that the detector does not see:

- *quiet* (the gate is closed): nothing moves and nobody is followed. The tracker is told to hold:
  lost tracks grow older and end in time, as if the detector had looked and seen nothing new. While
  tracks are shown the gate stays open, so nobody who stands still is forgotten.
- *skipped* (``detect_every``) or *damaged*: nothing is known. The tracks stand as they were, in the
  result too, and neither tracker nor rules hear of the frame. The next look bridges the gap.
- *failed* (the runtime failed) or without a detector: the tracker gets no detections, so tracks
  coast and end if it lasts.

Sessions: a live source begins a new session with each connection, and its frames count from 0
again. The first result of it carries ``CAMERA_ONLINE``; when the camera goes, a closing result ends
all tracks and carries ``CAMERA_OFFLINE``. A recording closes the same way, without these events,
when it has been read to its end; when it is stopped before, nothing is closed, because it will be
replayed. A change of resolution ends all tracks, and rules and codes of them with it.

The closing result is numbered after the last frame. It is no frame, and is not counted as one.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from camagent.detect import Look
from camagent.gate import Gate, GateDecision
from camagent.source import Presence, Source
from camagent.stats import PipelineStats, StageClock
from camsdk.errors import RuntimeFailure
from camsdk.vision.frames import Frame
from camsdk.vision.results import (
    CAMERA_OFFLINE,
    CAMERA_ONLINE,
    Detections,
    Embeddings,
    Event,
    FrameResult,
    Tracks,
)

log = logging.getLogger(__name__)

_NO_IDS = np.zeros(0, np.int64)
_NO_CODES = Embeddings.empty()


class Looker(Protocol):
    """The ``detect`` stage: ``camagent.detect.Detect``."""

    @property
    def digest(self) -> str:
        """Artifact in use, empty without one."""
        ...

    def look(self, frame: Frame) -> Look | None:
        """What the detector sees; None without one."""
        ...


class Tracker(Protocol):
    """The ``track`` stage: ``camagent.track.ByteTracker``."""

    def __call__(self, detections: Detections, timestamp_s: float) -> Tracks:
        """Advance to a frame that the detector saw."""
        ...

    def hold(self, timestamp_s: float) -> Tracks:
        """Advance to a frame in which nothing moved."""
        ...

    def finish(self) -> Tracks:
        """End all tracks."""
        ...


class Watcher(Protocol):
    """The ``zones`` stage: ``camagent.zones.Zones``."""

    def __call__(
        self, tracks: Tracks, frame_index: int, timestamp_s: float, width: int, height: int
    ) -> tuple[Event, ...]:
        """What the rules say about the tracks of a frame."""
        ...


class Cutter(Protocol):
    """The ``crops`` stage: ``camagent.crops.Crops``."""

    def __call__(self, frame: Frame, events: tuple[Event, ...]) -> tuple[bytes, ...]:
        """A JPEG for each event, empty for those that get none; ``()`` if none gets one."""
        ...


class Coder(Protocol):
    """The ``features`` stage: ``camagent.features.Features``."""

    def __call__(self, frame: Frame, tracks: Tracks) -> Embeddings:
        """Appearance codes that are due."""
        ...


class Sink(Protocol):
    """Takes the results, in order: ``camagent.batch.Batcher``."""

    def put(self, result: FrameResult) -> None:
        """Take the next result."""
        ...


class Pipeline:
    """The stages of one camera. ``run`` it in a thread of its own.

    Args:
        camera_id: For the log.
        source, gate, detect, track, zones, features: The stages; all but ``detect`` are this
            camera's own.
        sink: Takes the results.
        crops: The stage that cuts pictures for events; without it none leaves.
        detect_every: Look at every n-th frame at most, peeks of the gate apart.
    """

    def __init__(
        self,
        camera_id: str,
        source: Source,
        gate: Gate,
        detect: Looker,
        track: Tracker,
        zones: Watcher,
        features: Coder,
        sink: Sink,
        *,
        crops: Cutter | None = None,
        detect_every: int = 1,
    ) -> None:
        self._camera_id = camera_id
        self._source = source
        self._gate = gate
        self._detect = detect
        self._track = track
        self._zones = zones
        self._crops = crops
        self._features = features
        self._sink = sink
        self._detect_every = detect_every
        self._clock = StageClock()
        self._actions: deque[Callable[[], None]] = deque()
        self._tracks = Tracks.empty()
        self._ended_early = _NO_IDS
        self._camera_events: tuple[Event, ...] = ()
        self._last: tuple[Frame, FrameResult] | None = None
        self._is_failing = False
        self._since_look = detect_every
        source.subscribe(self._on_presence)

    def run(self, stop: threading.Event) -> None:
        """Work until the recording's end or ``stop``.

        Raises:
            SourceError: The source cannot be read on.
        """
        self._clock.start()
        for frame in self._source.frames(stop):
            self._clock.lap("source")
            self._between_frames()
            result = self._see(frame)
            self._sink.put(result)
            self._clock.lap("sink")
            self._clock.frame_count += 1
            self._clock.last_frame_timestamp_s = frame.timestamp_s
            self._last = frame, result
        if self._source.is_finished or not self._source.is_recording:
            self._close_session()

    def between_frames(self, action: Callable[[], None]) -> None:
        """Have ``action`` called in the pipeline's thread before the next frame.

        So that stages can be given new settings (rules, say) without a lock and without splitting
        a frame. From any thread.
        """
        self._actions.append(action)

    def stats(self) -> PipelineStats:
        """Figures so far. From any thread."""
        source = self._source
        return self._clock.snapshot(
            is_online=source.is_online,
            is_finished=source.is_finished,
            reconnects=source.reconnects,
            dropped_frames=source.dropped_frames,
            undecodable_packets=source.undecodable_packets,
            source_thread_cpu_s=source.cpu_time_s,
        )

    def _see(self, frame: Frame) -> FrameResult:
        """All stages on one frame."""
        self._end_tracks_of_another_size(frame)
        decision = self._gate.decide(frame, is_tracking=len(self._tracks) > 0)
        self._clock.open_frames += decision.is_open
        self._clock.lap("gate")
        if decision.reason == "corrupt" or not self._is_due(decision):
            self._clock.skipped_frames += 1
            return self._result(frame, self._tracks)
        look = self._look(frame) if decision.is_open else None
        self._clock.lap("detect")
        tracks = self._follow(frame, look, decision.is_open)
        self._clock.lap("track")
        events = self._zones(tracks, frame.index, frame.timestamp_s, frame.width, frame.height)
        self._clock.lap("zones")
        crops = self._crops(frame, events) if self._crops else ()
        self._clock.lap("crops")
        embeddings = self._features(frame, tracks)
        self._clock.lap("features")
        self._tracks = replace(tracks, ended=_NO_IDS) if len(tracks.ended) else tracks
        return self._result(frame, tracks, embeddings, events, crops, look)

    def _is_due(self, decision: GateDecision) -> bool:
        """Whether ``detect_every`` lets this frame through: all closed ones, and all of a peek.

        A peek is as long as it takes to confirm a track, so nothing of it can be left out.
        """
        self._since_look += 1
        if not decision.is_open:
            return True
        if decision.reason != "peek" and self._since_look < self._detect_every:
            return False
        self._since_look = 0
        return True

    def _look(self, frame: Frame) -> Look | None:
        try:
            look = self._detect.look(frame)
        except RuntimeFailure as error:
            if not self._is_failing:
                log.warning("camera %s: %s", self._camera_id, error)
            self._is_failing = True
            self._clock.detector_calls += 1
            self._clock.detector_failures += 1
            return None
        self._is_failing = False
        if look is not None:
            self._clock.detector_calls += 1
            self._clock.runtime_cpu_s += look.runtime_cpu_s
        return look

    def _follow(self, frame: Frame, look: Look | None, is_open: bool) -> Tracks:
        if is_open:
            detections = look.detections if look else Detections.empty()
            tracks = self._track(detections, frame.timestamp_s)
        else:
            tracks = self._track.hold(frame.timestamp_s)
        if len(self._ended_early):
            tracks = replace(tracks, ended=np.concatenate((self._ended_early, tracks.ended)))
            self._ended_early = _NO_IDS
        return tracks

    def _result(
        self,
        frame: Frame,
        tracks: Tracks,
        embeddings: Embeddings = _NO_CODES,
        events: tuple[Event, ...] = (),
        crops: tuple[bytes, ...] = (),
        look: Look | None = None,
    ) -> FrameResult:
        camera_events, self._camera_events = self._camera_events, ()
        if crops:
            crops = (b"",) * len(camera_events) + crops
        return FrameResult(
            frame_index=frame.index,
            timestamp_s=frame.timestamp_s,
            width=frame.width,
            height=frame.height,
            tracks=tracks,
            embeddings=embeddings,
            events=camera_events + events,
            crops=crops,
            is_detected=look is not None,
            model_digest=look.digest if look else self._detect.digest,
        )

    def _end_tracks_of_another_size(self, frame: Frame) -> None:
        if self._last is None:
            return
        before, _ = self._last
        if (frame.width, frame.height) != (before.width, before.height):
            log.info(
                "camera %s: from %dx%d to %dx%d",
                self._camera_id,
                before.width,
                before.height,
                frame.width,
                frame.height,
            )
            self._ended_early = np.concatenate((self._ended_early, self._track.finish().ended))
            self._tracks = Tracks.empty()

    def _on_presence(self, presence: Presence) -> None:
        """A live camera came or went; called between its frames."""
        if presence.is_online:
            self._gate.reset()
            self._last = None
            self._camera_events = (Event(CAMERA_ONLINE, 0, presence.timestamp_s),)
            return
        self._close_session(presence)

    def _close_session(self, lost: Presence | None = None) -> None:
        """End all tracks, and say so if there is anything to say."""
        tracks = self._track.finish()
        tracks = replace(tracks, ended=np.concatenate((self._ended_early, tracks.ended)))
        self._tracks, self._ended_early, self._camera_events = Tracks.empty(), _NO_IDS, ()
        last, self._last = self._last, None
        if last is None or not (lost or len(tracks.ended)):
            return
        frame, result = last
        index = frame.index + 1
        timestamp_s = lost.timestamp_s if lost else frame.timestamp_s
        events = self._zones(tracks, index, timestamp_s, frame.width, frame.height)
        if lost:
            attributes = {"reason": lost.reason}
            events += (Event(CAMERA_OFFLINE, index, timestamp_s, attributes=attributes),)
        closing = replace(
            result,
            frame_index=index,
            timestamp_s=timestamp_s,
            tracks=tracks,
            embeddings=self._features(frame, tracks),
            events=events,
            crops=(),
            is_detected=False,
        )
        self._sink.put(closing)

    def _between_frames(self) -> None:
        for _ in range(len(self._actions)):  # one that adds another has it run with the next frame
            self._actions.popleft()()
