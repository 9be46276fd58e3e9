"""From a camera's frame to a model's input tensor, as the manifest says.

The planes are resized first and become RGB afterwards: a full-size RGB picture is never made. The
exact steps, which training, calibration and every runtime share:

1. ``placement`` gives the size of the picture inside the tensor.
2. Each plane is resized (luma to that size, chroma to half of it, rounded up), bilinear, or by area
   when it shrinks by more than two, since bilinear then skips pixels.
3. BT.601 YUV becomes RGB with 8 bits (``camsdk.vision.frames.yuv_to_rgb``); ``letterbox`` fills
   below and right with 0.
4. A table of 256 entries per channel gives ``(pixel - mean) / std``.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.manifest import InputSpec
from camsdk.vision.frames import U8, Frame, yuv_to_rgb

Tensor = NDArray[np.float32] | NDArray[np.uint8]


@dataclass(frozen=True)
class Placement:
    """Where the picture lies inside the input tensor, from its top left corner.

    Attributes:
        width, height: Of the picture inside the tensor, pixels.
        scale_x, scale_y: Pixels of the frame per pixel of the tensor.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float


@lru_cache(maxsize=64)
def placement(spec: InputSpec, width: int, height: int) -> Placement:
    """The place of a frame of ``width`` x ``height`` pixels in the tensor."""
    if spec.resize == "stretch":
        return Placement(spec.width, spec.height, width / spec.width, height / spec.height)
    shrink = max(width / spec.width, height / spec.height)
    inner_width = min(spec.width, max(1, round(width / shrink)))
    inner_height = min(spec.height, max(1, round(height / shrink)))
    return Placement(inner_width, inner_height, width / inner_width, height / inner_height)


def make_input(frame: Frame, spec: InputSpec) -> Tensor:
    """The input tensor of a frame.

    Args:
        frame: Any size.
        spec: Of the manifest.

    Returns:
        Shape ``spec.shape``, dtype ``spec.dtype``, C order.
    """
    rgb = _small_rgb(frame, placement(spec, frame.width, frame.height))
    channels = range(3) if spec.color == "RGB" else (2, 1, 0)
    tables = _tables(spec)
    planes = np.zeros((3, spec.height, spec.width), tables.dtype)
    height, width = rgb.shape[:2]
    for index, channel in enumerate(channels):
        plane = planes[index]
        if (height, width) != plane.shape:
            plane.fill(tables[index, 0])
        plane[:height, :width] = cv2.LUT(cv2.extractChannel(rgb, channel), tables[index])
    if spec.layout == "NHWC":
        return np.ascontiguousarray(planes.transpose(1, 2, 0))[np.newaxis]
    return planes[np.newaxis]


def _small_rgb(frame: Frame, place: Placement) -> U8:
    chroma = ((place.width + 1) // 2, (place.height + 1) // 2)
    y = _resized(frame.y, (place.width, place.height))
    u, v = _resized(frame.u, chroma), _resized(frame.v, chroma)
    return yuv_to_rgb(y, u, v, is_full_range=frame.is_full_range)


def _resized(plane: U8, size: tuple[int, int]) -> U8:
    """``plane`` at ``size`` (width, height)."""
    shrink = max(plane.shape[1] / size[0], plane.shape[0] / size[1])
    method = cv2.INTER_AREA if shrink > 2 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(plane, size, interpolation=method), np.uint8)


@lru_cache(maxsize=64)
def _tables(spec: InputSpec) -> Tensor:
    """Shape (3, 256): what each pixel value becomes, per channel of the tensor."""
    levels = np.arange(256)
    if spec.dtype == "uint8":
        return np.tile(levels.astype(np.uint8), (3, 1))
    mean, std = np.asarray(spec.mean)[:, np.newaxis], np.asarray(spec.std)[:, np.newaxis]
    return np.asarray((levels - mean) / std, np.float32)
