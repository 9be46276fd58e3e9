"""Frames from a recording or a live camera: ``open_source(settings).frames()``.

Sockets and files live here, and nowhere below. A recording replays identically and drops nothing;
live video keeps the newest pictures and comes back by itself.
"""

import time
from collections.abc import Callable

from camagent.config import CameraSettings
from camagent.source.address import parse_address, redact
from camagent.source.feed import Listener, Presence, Source
from camagent.source.live import LiveSource
from camagent.source.recording import RecordingSource

__all__ = [
    "Listener",
    "LiveSource",
    "Presence",
    "RecordingSource",
    "Source",
    "is_recording",
    "open_source",
    "redact",
]


def open_source(
    settings: CameraSettings,
    *,
    start_s: float | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> Source:
    """Open a camera's source.

    Args:
        settings: Of the camera.
        start_s: Capture time of a recording's first frame as fixed for its session, seconds since
            the Unix epoch; by default that of the settings, or now. Live cameras ignore it.
        wall_clock: Read once per session of a live camera.

    Raises:
        InvalidInput: The address is malformed or its scheme is not allowed.
        SourceError: A recording that is missing, not a video, or too large in its pixels. A live
            camera is connected to later, by ``frames``, and waited for.
    """
    address = parse_address(settings.source, allow_http=settings.allow_http)
    if not address.is_recording:
        return LiveSource(address, settings, wall_clock)
    if start_s is None:
        start_s = settings.start_time_s
    return RecordingSource(address, settings, wall_clock() if start_s is None else start_s)


def is_recording(settings: CameraSettings) -> bool:
    """Whether a camera's source has an end.

    Raises:
        InvalidInput: As ``open_source``.
    """
    return parse_address(settings.source, allow_http=settings.allow_http).is_recording
