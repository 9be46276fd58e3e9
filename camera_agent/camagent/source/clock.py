"""Capture times. The only place where pictures meet clocks; later stages read the frame's time."""

from dataclasses import dataclass

MAX_GAP_S = 60.0
"""A longer jump in a recording's timestamps is a broken clock, and counts as one interval."""

MAX_DEPARTURE_S = 0.5
"""How far a camera's own clock may depart from the monotonic one before it is anchored anew."""


@dataclass
class RecordingClock:
    """Times of a recording: fixed start plus the file's own timestamps, strictly increasing.

    Attributes:
        start_s: Capture time of the first picture, seconds since the Unix epoch.
        interval_s: Step for pictures whose timestamp is missing, repeated or absurd.
    """

    start_s: float
    interval_s: float
    _last_pts_s: float | None = None
    _elapsed_s: float = 0.0
    _is_started: bool = False

    def stamp(self, pts_s: float | None) -> float:
        """Capture time of the next picture, seconds since the Unix epoch."""
        if self._is_started:
            step = self.interval_s
            if pts_s is not None and self._last_pts_s is not None:
                given = pts_s - self._last_pts_s
                step = given if 0.0 < given <= MAX_GAP_S else step
            self._elapsed_s += step
        self._is_started = True
        self._last_pts_s = pts_s
        return self.start_s + self._elapsed_s


class LiveClock:
    """Times of a live stream: spaced as the camera says, anchored to our monotonic clock.

    Arrival times jitter with the network, the camera's timestamps do not, but its clock drifts and
    may jump. So the camera's spacing is kept until it departs by ``MAX_DEPARTURE_S``. The wall
    clock is read once, at the start of the session: when somebody sets it, intervals stay true.
    """

    def __init__(self, wall_start_s: float, monotonic_start_s: float) -> None:
        """Args: both clocks at the same moment, seconds."""
        self._offset_s = wall_start_s - monotonic_start_s
        self._anchor_s: float | None = None
        self._last_s = float("-inf")

    def at(self, monotonic_s: float) -> float:
        """Seconds since the Unix epoch for a moment of the monotonic clock."""
        return self._offset_s + monotonic_s

    def stamp(self, pts_s: float | None, arrival_s: float) -> float:
        """Capture time of the next picture.

        Args:
            pts_s: By the camera's clock, or None.
            arrival_s: Monotonic clock when it was decoded, seconds.

        Returns:
            Seconds since the Unix epoch, strictly increasing.
        """
        moment = arrival_s
        if pts_s is not None:
            if self._anchor_s is None or abs(arrival_s - self._anchor_s - pts_s) > MAX_DEPARTURE_S:
                self._anchor_s = arrival_s - pts_s
            # A picture cannot come before it was taken: the earliest arrival is the truest.
            self._anchor_s = min(self._anchor_s, arrival_s - pts_s)
            moment = self._anchor_s + pts_s
        self._last_s = max(self.at(moment), self._last_s + 1e-3)
        return self._last_s
