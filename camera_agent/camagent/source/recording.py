"""A recording as a source: every frame, in order, at its own pace or as fast as it is asked for."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from camagent.config import CameraSettings
from camagent.source.address import Address
from camagent.source.clock import RecordingClock
from camagent.source.feed import Feed, to_frame
from camagent.source.media import Video, open_video
from camsdk.errors import SourceError
from camsdk.vision.frames import Frame

_LONGEST_WAIT_S = 0.2  # so that closing from another thread is noticed soon


class RecordingSource(Feed):
    """A file. Drops nothing; ``frames`` can be read once and ends with the file.

    Args:
        address: Of the file.
        settings: Of the camera.
        start_s: Capture time of the first frame, seconds since the Unix epoch.

    Raises:
        SourceError: The file is missing, not a video or too large in its pixels.
    """

    is_recording = True
    cpu_time_s = 0.0  # decodes in the caller's thread

    def __init__(self, address: Address, settings: CameraSettings, start_s: float) -> None:
        super().__init__(settings)
        if not Path(address.target).is_file():  # a pipe or device would block, or never end
            raise SourceError(f"there is no recording {address.label}", "check the path")
        self._label = address.label
        self._start_s = start_s
        self._video: Video | None = open_video(address, settings)

    def frames(self, stop: threading.Event | None = None) -> Iterator[Frame]:
        """See ``Source.frames``.

        Raises:
            SourceError: Read before, unreadable in the middle, or without one picture.
        """
        video, self._video = self._video, None
        if video is None:
            raise SourceError(
                f"the recording {self._label} has been read or closed", "open it again"
            )
        self.is_online = True
        try:
            yield from self._read(video, stop or threading.Event())
        finally:
            self.is_online = False
            self.undecodable_packets = video.undecodable_packets
            video.close()

    def close(self) -> None:
        """See ``Source.close``."""
        super().close()
        video, self._video = self._video, None
        if video is not None:
            video.close()

    def _read(self, video: Video, stop: threading.Event) -> Iterator[Frame]:
        clock = RecordingClock(self._start_s, video.interval_s)
        index, started_s = 0, 0.0
        for picture in video.pictures():
            frame = to_frame(index, clock.stamp(picture.pts_s), picture)
            if self._settings.pace == "realtime":
                started_s = started_s or time.monotonic()
                self._wait_until(started_s + frame.timestamp_s - self._start_s, stop)
            if self._is_over(stop):
                return
            yield frame
            index += 1
        if index == 0:
            raise SourceError(f"{self._label} holds no picture that decodes", "check the file")
        self.is_finished = True

    def _wait_until(self, due_s: float, stop: threading.Event) -> None:
        while (left_s := due_s - time.monotonic()) > 0 and not self._is_over(stop):
            stop.wait(min(left_s, _LONGEST_WAIT_S))
