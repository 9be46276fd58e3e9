"""Is there anything to look at? A background difference on thinned luma decides for each frame.

The detector costs a hundred times what the gate does, so the gate may err towards open, never
towards closed. It opens on motion, stays open while the tracker follows somebody (people who stand
still do not move, and the background learns them), lingers for a moment after the last reason, and
opens by itself every few seconds for long enough to confirm a track: so somebody who came unseen
and never moves is found within one such period. A picture that the decoder marked as damaged is
looked at by nobody: it neither teaches the background nor reaches the detector.

Pure: time comes from the frames, so a replay gives the same decisions. Threshold and noise are in
luma levels, areas are shares of the picture.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from camsdk.vision.frames import U8, Frame

Reason = Literal["motion", "tracks", "linger", "peek", "quiet", "corrupt"]

# Noise shows as single samples, people as upright runs of them: two above one another must agree.
_UPRIGHT_PAIR: Final = np.ones((2, 1), np.uint8)


@dataclass(frozen=True)
class GateSettings:
    """When the gate opens.

    Attributes:
        sample_width: Samples across the picture; 160 still sees a person 10 pixels wide in 768.
        min_level: Difference from the background that counts, luma levels of 255.
        noise_factor: The same in multiples of the mean difference, for cameras that are noisier.
        min_area: Share of the samples that must differ; some 4 samples of 18,000.
        light_area: Share from which it is the light that changed, and the background starts anew.
        memory_s: Time constant of the background.
        linger_s: Stays open after the last reason; not less than the tracker's patience with lost
            tracks (1 s), or a track that flickers would close the gate on itself.
        peek_period_s: Longest time closed.
        peek_frames: Frames of such an opening; a track needs two to be confirmed.
        corrupt_tolerance_s: After so long without an undamaged picture, damaged ones are used:
            seeing badly is better than not at all.
    """

    sample_width: int = 160
    min_level: float = 12.0
    noise_factor: float = 4.0
    min_area: float = 0.0002
    light_area: float = 0.5
    memory_s: float = 8.0
    linger_s: float = 1.0
    peek_period_s: float = 5.0
    peek_frames: int = 3
    corrupt_tolerance_s: float = 5.0


@dataclass(frozen=True)
class GateDecision:
    """What the gate says about one frame.

    Attributes:
        is_open: Whether the detector should look.
        motion_area: Share of the picture that differs from the background, 0 to 1.
        reason: Why; ``quiet`` and ``corrupt`` are closed, the others open.
    """

    is_open: bool
    motion_area: float
    reason: Reason


class Gate:
    """The gate of one camera. Call ``decide`` once per frame, in order."""

    def __init__(self, settings: GateSettings | None = None) -> None:
        self._settings = settings or GateSettings()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame may come from another place and time."""
        self._background: NDArray[np.float32] | None = None
        self._shape = (0, 0)
        self._noise = 0.0
        self._learnt = 0
        self._last_s = -math.inf
        self._busy_s = -math.inf
        self._open_s = -math.inf
        self._clean_s: float | None = None
        self._peeks_left = 0

    def decide(self, frame: Frame, is_tracking: bool = False) -> GateDecision:
        """Whether the detector should look at a frame.

        Args:
            frame: The next one.
            is_tracking: Whether the tracker shows tracks just now.
        """
        now_s = frame.timestamp_s
        if self._clean_s is None or not frame.is_corrupt:
            self._clean_s = now_s
        if frame.is_corrupt and now_s - self._clean_s <= self._settings.corrupt_tolerance_s:
            return GateDecision(False, 0.0, "corrupt")
        area = self._motion_area(frame)
        reason = self._reason(area, is_tracking, now_s)
        if reason in ("motion", "tracks"):
            self._busy_s = now_s
        if reason != "quiet":
            self._open_s = now_s
        return GateDecision(reason != "quiet", area, reason)

    def _reason(self, area: float, is_tracking: bool, now_s: float) -> Reason:
        settings = self._settings
        if area >= settings.min_area:
            return "motion"
        if is_tracking:
            return "tracks"
        if now_s - self._busy_s <= settings.linger_s:
            return "linger"
        if now_s - self._open_s >= settings.peek_period_s:
            self._peeks_left = settings.peek_frames
        if self._peeks_left > 0:
            self._peeks_left -= 1
            return "peek"
        return "quiet"

    def _motion_area(self, frame: Frame) -> float:
        """Share of samples that differ from the background, which then learns the frame."""
        stride = max(1, round(frame.width / self._settings.sample_width))
        samples: U8 = np.ascontiguousarray(frame.y[::stride, ::stride])
        elapsed_s = frame.timestamp_s - self._last_s
        self._last_s = frame.timestamp_s
        background = self._background
        if background is None or self._shape != frame.y.shape:
            self._shape = frame.y.shape
            self._start_background(samples)
            return 0.0
        difference = np.asarray(cv2.absdiff(samples, cv2.convertScaleAbs(background)), np.uint8)
        level = max(self._settings.min_level, self._settings.noise_factor * self._noise)
        _, is_changed = cv2.threshold(difference, level, 1, cv2.THRESH_BINARY)
        is_upright = cv2.erode(is_changed, _UPRIGHT_PAIR)
        area = cv2.countNonZero(is_upright) / samples.size
        self._learn(samples, difference, level, area, elapsed_s)
        return area

    def _learn(
        self, samples: U8, difference: U8, level: float, area: float, elapsed_s: float
    ) -> None:
        background = self._background
        if area > self._settings.light_area or background is None:
            self._start_background(samples)
            return
        # At first a plain mean: one noisy frame is a bad background.
        self._learnt += 1
        weight = 1.0 - math.exp(-max(elapsed_s, 0.0) / self._settings.memory_s)
        weight = max(weight, 1.0 / (self._learnt + 1))
        cv2.accumulateWeighted(samples, background, weight)
        # Mean difference without what moved: the camera's noise, and slow changes of light.
        _, still = cv2.threshold(difference, level, 0, cv2.THRESH_TOZERO_INV)
        self._noise += weight * (float(cv2.mean(still)[0]) - self._noise)

    def _start_background(self, samples: U8) -> None:
        self._background = samples.astype(np.float32)
        self._learnt = 0
