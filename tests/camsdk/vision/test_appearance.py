"""Appearance codes: the agent's planes and the cloud's JPEG give the same code."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from camsdk.errors import InvalidInput
from camsdk.vision.appearance import METHOD, SIZE, crop_rgb, hsv_stripes, similarity
from camsdk.vision.frames import Frame

RED, BLUE, GREEN, BLACK, WHITE = (200, 30, 40), (40, 60, 190), (50, 160, 60), (20,) * 3, (230,) * 3


def person(top: tuple[int, ...], bottom: tuple[int, ...], *, height: int = 96) -> np.ndarray:
    """A figure with a jacket and trousers before grey ground, uint8 (height, height / 2, 3)."""
    width = height // 2
    picture = np.full((height, width, 3), 120, np.uint8)
    body = slice(width // 5, width - width // 5)
    picture[: height // 6, body] = (190, 150, 130)
    picture[height // 6 : height // 2, body] = top
    picture[height // 2 :, body] = bottom
    noise = np.random.default_rng(0).normal(0, 6, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def scene_with(figure: np.ndarray, left: int, top: int) -> Frame:
    picture = np.full((240, 320, 3), 120, np.uint8)
    height, width = figure.shape[:2]
    picture[top : top + height, left : left + width] = figure
    return frame_of(picture)


def frame_of(picture: np.ndarray, *, is_full_range: bool = False) -> Frame:
    height, width = picture.shape[:2]
    if is_full_range:
        ycc = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
        half = (width // 2, height // 2)
        chroma = [cv2.resize(ycc[..., i], half, interpolation=cv2.INTER_AREA) for i in (2, 1)]
        return Frame(0, 0.0, ycc[..., 0].copy(), *chroma, is_full_range=True)
    i420 = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
    chroma = i420[height:].reshape(2, height // 2, width // 2)
    return Frame(0, 0.0, i420[:height], chroma[0], chroma[1])


def as_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, data = cv2.imencode(".jpg", picture[..., ::-1], options)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(similarity(one[None], other)[0])


def test_a_code_is_a_unit_vector_of_bytes() -> None:
    code = hsv_stripes(person(RED, BLUE))
    assert METHOD == "hsv-stripes-128"
    assert code.shape == (SIZE,)
    assert code.dtype == np.int8
    assert np.linalg.norm(code.astype(float)) == pytest.approx(127.0, abs=3.0)


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("place", [(40, 60), (41, 61), (100, 33)])
def test_the_planes_and_a_jpeg_give_the_same_code(quality: int, place: tuple[int, int]) -> None:
    figure = person(RED, BLUE)
    frame = scene_with(figure, *place)
    box = np.array([place[0], place[1], place[0] + 48, place[1] + 96], np.float32)
    crop = crop_rgb(frame, box)
    assert crop is not None
    assert alike(hsv_stripes(crop), hsv_stripes(as_jpeg(figure, quality))) > 0.97


def test_the_crop_equals_the_same_part_of_the_whole_picture() -> None:
    frame = scene_with(person(RED, BLUE), 40, 60)
    crop = crop_rgb(frame, np.array([40.0, 60.0, 88.0, 156.0]))
    np.testing.assert_array_equal(crop, frame.rgb[60:156, 40:88])


def test_full_range_planes_give_the_same_code() -> None:
    picture = np.repeat(np.repeat(person(RED, BLUE), 2, axis=0), 2, axis=1)
    whole = np.array([0.0, 0.0, picture.shape[1], picture.shape[0]])
    codes = []
    for is_full_range in (False, True):
        crop = crop_rgb(frame_of(picture, is_full_range=is_full_range), whole)
        assert crop is not None
        assert np.abs(crop.astype(int) - picture).mean() < 6
        codes.append(hsv_stripes(crop))
    assert alike(*codes) > 0.99


def test_clothes_tell_people_apart() -> None:
    query = hsv_stripes(person(RED, BLUE))
    same_smaller = hsv_stripes(person(RED, BLUE, height=60))
    upside_down = hsv_stripes(person(BLUE, RED))
    others = [hsv_stripes(person(*colours)) for colours in ((BLACK, BLACK), (WHITE, GREEN))]
    assert alike(query, same_smaller) > 0.97
    assert max(alike(query, other) for other in (*others, upside_down)) < 0.9


def test_light_that_changes_a_little_changes_the_code_a_little() -> None:
    figure = person(RED, BLUE)
    brighter = np.clip(figure.astype(float) * 1.1, 0, 255).astype(np.uint8)
    assert alike(hsv_stripes(figure), hsv_stripes(brighter)) > 0.93


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda s: (*s, 3))))
def test_any_crop_has_a_code(crop: np.ndarray) -> None:
    code = hsv_stripes(crop)
    assert np.linalg.norm(code.astype(float)) == pytest.approx(127.0, abs=4.0)
    assert (code >= 0).all()


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
    ],
)
def test_what_is_no_picture_is_refused(crop: np.ndarray) -> None:
    with pytest.raises(InvalidInput):
        hsv_stripes(crop)


@given(
    box=arrays(np.float32, 4, elements=st.floats(-500, 500, width=32)),
    odd=st.booleans(),
)
def test_any_box_gives_a_crop_or_none(box: np.ndarray, odd: bool) -> None:
    height, width = (37, 51) if odd else (36, 50)
    chroma = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    frame = Frame(0, 0.0, np.full((height, width), 99, np.uint8), chroma, chroma)
    crop = crop_rgb(frame, box)
    if crop is not None:
        assert crop.shape[0] <= height
        assert crop.shape[1] <= width
        assert hsv_stripes(crop).shape == (SIZE,)


def test_a_box_that_is_no_number_gives_none() -> None:
    frame = scene_with(person(RED, BLUE), 40, 60)
    assert crop_rgb(frame, np.array([np.nan, 0.0, 10.0, 10.0])) is None
    assert crop_rgb(frame, np.array([0.0, 0.0, np.inf, 10.0])) is None
