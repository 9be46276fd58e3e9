"""Pictures that are shown otherwise at every step: mirrored, nearer or farther, moved."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Generator, Tensor
from torch.nn import functional

_CORNERS: Final = 2.0
"""Width and height of a picture in the coordinates of ``affine_grid``, from -1 to 1."""


@dataclass(frozen=True)
class Variation:
    """What is random in a picture.

    Attributes:
        is_mirrored: Every second one.
        zoom: Larger or smaller by up to this factor.
        shift: Moved by up to this share of the width and of the height, either way.
    """

    is_mirrored: bool = True
    zoom: float = 1.0
    shift: float = 0.0

    def apply(self, pictures: Tensor, generator: Generator) -> Tensor:
        """The same number of pictures of the same size; what lies beyond an edge is its reflection.

        Args:
            pictures: float32 (n, c, h, w).
            generator: Decides all of it.
        """
        if self.is_mirrored:
            pictures = mirrored(pictures, generator)
        if self.zoom == 1.0 and not self.shift:
            return pictures
        count = len(pictures)
        placed = torch.zeros(count, 2, 3)
        scale = torch.exp(_between(count, math.log(self.zoom), generator))
        for axis in range(2):
            placed[:, axis, axis] = scale
            placed[:, axis, 2] = _between(count, self.shift * _CORNERS, generator)
        grid = functional.affine_grid(placed, list(pictures.shape), align_corners=False)
        return functional.grid_sample(
            pictures, grid, padding_mode="reflection", align_corners=False
        )


def mirrored(pictures: Tensor, generator: Generator) -> Tensor:
    """Every second one, at random; shape (n, c, h, w)."""
    is_turned = torch.rand(len(pictures), generator=generator) < 0.5
    return torch.where(is_turned[:, None, None, None], pictures.flip(3), pictures)


def _between(count: int, limit: float, generator: Generator) -> Tensor:
    return limit * (2 * torch.rand(count, generator=generator) - 1)
