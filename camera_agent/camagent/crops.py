"""Events get a picture, where their rule says ``crops: true``: the only pixels that leave a camera.

A crop shows the event's object in the very frame that decided the event, not a better one before or
after it: pictures of people for whom no rule has asked yet are never kept, not even in memory.

Invariants: without such a rule nothing is cut. Time plays no part, so a replay gives the same
bytes. A picture is small, and a frame gives at most ``MAX_CROPS`` of them, so a batch stays far
below what the cloud accepts, whatever happens before the camera.
"""

import logging
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from camsdk.vision.appearance import crop_rgb
from camsdk.vision.frames import Frame
from camsdk.vision.results import Event
from camsdk.vision.rules import CameraRules

MAX_SIDE_PX: Final = 320
"""Longer side of a picture: shows who it is from near by, and no more than that."""

MAX_CROPS: Final = 16
"""Pictures a frame; events beyond them come without one."""

_MARGIN: Final = 0.1  # share of the box's longer side that is added all round: hats and feet
_JPEG: Final = (cv2.IMWRITE_JPEG_QUALITY, 80)

_log = logging.getLogger(__name__)


class Crops:
    """The ``crops`` stage of one camera: ``pictures = crops(frame, events)``.

    Args:
        rules: Whose ``crops`` says which events get a picture.
    """

    def __init__(self, rules: CameraRules) -> None:
        self.configure(rules)

    def configure(self, rules: CameraRules) -> None:
        """Take new rules; whatever they do not allow ends with the next frame."""
        lines = {line.name for line in rules.lines if line.crops}
        self._allowed = lines | {zone.name for zone in rules.zones if zone.crops}

    def __call__(self, frame: Frame, events: tuple[Event, ...]) -> tuple[bytes, ...]:
        """A JPEG for each event, empty for those that get none; ``()`` if none gets one.

        Args:
            frame: That decided the events; its planes are read only around their boxes.
            events: Of the ``zones`` stage.
        """
        wanted = [row for row, event in enumerate(events) if event.rule in self._allowed]
        if len(wanted) > MAX_CROPS:
            _log.warning("%d events of one frame: %d get a crop", len(wanted), MAX_CROPS)
        crops = [b""] * len(events)
        for row in wanted[:MAX_CROPS]:
            xyxy = events[row].xyxy
            if xyxy is not None:
                crops[row] = cut(frame, xyxy)
        return tuple(crops) if any(crops) else ()


def cut(frame: Frame, xyxy: tuple[float, float, float, float]) -> bytes:
    """JPEG of a box with some margin, at most ``MAX_SIDE_PX`` on its longer side.

    Args:
        frame: Where the object is.
        xyxy: Its box, pixels; what lies outside the frame is cut off.

    Returns:
        The file, or nothing if the box does not lie in the frame.
    """
    left, top, right, bottom = xyxy
    margin = _MARGIN * max(right - left, bottom - top)
    box = np.array([left - margin, top - margin, right + margin, bottom + margin])
    rgb = crop_rgb(frame, box)
    if rgb is None:
        return b""
    encoded: NDArray[np.uint8]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(_shrunk(rgb), cv2.COLOR_RGB2BGR), _JPEG)
    return encoded.tobytes()


def _shrunk(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    scale = MAX_SIDE_PX / max(height, width)
    if scale >= 1.0:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
