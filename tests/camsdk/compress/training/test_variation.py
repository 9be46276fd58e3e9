"""Pictures that are shown otherwise: how much, and that the generator decides all of it."""

import math

import pytest
import torch
from torch import Generator, Tensor

from camsdk.compress.training.variation import Variation

SIZE = 65
MIDDLE = SIZE // 2


def squares(count: int, half: int = 8) -> Tensor:
    """Pictures with a bright square in the middle."""
    pictures = torch.zeros(count, 1, SIZE, SIZE)
    middle = slice(MIDDLE - half, MIDDLE + half + 1)
    pictures[:, :, middle, middle] = 1.0
    return pictures


def varied(variation: Variation, pictures: Tensor, seed: int = 0) -> Tensor:
    return variation.apply(pictures, Generator().manual_seed(seed))


def test_the_generator_decides() -> None:
    variation = Variation(zoom=1.4, shift=0.15)
    one, same, other = (varied(variation, squares(4), seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_things_become_larger_and_smaller_by_up_to_the_zoom() -> None:
    pictures = squares(200)
    sides = varied(Variation(is_mirrored=False, zoom=1.5), pictures).sum(dim=(1, 2, 3)).sqrt()
    factors = sides / math.sqrt(float(pictures[0].sum()))
    assert 1 / 1.5 - 0.02 < float(factors.min()) < 0.7
    assert 1.4 < float(factors.max()) < 1.5 + 0.02
    assert float(factors.log().mean()) == pytest.approx(0, abs=0.05)


def test_things_move_by_up_to_the_shift_along_both_axes() -> None:
    moved = varied(Variation(is_mirrored=False, shift=0.2), squares(200))[:, 0]
    places = torch.arange(SIZE, dtype=torch.float32)
    for axis in (1, 2):
        profile = moved.sum(dim=3 - axis)
        centres = (profile * places).sum(1) / profile.sum(1) - MIDDLE
        assert 0.18 * SIZE < float(centres.max()) <= 0.2 * SIZE + 0.1
        assert -0.2 * SIZE - 0.1 <= float(centres.min()) < -0.18 * SIZE


def test_every_second_picture_is_mirrored_and_nothing_else_happens() -> None:
    pictures = torch.rand(200, 1, 3, 5, generator=Generator().manual_seed(0))
    found = varied(Variation(), pictures)
    is_same = (found == pictures).all(dim=(1, 2, 3))
    is_turned = (found == pictures.flip(3)).all(dim=(1, 2, 3))
    assert bool((is_same ^ is_turned).all())
    assert 70 < int(is_turned.sum()) < 130
