"""Small clips made on the spot: pictures, encoded access units for RTP, files on disk."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

I420 = NDArray[np.uint8]
"""uint8 (height * 3 / 2, width): luma, then both chroma planes, as PyAV wants yuv420p."""

_OPTIONS = {
    # In-band headers at each key frame, no delay, one slice: what a plain camera sends.
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "crf": "18", "threads": "1"},
    "mpeg4": {"qmin": "3", "qmax": "3"},
}


@dataclass(frozen=True)
class Clip:
    """An encoded clip.

    Attributes:
        codec: ``libx264`` or ``mpeg4``.
        width, height: Pixels.
        rate_hz: Frames a second.
        access_units: One a frame; H.264 in Annex B, key frames with their headers.
    """

    codec: str
    width: int
    height: int
    rate_hz: int
    access_units: tuple[bytes, ...]


def scene(width: int, height: int, count: int, seed: int = 0) -> Iterator[I420]:
    """A textured wall that a bright block walks along, 4 pixels a frame."""
    rng = np.random.default_rng(seed)
    wall = rng.integers(60, 120, (height // 8 + 1, width // 8 + 1), np.uint8)
    wall = np.kron(wall, np.ones((8, 8), np.uint8))[:height, :width]
    block_h, block_w = height // 3, width // 12
    for index in range(count):
        picture = np.full((height * 3 // 2, width), 128, np.uint8)
        picture[:height] = wall
        left = (4 * index) % (width - block_w)
        picture[height // 3 : height // 3 + block_h, left : left + block_w] = 220
        yield picture


def still(width: int, height: int, count: int, level: int = 90) -> Iterator[I420]:
    """An empty room."""
    picture = np.full((height * 3 // 2, width), 128, np.uint8)
    picture[:height] = level
    for _ in range(count):
        yield picture


def pictures_of(path: Path, count: int) -> Iterator[I420]:
    """The first pictures of a file."""
    with av.open(str(path)) as container:
        for frame, _ in zip(container.decode(video=0), range(count), strict=False):
            yield frame.to_ndarray(format="yuv420p")


def encode(
    pictures: Iterable[I420], rate_hz: int = 10, codec: str = "libx264", key_every: int = 10
) -> Clip:
    """Encode pictures of one size in memory."""
    frames = [av.VideoFrame.from_ndarray(picture, format="yuv420p") for picture in pictures]
    context = av.CodecContext.create(codec, "w")
    context.width, context.height = frames[0].width, frames[0].height
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, rate_hz)
    context.framerate = Fraction(rate_hz)
    context.gop_size = key_every
    context.max_b_frames = 0
    context.options = dict(_OPTIONS[codec])
    units = []
    for index, frame in enumerate(frames):
        frame.pts = index
        units += [bytes(packet) for packet in context.encode(frame)]
    units += [bytes(packet) for packet in context.encode(None)]
    return Clip(codec, frames[0].width, frames[0].height, rate_hz, tuple(units))


def write_video(
    path: Path, pictures: Iterable[I420], rate_hz: int = 10, codec: str = "libx264"
) -> Path:
    """Write pictures of one size as a file; its name's suffix chooses the container."""
    with av.open(str(path), "w") as container:
        stream = None
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            if stream is None:
                stream = container.add_stream(codec, rate=rate_hz, options=dict(_OPTIONS[codec]))
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                stream.codec_context.gop_size = 10
            container.mux(stream.encode(frame))
        assert stream is not None, "no pictures"
        container.mux(stream.encode(None))
    return path
