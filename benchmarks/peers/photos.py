"""The 20 photos of the assets as inputs of an ImageNet network."""

from pathlib import Path

import numpy as np
from PIL import Image

CALIBRATION = (0, 2, 5, 7, 10, 12, 15, 17)
"""Photos to calibrate on; the judge sees all others."""
COUNT = 20
_RESIZED = 256


def views(path: Path, side: int, mean: float, std: float) -> np.ndarray:
    """Four corners and the middle of a photo as inputs: (5, 3, side, side) float32."""
    photo = Image.open(path).convert("RGB")
    factor = _RESIZED / min(photo.size)
    width, height = (round(length * factor) for length in photo.size)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    bottom, right = height - side, width - side
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
    crops = [pixels[top : top + side, left : left + side] for top, left in corners]
    return np.ascontiguousarray((np.stack(crops).transpose(0, 3, 1, 2) - mean) / std)
