"""Made-up pictures have what photographs have, and the numbers that a model expects."""

import numpy as np
import pytest

from camsdk.compress.ptq.synthetic import Synthesis, synthesise
from camsdk.errors import InvalidInput

SHAPE = (1, 3, 64, 96)


def test_the_same_seed_makes_the_same_pictures() -> None:
    first, second = (np.stack(list(synthesise(SHAPE, 3, seed=5))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert first.dtype == np.float32
    assert first.shape == (3, *SHAPE)


def test_mean_and_std_are_those_of_the_manifest() -> None:
    plain = next(synthesise(SHAPE, 1, seed=1, mean=(0.0,), std=(1.0,)))
    assert plain.min() >= 0
    assert plain.max() <= 255
    normalised = next(synthesise(SHAPE, 1, seed=1, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0)))
    np.testing.assert_allclose(normalised[0, 1], (plain[0, 1] - 20) / 4, rtol=1e-5)


def test_channels_may_come_last() -> None:
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    first = next(synthesise(SHAPE, 1, 1, mean, std))
    last = next(synthesise((1, 64, 96, 3), 1, 1, mean, std, is_channels_last=True))
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))
    assert last.flags.c_contiguous


def test_neighbours_are_alike_and_power_falls_with_frequency() -> None:
    pictures = np.concatenate(list(synthesise((1, 1, 128, 128), 20, seed=2)))[:, 0]
    neighbours = np.corrcoef(pictures[:, :, 1:].ravel(), pictures[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.8
    power = np.mean(np.abs(np.fft.fft(pictures - pictures.mean(), axis=2)) ** 2, axis=(0, 1))
    slope = np.polyfit(np.log(np.arange(2, 40)), np.log(power[2:40]), 1)[0]
    assert -2.6 < slope < -1.4


def test_other_shapes_get_noise() -> None:
    assert next(synthesise((1, 40), 1, seed=0)).shape == (1, 40)


def test_a_mean_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="3 channels"):
        synthesise(SHAPE, 1, seed=0, mean=(1.0, 2.0))


def test_small_pictures_come_in_larger_numbers() -> None:
    counts = [Synthesis().count_for((1, 3, size, size)) for size in (28, 48, 320)]
    assert counts[0] > counts[1] > counts[2] == 32
    last = Synthesis(is_channels_last=True)
    assert last.count_for((1, 48, 48, 3)) == counts[1]
    assert Synthesis(count=1).count_for((1, 3, 640, 352)) == 1
