"""A live camera as a source: the newest frames only, and back by itself after every loss.

A thread of its own connects, decodes (each picture needs the ones before it, so none can be left
out) and fills an inbox; the pipeline takes from it. When the pipeline is slow, the oldest picture
gives way and is counted: what a camera sees now matters more than what it saw.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from camagent.config import CameraSettings
from camagent.source.address import Address
from camagent.source.clock import LiveClock
from camagent.source.feed import Feed, Presence, to_frame
from camagent.source.media import Picture, open_video
from camsdk.errors import SourceError, Unauthenticated
from camsdk.vision.frames import Frame

log = logging.getLogger(__name__)

MAX_PICTURES = 2
"""Pictures that wait. Two: one is enough for speed, the second absorbs jitter of the network."""

FIRST_BACKOFF_S = 0.1
REFUSED_BACKOFF_S = 30.0
"""After refused credentials: many cameras lock an account that is tried more often."""

_MAX_ITEMS = 16
_POLL_S = 0.1


@dataclass(frozen=True, eq=False)
class _Arrival:
    """A picture, and the monotonic clock when it was decoded."""

    picture: Picture
    arrival_s: float


@dataclass(frozen=True)
class _Change:
    """The connection came, or went for a reason."""

    is_online: bool
    monotonic_s: float
    reason: str = ""


class Inbox:
    """Between the reading thread and the pipeline.

    At most ``MAX_PICTURES`` pictures: the oldest is dropped and counted. Changes are never
    dropped; when ``_MAX_ITEMS`` wait, the reading thread waits too.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._items: deque[_Arrival | _Change] = deque()
        self._condition = threading.Condition()

    def put(self, item: _Arrival | _Change, is_over: Callable[[], bool]) -> None:
        """Add an item; gives up when ``is_over``."""
        with self._condition:
            if isinstance(item, _Arrival):
                self._make_room()
            while len(self._items) >= _MAX_ITEMS and not is_over():
                self._condition.wait(_POLL_S)
            self._items.append(item)
            self._condition.notify_all()

    def take(self) -> _Arrival | _Change | None:
        """The oldest item, or None when none came for a moment."""
        with self._condition:
            if not self._items:
                self._condition.wait(_POLL_S)
            if not self._items:
                return None
            item = self._items.popleft()
            self._condition.notify_all()
            return item

    def _make_room(self) -> None:
        waiting = [item for item in self._items if isinstance(item, _Arrival)]
        for oldest in waiting[: len(waiting) - MAX_PICTURES + 1]:
            self._items.remove(oldest)
            self.dropped += 1


class LiveSource(Feed):
    """A camera on the network.

    Args:
        address: Of the camera.
        settings: Of the camera.
        wall_clock: Read once per connection, seconds since the Unix epoch.
    """

    is_recording = False

    def __init__(
        self,
        address: Address,
        settings: CameraSettings,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(settings)
        self._address = address
        self._wall_clock = wall_clock
        self._inbox = Inbox()
        self._reader: threading.Thread | None = None
        self._reader_cpu_s = 0.0
        self._has_been_online = False

    @property
    def cpu_time_s(self) -> float:
        """CPU time of the reading thread so far, seconds."""
        return self._reader_cpu_s

    def frames(self, stop: threading.Event | None = None) -> Iterator[Frame]:
        """See ``Source.frames``. Waits for a camera that is away; call it once.

        Raises:
            SourceError: The reading thread has died of something unforeseen.
        """
        if self._reader is not None:
            raise SourceError(f"{self._address.label} is being read", "open it once more")
        stop = stop or threading.Event()
        self._reader = threading.Thread(
            target=self._read_for_ever, name=f"capture-{self._settings.camera_id}", daemon=True
        )
        self._reader.start()
        try:
            yield from self._take_for_ever(stop, self._reader)
        finally:
            self.is_online = False
            self.close()
            self._reader.join(timeout=1.0)  # it may sit in a read until its timeout

    def _take_for_ever(self, stop: threading.Event, reader: threading.Thread) -> Iterator[Frame]:
        clock = LiveClock(0.0, 0.0)
        index = 0
        while not self._is_over(stop):
            item = self._inbox.take()
            self.dropped_frames = self._inbox.dropped
            if isinstance(item, _Arrival):
                timestamp_s = clock.stamp(item.picture.pts_s, item.arrival_s)
                yield to_frame(index, timestamp_s, item.picture)
                index += 1
            elif isinstance(item, _Change):
                if item.is_online:
                    clock, index = self._new_clock(), 0
                self._change(Presence(item.is_online, clock.at(item.monotonic_s), item.reason))
            elif not reader.is_alive():
                raise SourceError(f"reading {self._address.label} broke off", "see the log")

    def _new_clock(self) -> LiveClock:
        return LiveClock(self._wall_clock(), time.monotonic())

    def _change(self, presence: Presence) -> None:
        """Count a change and pass it on, in the pipeline's thread."""
        if presence.is_online:
            self.reconnects += self._has_been_online
            self._has_been_online = True
        self.is_online = presence.is_online
        self._tell(presence)

    def _read_for_ever(self) -> None:
        """Connect again and again. Runs in the reading thread."""
        backoff_s = FIRST_BACKOFF_S
        is_told = False
        while not self._closing.is_set():
            was_online, failure = self._read_once()
            if self._closing.is_set():
                return
            if was_online:
                backoff_s, is_told = FIRST_BACKOFF_S, False
            if not is_told:
                log.warning("camera %s is offline: %s", self._settings.camera_id, failure)
                is_told = True
            wait_s = backoff_s
            if isinstance(failure, Unauthenticated):
                wait_s = REFUSED_BACKOFF_S
            # Spread, so that cameras of one recorder do not all return in the same moment.
            self._closing.wait(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 timing, no secret
            backoff_s = min(2 * backoff_s, self._settings.max_backoff_s)

    def _read_once(self) -> tuple[bool, SourceError | Unauthenticated]:
        """One connection from its beginning to its end.

        Returns:
            Whether a picture came, and why it ended.
        """
        is_online = False
        failure: SourceError | Unauthenticated
        try:
            video = open_video(self._address, self._settings)
        except (SourceError, Unauthenticated) as error:
            return False, error
        refused_before = self.undecodable_packets
        try:
            for picture in video.pictures():
                if self._closing.is_set():
                    break
                if not is_online:
                    is_online = True
                    log.info("camera %s is online", self._settings.camera_id)
                    self._put(_Change(True, time.monotonic()))
                self._put(_Arrival(picture, time.monotonic()))
                self.undecodable_packets = refused_before + video.undecodable_packets
                self._reader_cpu_s = time.thread_time()
            failure = SourceError("the camera ended the stream")
        except SourceError as error:
            failure = error
        finally:
            video.close()
        if is_online:
            self._put(_Change(False, time.monotonic(), failure.message))
        return is_online, failure

    def _put(self, item: _Arrival | _Change) -> None:
        self._inbox.put(item, self._closing.is_set)
