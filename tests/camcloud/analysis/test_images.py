"""Pictures of searches: the header is believed before the decoder runs, and bounded."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcloud.analysis import images
from camcloud.analysis.images import decode_image
from camsdk.errors import InvalidInput


def picture(height: int = 60, width: int = 30) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, :, 0] = 200  # red
    rgb[height // 2 :, :, 2] = 120
    return rgb


def encoded(rgb: np.ndarray, kind: str, *options: int) -> bytes:
    ok, data = cv2.imencode(kind, rgb[:, :, ::-1], options)
    assert ok
    return data.tobytes()


@pytest.mark.parametrize("size", [(60, 30), (4, 4), (63, 17)])
def test_a_png_comes_back_exactly_and_in_rgb(size: tuple[int, int]) -> None:
    rgb = picture(*size)
    assert np.array_equal(decode_image(encoded(rgb, ".png")), rgb)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_a_jpeg_comes_back_nearly(options: tuple[int, ...]) -> None:
    found = decode_image(encoded(picture(), ".jpg", *options))
    assert found.shape == (60, 30, 3)
    assert abs(int(found[5, 5, 0]) - 200) < 12


def png_claiming(width: int, height: int) -> bytes:
    """A well-formed PNG of zeros that claims to be that large; a few bytes, however large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    data = encoded(picture(), ".jpg")
    place = data.index(b"\xff\xc0")
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png_claiming(100_000, 100_000), "100000x100000"),
        (png_claiming(4097, 10), "4097x10"),
        (jpeg_claiming(65_000, 65_000), "65000x65000"),
        (png_claiming(3, 3), "3x3"),
        (png_claiming(0, 0), "0x0"),
        (b"", "neither"),
        (b"GIF89a" + bytes(100), "neither"),
        (b"<svg/>", "neither"),
        (b"\x89PNG\r\n\x1a\n", "neither"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (encoded(picture(), ".png")[:60], "damaged"),
        (encoded(picture(), ".jpg")[:25], "damaged"),
        (b"\xff\xd8\xff" + bytes(images.MAX_BYTES), "bytes"),
    ],
)
def test_what_is_no_decent_picture_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        decode_image(data)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from([".png", ".jpg"]))
def test_no_mutation_does_more_than_be_refused(data: st.DataObject, kind: str) -> None:
    raw = bytearray(encoded(picture(), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        rgb = decode_image(bytes(raw))
    except InvalidInput:
        return
    assert rgb.ndim == 3
    assert max(rgb.shape) <= images.MAX_SIDE_PX
