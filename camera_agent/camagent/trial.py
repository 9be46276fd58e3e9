"""The trial: a new artifact on live frames, watched until it has earned its place."""

import time
from collections.abc import Callable
from typing import Final

from camagent.config import UpdateSettings
from camagent.detect import Detect
from camsdk.errors import ArtifactRefused

_POLL_S: Final = 0.05


def watch_trial(
    detect: Detect, reference: str, settings: UpdateSettings, pause: Callable[[float], bool]
) -> bool:
    """Watches the detector that has just taken its place.

    It has earned the place after ``trial_frames`` frames, or after ``trial_max_s`` with as many as
    came (a quiet camera may bring none: then the canary was the test).

    Args:
        detect: The stage.
        reference: ``name:version``, for the messages.
        settings: Bounds.
        pause: Waits so many seconds; False when the trial is no longer wanted.

    Returns:
        Whether it is over; False when it was no longer wanted.

    Raises:
        ArtifactRefused: a frame failed, or the median latency is above its bound.
    """
    end_s = time.monotonic() + settings.trial_max_s
    while True:
        health = detect.health()
        if health.failures:
            raise ArtifactRefused(f"{reference} failed on a live frame: {health.last_failure}")
        is_full = health.calls >= settings.trial_frames
        if is_full or time.monotonic() >= end_s:
            if health.median_latency_ms > settings.max_latency_ms:
                raise ArtifactRefused(
                    f"{reference} takes {health.median_latency_ms:.0f} ms a frame, "
                    f"{settings.max_latency_ms:.0f} may be"
                )
            return True
        if not pause(_POLL_S):
            return False
