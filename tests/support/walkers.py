"""A frame of the walkers' clip as a picture that is the same on every machine."""

import av
import numpy as np
from numpy.typing import NDArray

from camsdk import assets


def picture(side: int = 300) -> NDArray[np.uint8]:
    """RGB of the first frame, (1, side, side, 3): nearest pixels, BT.601 in integers.

    Integer arithmetic alone, so that golden files need not hold the picture itself.
    """
    with av.open(str(assets.pull("vtest.avi"))) as clip:
        frame = next(clip.decode(video=0))
        planes = [
            np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            for plane in frame.planes
        ]
    y, u, v = (
        plane[np.arange(side) * plane.shape[0] // side][
            :, np.arange(side) * plane.shape[1] // side
        ].astype(np.int32)
        for plane in planes
    )
    luma = 298 * (y - 16) + 128
    red = luma + 409 * (v - 128)
    green = luma - 100 * (u - 128) - 208 * (v - 128)
    blue = luma + 516 * (u - 128)
    return np.clip(np.stack([red, green, blue], -1) >> 8, 0, 255).astype(np.uint8)[None]
