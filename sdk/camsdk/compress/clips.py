"""Frames of a recording for calibration and evaluation, chosen so that the two never overlap."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput, SourceError
from camsdk.vision.frames import Frame

_CHOICE: Final = 20
"""Frames to choose by at most."""


@dataclass(frozen=True)
class ClipSplit:
    """Which frames of a clip serve what.

    Attributes:
        calibration: Indices of frames from the first third.
        evaluation: Indices of frames from the second half, hence at least a sixth of the clip
            later: neighbours of a calibration frame look like it and would flatter the result.
        choice: Indices of frames between the two, to choose between two results by.
    """

    calibration: tuple[int, ...]
    evaluation: tuple[int, ...]
    choice: tuple[int, ...] = ()


def split_clip(frame_count: int, *, calibration: int = 24, evaluation: int = 50) -> ClipSplit:
    """Choose evenly spaced frames.

    Raises:
        InvalidInput: The clip is too short.
    """
    third, half = frame_count // 3, frame_count // 2
    if third < calibration or frame_count - half < evaluation:
        raise InvalidInput(
            f"{frame_count} frames are too few: the first third, {third}, has to hold "
            f"{calibration} to calibrate on, and the second half, {frame_count - half}, "
            f"{evaluation} to evaluate on",
            f"give more, or --calibration up to {third} and --evaluation up to "
            f"{frame_count - half}",
        )
    gap = half - third
    choice = min(_CHOICE, gap)
    return ClipSplit(
        tuple(index * third // calibration for index in range(calibration)),
        tuple(half + i * (frame_count - half) // evaluation for i in range(evaluation)),
        tuple(third + (2 * i + 1) * gap // (2 * choice) for i in range(choice)),
    )


def count_frames(path: Path) -> int:
    """Number of frames, as the container says, or counted when it does not.

    Raises:
        SourceError: It cannot be opened or read.
    """
    with _opened(path) as container:
        declared = container.streams.video[0].frames
        if declared > 0:
            return int(declared)
        return sum(1 for _ in _decoded(container, path))


def read_frames(
    path: Path, indices: Sequence[int], on_frame: Callable[[int], None] | None = None
) -> Iterator[Frame]:
    """Decode chosen frames, in ascending order.

    Args:
        path: A recording.
        indices: Which frames, from 0.
        on_frame: Called with the number of frames decoded, chosen or not.

    Raises:
        SourceError: It cannot be opened or read, or ends before the last index.
    """
    wanted = set(indices)
    with _opened(path) as container:
        for index, picture in enumerate(_decoded(container, path)):
            if on_frame is not None:
                on_frame(index + 1)
            if index in wanted:
                wanted.discard(index)
                yield to_frame(picture, index)
            if not wanted:
                return
    if wanted:
        raise SourceError(f"{path.name} ends before frame {min(wanted)}", "is it truncated?")


def to_frame(picture: av.VideoFrame, index: int) -> Frame:
    """A decoded picture as a ``Frame``; its timestamp is its place in the clip, in seconds."""
    is_full_range = picture.format.name == "yuvj420p" or picture.color_range == 2  # JPEG, H.273
    if picture.format.name not in ("yuv420p", "yuvj420p"):
        picture = picture.reformat(format="yuv420p")
    width, height = picture.width, picture.height
    chroma = ((width + 1) // 2, (height + 1) // 2)
    y, u, v = (
        _plane(picture.planes[i], *size) for i, size in enumerate(((width, height), chroma, chroma))
    )
    return Frame(
        index, float(picture.time or 0.0), y, u, v, picture.key_frame, False, is_full_range
    )


def _plane(plane: "av.video.plane.VideoPlane", width: int, height: int) -> NDArray[np.uint8]:
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return np.array(rows[:height, :width])


def _opened(path: Path) -> "av.container.InputContainer":
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(
            f"{path} cannot be opened as a recording: {error.strerror}",
            "give a video file such as MP4, MKV or AVI",
        ) from error
    if not container.streams.video:
        container.close()
        raise SourceError(f"{path} holds no video", "give a video file such as MP4, MKV or AVI")
    return container


def _decoded(container: "av.container.InputContainer", path: Path) -> Iterator[av.VideoFrame]:
    container.streams.video[0].thread_type = "AUTO"
    try:
        yield from container.decode(video=0)
    except av.error.FFmpegError as error:
        raise SourceError(f"{path.name} cannot be decoded: {error}") from error
