"""How an object looks, as 128 signed bytes: colour histograms of horizontal stripes.

An honest baseline, named as such: no learning, no weights. It tells a red jacket over blue trousers
from a black coat; it cannot tell two black coats apart, and shifts with the light. Codes of
different methods must never be compared, so whoever stores one stores ``METHOD`` too.

The box is cut into four stripes (head and shoulders, chest, hips, legs for a standing person) and
scaled to a fixed small picture, so the cost does not depend on the object's size. Each pixel votes
with its share of colour for hue x brightness, and with the rest for brightness alone; votes are
split between neighbouring bins, and pixels near the box's sides, where the background shows, count
less. Square roots before normalising make the dot product of two codes a Bhattacharyya coefficient
of their histograms.

Both ends use this module: the agent from a crop of the YUV planes, the cloud from the picture that
a user searches with.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput
from camsdk.vision.frames import Frame, yuv_to_rgb

U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
F32 = NDArray[np.float32]
Floats = NDArray[np.floating]

METHOD: Final = "hsv-stripes-128"
SIZE: Final = 128

_STRIPES: Final = 4
_HUES: Final = 12
_COLOUR_VALUES: Final = 2
_GREYS: Final = 8
_BINS: Final = _HUES * _COLOUR_VALUES + _GREYS
_WIDTH: Final = 24
_HEIGHT: Final = 64
_FULL_CHROMA: Final = 0.25
"""Chroma (max - min of RGB, 0 to 1) from which a pixel counts as all colour and no grey."""


def hsv_stripes(rgb_crop: U8) -> I8:
    """Appearance code of one object.

    Args:
        rgb_crop: uint8 (height, width, 3), the object's box and nothing else.

    Returns:
        int8 (128,): a unit vector times 127, rounded; equal looks give a dot product near 127^2.

    Raises:
        InvalidInput: The crop is empty or no RGB picture.
    """
    if rgb_crop.ndim != 3 or rgb_crop.shape[2] != 3 or rgb_crop.dtype != np.uint8:
        raise InvalidInput(f"a crop of shape {rgb_crop.shape} is no RGB picture")
    if rgb_crop.size == 0:
        raise InvalidInput("the crop is empty", "give at least one pixel")
    small = cv2.resize(rgb_crop, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
    # Float HSV: hue in degrees, saturation and value 0 to 1; no rounding to disagree about.
    unit = small.astype(np.float32) / np.float32(255.0)
    hsv = np.asarray(cv2.cvtColor(unit, cv2.COLOR_RGB2HSV), np.float32)
    histogram = np.zeros(SIZE)
    for bins, weights in _votes(hsv):
        histogram += np.bincount(bins.ravel(), weights.ravel(), SIZE)
    root = np.sqrt(histogram)
    code: I8 = np.rint(root * (127.0 / np.linalg.norm(root))).astype(np.int8)
    return code


def crop_rgb(frame: Frame, xyxy: Floats) -> U8 | None:
    """The part of a frame that a box covers, converted from the planes of that part alone.

    Args:
        frame: Where the object is.
        xyxy: (4,) pixels; what lies outside the frame is cut off.

    Returns:
        uint8 (height, width, 3), or None if less than 2x2 pixels are left.
    """
    if not np.isfinite(xyxy).all():
        return None
    left, top = (max(int(np.floor(side)), 0) for side in xyxy[:2])
    right = min(int(np.ceil(xyxy[2])), frame.width)
    bottom = min(int(np.ceil(xyxy[3])), frame.height)
    # Chroma has one sample for 2x2 pixels: start on one.
    left, top = left - left % 2, top - top % 2
    if right - left < 2 or bottom - top < 2:
        return None
    chroma = (slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2))
    luma = frame.y[top:bottom, left:right]
    return yuv_to_rgb(luma, frame.u[chroma], frame.v[chroma], is_full_range=frame.is_full_range)


def similarity(codes: I8, query: I8) -> F32:
    """Cosine similarity of codes (n, d) with one code (d,), float32 (n,)."""
    rows = codes.astype(np.float32)
    wanted = query.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted)
    cosine: F32 = (rows @ wanted) / np.maximum(norms, np.float32(1e-6))
    return cosine


def _pixel_weights() -> F32:
    """(height, width): 1 in the middle column, falling to the sides like a Gaussian."""
    offset = (np.arange(_WIDTH) + 0.5) / _WIDTH - 0.5
    column = np.exp(-0.5 * (offset / 0.25) ** 2).astype(np.float32)
    return np.repeat(column[None], _HEIGHT, axis=0)


_WEIGHTS: Final = _pixel_weights()
_FIRST_BINS: Final = (np.arange(_HEIGHT) * _STRIPES // _HEIGHT * _BINS)[:, None]


def _votes(hsv: F32) -> list[tuple[NDArray[np.int64], F32]]:
    """All (bin, weight) pairs of a picture: four for colour, two for grey, a pixel each."""
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    colour = np.minimum(saturation * value / np.float32(_FULL_CHROMA), np.float32(1.0))
    low_hue, hue_share = _split(hue * np.float32(_HUES / 360.0) - np.float32(0.5))
    low_value, value_share = _split_clamped(value, _COLOUR_VALUES)
    votes = []
    for hue_step, hue_weight in ((0, 1 - hue_share), (1, hue_share)):
        hue_bin = (low_hue + hue_step) % _HUES
        for value_step, value_weight in ((0, 1 - value_share), (1, value_share)):
            bins = _FIRST_BINS + hue_bin * _COLOUR_VALUES + low_value + value_step
            votes.append((bins, _WEIGHTS * colour * hue_weight * value_weight))
    low_grey, grey_share = _split_clamped(value, _GREYS)
    first_grey = _FIRST_BINS + _HUES * _COLOUR_VALUES
    votes.append((first_grey + low_grey, _WEIGHTS * (1 - colour) * (1 - grey_share)))
    votes.append((first_grey + low_grey + 1, _WEIGHTS * (1 - colour) * grey_share))
    return votes


def _split(place: F32) -> tuple[NDArray[np.int64], F32]:
    """Between which two bins a place lies: the lower one, and the share of the upper one."""
    low = np.floor(place)
    share: F32 = (place - low).astype(np.float32)
    return low.astype(np.int64), share


def _split_clamped(value: F32, count: int) -> tuple[NDArray[np.int64], F32]:
    """As ``_split``, for a value of 0 to 1 over ``count`` >= 2 bins without wrapping round."""
    place = np.clip(value * np.float32(count - 1), 0.0, np.float32(count - 1 - 1e-4))
    return _split(place.astype(np.float32))
