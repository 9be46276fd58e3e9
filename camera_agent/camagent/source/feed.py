"""What every source is to the pipeline, and the part that all share."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from camagent.config import CameraSettings
from camagent.source.media import Picture
from camsdk.vision.frames import Frame


@dataclass(frozen=True)
class Presence:
    """A camera came or went.

    Attributes:
        is_online: What it is from now on.
        timestamp_s: When, in the time of the frames, seconds since the Unix epoch.
        reason: Why it went, one phrase without secrets, or empty.
    """

    is_online: bool
    timestamp_s: float
    reason: str = ""


Listener = Callable[[Presence], None]


class Source(Protocol):
    """Where frames come from.

    Attributes:
        is_recording: Whether it has an end and replays identically.
        is_online: Whether frames can come now.
        is_finished: Whether a recording has been read to its end.
        reconnects: How often a camera came back after it had been online.
        dropped_frames: Frames of live video that nobody took in time.
        undecodable_packets: Packets that the decoder refused.
        cpu_time_s: CPU time spent outside the thread that calls ``frames``, seconds.
    """

    is_recording: bool
    is_online: bool
    is_finished: bool
    reconnects: int
    dropped_frames: int
    undecodable_packets: int

    @property
    def cpu_time_s(self) -> float:
        """See above."""
        ...

    def subscribe(self, listener: Listener) -> None:
        """Have ``listener`` called at each change of a live camera.

        Calls come from the thread that iterates ``frames``, in order with the frames: online
        before the first frame of a connection, offline after its last. Frame numbers start from 0
        with each connection, so this is where a session begins. Listeners are called in the order
        in which they subscribed. A recording tells nothing: it is one session from end to end.
        """
        ...

    def frames(self, stop: threading.Event | None = None) -> Iterator[Frame]:
        """Frames in order, until the recording's end, ``stop`` or ``close``.

        Raises:
            SourceError: It cannot be read on. A live camera that fails is waited for instead.
        """
        ...

    def close(self) -> None:
        """End ``frames`` soon and give everything back. From any thread, any number of times."""
        ...


class Feed:
    """Figures, listeners and the closing flag of a source."""

    def __init__(self, settings: CameraSettings) -> None:
        self.is_online = False
        self.is_finished = False
        self.reconnects = 0
        self.dropped_frames = 0
        self.undecodable_packets = 0
        self._settings = settings
        self._listeners: list[Listener] = []
        self._closing = threading.Event()

    def subscribe(self, listener: Listener) -> None:
        """See ``Source.subscribe``."""
        self._listeners.append(listener)

    def close(self) -> None:
        """See ``Source.close``."""
        self._closing.set()

    def _tell(self, presence: Presence) -> None:
        for listener in self._listeners:
            listener(presence)

    def _is_over(self, stop: threading.Event) -> bool:
        return stop.is_set() or self._closing.is_set()


def to_frame(index: int, timestamp_s: float, picture: Picture) -> Frame:
    """Place a picture in its session."""
    return Frame(
        index=index,
        timestamp_s=timestamp_s,
        y=picture.y,
        u=picture.u,
        v=picture.v,
        is_keyframe=picture.is_keyframe,
        is_corrupt=picture.is_corrupt,
        is_full_range=picture.is_full_range,
    )
