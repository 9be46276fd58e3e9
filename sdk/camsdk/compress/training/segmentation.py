"""Segmentation from a fixed camera without anybody's labels: what moves against what stays.

The median over a recording is the empty scene. Where a frame differs from it there is somebody, and
a small network learns to see that in single frames, so it needs no background of its own later.
Labels are as good as the background: somebody who stands still for half of the recording is part of
it.
"""

from collections.abc import Iterable
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camsdk.errors import InvalidInput
from camsdk.vision.frames import Frame

CLASSES: Final = ("background", "moving")

_LUMA_STEP: Final = 22.0
"""Grey levels from the background on that are no noise and no soft shadow."""

_CHROMA_STEP: Final = 9.0
_LEAST_FRAMES: Final = 3


def moving_masks(frames: Iterable[Frame], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pictures and masks of what moves.

    Args:
        frames: Of one fixed camera, spread over long enough for everybody to move on.
        size: Width and height of the result.

    Returns:
        Pictures float32 (n, 3, h, w), Y, U and V from -1 to 1; masks int64 (n, h, w) of 0 and 1.

    Raises:
        InvalidInput: There are fewer than three frames.
    """
    planes = [
        np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (f.y, f.u, f.v)])
        for f in frames
    ]
    if len(planes) < _LEAST_FRAMES:
        raise InvalidInput(
            f"{len(planes)} frames show no background", f"give at least {_LEAST_FRAMES}"
        )
    pictures = np.stack(planes).astype(np.float32)
    background = np.median(pictures, axis=0)
    steps = np.array([_LUMA_STEP, _CHROMA_STEP, _CHROMA_STEP], np.float32)[:, None, None]
    is_moving = (np.abs(pictures - background) > steps).any(axis=1)
    masks = np.stack([_cleaned(mask) for mask in is_moving])
    return torch.from_numpy(pictures / 127.5 - 1), torch.from_numpy(masks.astype(np.int64))


def _cleaned(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Without single pixels, and with the gaps in a body closed."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, cross)
    return np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, cross), np.uint8)


class SmallSegmenter(nn.Module):
    """An encoder and decoder of operators that integer kernels have.

    (n, 3, h, w) to logits (n, classes, h, w); h and w are multiples of 8. One way up is a resize,
    the other a transposed convolution.
    """

    def __init__(self, *, width: int = 16, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.down1 = _block(3, width, 2)
        self.down2 = _block(width, width * 2, 2)
        self.down3 = _block(width * 2, width * 4, 2)
        self.bottom = _block(width * 4, width * 2, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.middle = _block(width * 2, width, 1)
        self.transposed = nn.ConvTranspose2d(width, width, 2, 2)
        self.relu = nn.ReLU()
        self.head = nn.Conv2d(width, classes, 3, 1, 1)
        self.last_up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        half = self.down1(x)
        quarter = self.down2(half)
        deep = self.up(self.bottom(self.down3(quarter)))
        finer = self.transposed(self.middle(deep + quarter))
        logits: Tensor = self.last_up(self.head(self.relu(finer + half)))
        return logits


def _block(channels: int, filters: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, stride, 1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
    )
