"""How long the rest of some work takes, from what was done of it."""

import time
from collections.abc import Callable


class Pace:
    """Time left by all the work that was seen done, and unknown until a phase has moved.

    What a phase has done when it first tells of itself is not counted, neither its work nor its
    time: an earlier attempt may have done it.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen_s = self._spent_s = 0.0
        self._share = self._done = 0.0
        self._is_known = self._has_moved = False

    def phase(self) -> None:
        """Something else is done from now on."""
        self._is_known = self._has_moved = False

    def __call__(self, share: float) -> None:
        """So much of all is done, 0 to 1."""
        now_s = self._clock()
        gained = share - self._share
        if self._is_known:
            self._done += gained
            self._spent_s += now_s - self._seen_s
            self._has_moved = self._has_moved or gained > 0
        self._is_known, self._share, self._seen_s = True, share, now_s

    def left_s(self) -> float | None:
        """Seconds from now; None where that is not known, and where it has turned out wrong."""
        if not self._has_moved or self._share >= 1:
            return None
        left_s = (1 - self._share) * self._spent_s / self._done
        left_s -= self._clock() - self._seen_s
        return left_s if left_s > 0 else None
