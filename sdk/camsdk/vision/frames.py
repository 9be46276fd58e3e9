"""``Frame``: one decoded picture, kept in the planes that the decoder gave.

Invariant: the planes are read-only views or copies that stay valid for the life of the frame, and
``timestamp_s`` is the only time that a stage may use.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput

U8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture in planar YUV 4:2:0.

    Attributes:
        index: Number of the frame within its session, from 0.
        timestamp_s: Capture time, seconds since the Unix epoch. A recording counts from a fixed
            start, so that it replays identically.
        y: Luma, uint8, shape (height, width).
        u, v: Chroma, uint8, shape (ceil(height / 2), ceil(width / 2)).
        is_keyframe: Whether the decoder needed no earlier frame for it.
        is_corrupt: Whether the decoder concealed damage in it.
        is_full_range: Whether luma spans 0-255 instead of 16-235.
    """

    index: int
    timestamp_s: float
    y: U8
    u: U8
    v: U8
    is_keyframe: bool = False
    is_corrupt: bool = False
    is_full_range: bool = False

    def __post_init__(self) -> None:
        height, width = self.y.shape
        chroma = ((height + 1) // 2, (width + 1) // 2)
        if self.u.shape != chroma or self.v.shape != chroma:
            raise InvalidInput(
                f"chroma planes are {self.u.shape} and {self.v.shape}, not {chroma}",
                "give YUV 4:2:0 planes",
            )

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.y.shape[0])

    @cached_property
    def rgb(self) -> U8:
        """uint8, shape (height, width, 3), BT.601; computed once, when first asked for."""
        return yuv_to_rgb(self.y, self.u, self.v, is_full_range=self.is_full_range)


# Full range to limited: luma 0-255 to 16-235, chroma 1-255 about 128 to 16-240.
_LUMA_TO_LIMITED: Final = np.rint(np.arange(256) * (219 / 255) + 16).astype(np.uint8)
_CHROMA_TO_LIMITED: Final = np.rint((np.arange(256) - 128) * (224 / 255) + 128).astype(np.uint8)


def yuv_to_rgb(y: U8, u: U8, v: U8, *, is_full_range: bool = False) -> U8:
    """BT.601 YUV 4:2:0 planes to RGB.

    Args:
        y: uint8 (height, width). Odd sizes are handled by repeating the last row or column.
        u: uint8 (ceil(height / 2), ceil(width / 2)).
        v: As ``u``.
        is_full_range: Whether luma spans 0-255 instead of 16-235.

    Returns:
        uint8 (height, width, 3).
    """
    if is_full_range:
        y, u, v = _LUMA_TO_LIMITED[y], _CHROMA_TO_LIMITED[u], _CHROMA_TO_LIMITED[v]
    height, width = y.shape
    if height % 2 or width % 2:
        y = np.pad(y, ((0, height % 2), (0, width % 2)), mode="edge")
    even_h, even_w = y.shape
    i420 = np.empty((even_h * 3 // 2, even_w), np.uint8)
    i420[:even_h] = y
    chroma = i420[even_h:].reshape(2, even_h // 2, even_w // 2)
    chroma[0] = u
    chroma[1] = v
    rgb = np.asarray(cv2.cvtColor(i420, cv2.COLOR_YUV2RGB_I420), np.uint8)
    return rgb[:height, :width]
