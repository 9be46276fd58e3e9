"""Pictures that people search with: decoded only after their header has been believed.

A few hundred bytes can describe a picture of gigabytes, so the size is read from the header first;
only JPEG and PNG are let through to the decoder.
"""

import struct
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput

MAX_BYTES: Final = 4 << 20
MAX_SIDE_PX: Final = 4096
MIN_SIDE_PX: Final = 4

_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_START: Final = b"\xff\xd8\xff"
# JPEG start-of-frame markers (ITU-T T.81, table B.1); C4, C8 and CC are others.
_FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_WAY_OUT: Final = "give a JPEG or PNG of one person or object"


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decodes a JPEG or PNG.

    Returns:
        uint8 (height, width, 3), RGB; transparency is dropped.

    Raises:
        InvalidInput: Neither, damaged, or not within ``MIN_SIDE_PX`` and ``MAX_SIDE_PX``.
    """
    if len(data) > MAX_BYTES:
        raise InvalidInput(
            f"the picture has {len(data)} bytes", f"at most {MAX_BYTES} are read; crop it"
        )
    width, height = _stated_size(data)
    if not (MIN_SIDE_PX <= width <= MAX_SIDE_PX and MIN_SIDE_PX <= height <= MAX_SIDE_PX):
        raise InvalidInput(
            f"the picture is {width}x{height} pixels",
            f"sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} are read; crop it",
        )
    # The crop's orientation is what the camera code saw: EXIF must not turn it.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InvalidInput("the picture is damaged", _WAY_OUT) from error
    if bgr is None or bgr.shape != (height, width, 3):
        raise InvalidInput("the picture is damaged", _WAY_OUT)
    return np.ascontiguousarray(bgr[:, :, ::-1], np.uint8)


def _stated_size(data: bytes) -> tuple[int, int]:
    if data.startswith(_PNG_START) and len(data) >= 24 and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data.startswith(_JPEG_START):
        return _jpeg_size(data)
    raise InvalidInput("the picture is neither JPEG nor PNG", _WAY_OUT)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks the marker segments up to the frame header (T.81, B.2.2)."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in _BARE_MARKERS:
            place += 2
        elif marker in _FRAME_MARKERS:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    raise InvalidInput("the picture is damaged", _WAY_OUT)
