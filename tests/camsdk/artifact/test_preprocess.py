"""Frames become tensors exactly as the manifest says."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camsdk.artifact.manifest import InputSpec
from camsdk.artifact.preprocess import make_input, placement
from camsdk.vision.frames import Frame, yuv_to_rgb

MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


def spec(**changes: Any) -> InputSpec:
    fields: dict[str, Any] = {
        "name": "x", "width": 64, "height": 48, "layout": "NCHW", "color": "BGR",
        "mean": MEAN, "std": STD, "resize": "letterbox",
    }  # fmt: skip
    return InputSpec(**fields | changes)


def noise(width: int, height: int, *, is_full_range: bool = False) -> Frame:
    rng = np.random.default_rng(width * height)
    chroma = ((height + 1) // 2, (width + 1) // 2)
    shapes = ((height, width), chroma, chroma)
    planes = [rng.integers(16, 236, shape, np.uint8) for shape in shapes]
    return Frame(0, 0.0, *planes, is_full_range=is_full_range)


def flat(width: int, height: int, y: int, u: int = 128, v: int = 128) -> Frame:
    chroma = ((height + 1) // 2, (width + 1) // 2)
    return Frame(
        0, 0.0, np.full((height, width), y, np.uint8), np.full(chroma, u, np.uint8),
        np.full(chroma, v, np.uint8),
    )  # fmt: skip


@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("is_full_range", [False, True])
def test_a_frame_of_the_inputs_size_is_only_normalised(
    color: str, layout: str, is_full_range: bool
) -> None:
    frame = noise(64, 48, is_full_range=is_full_range)
    rgb = yuv_to_rgb(frame.y, frame.u, frame.v, is_full_range=is_full_range)
    pixels = rgb if color == "RGB" else rgb[:, :, ::-1]
    expected = (pixels.astype(np.float64) - MEAN) / STD
    if layout == "NCHW":
        expected = expected.transpose(2, 0, 1)
    tensor = make_input(frame, spec(color=color, layout=layout))
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert tensor.shape == spec(layout=layout).shape
    np.testing.assert_allclose(tensor[0], expected, atol=1e-6)


def test_a_uint8_input_takes_pixels_as_they_are() -> None:
    frame = noise(64, 48)
    plain = spec(dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3, color="RGB", layout="NHWC")
    np.testing.assert_array_equal(make_input(frame, plain)[0], frame.rgb)


def test_letterbox_keeps_the_aspect_and_fills_below_with_black() -> None:
    tensor = make_input(flat(128, 48, 235), spec())  # twice as wide: 64 x 24 of 64 x 48
    pixels = tensor[0].transpose(1, 2, 0) * STD + MEAN
    np.testing.assert_allclose(pixels[:24], 255, atol=1e-3)
    np.testing.assert_allclose(pixels[24:], 0, atol=1e-3)


def test_stretch_fills_the_tensor() -> None:
    tensor = make_input(flat(128, 48, 235), spec(resize="stretch"))
    np.testing.assert_allclose(tensor[0].transpose(1, 2, 0) * STD + MEAN, 255, atol=1e-3)


def test_strong_shrinking_averages_instead_of_skipping() -> None:
    y = np.full((480, 640), 16, np.uint8)
    y[:, ::8] = 235  # one bright column in eight, at ten to one
    chroma = np.full((240, 320), 128, np.uint8)
    tensor = make_input(Frame(0, 0.0, y, chroma, chroma), spec())
    pixels = tensor[0].transpose(1, 2, 0) * STD + MEAN
    assert np.ptp(pixels) < 70
    assert pixels.mean() == pytest.approx(255 / 8, abs=2)


@given(st.integers(2, 400), st.integers(2, 400), st.sampled_from(["stretch", "letterbox"]))
def test_any_frame_gives_a_whole_tensor_and_a_place_inside_it(
    width: int, height: int, resize: str
) -> None:
    wanted = spec(resize=resize)
    tensor = make_input(flat(width, height, 120), wanted)
    assert tensor.shape == wanted.shape
    assert np.isfinite(tensor).all()
    place = placement(wanted, width, height)
    assert 1 <= place.width <= 64
    assert 1 <= place.height <= 48
    assert place.width * place.scale_x == pytest.approx(width)
    assert place.height * place.scale_y == pytest.approx(height)
    if resize == "letterbox":
        assert place.width == 64 or place.height == 48
