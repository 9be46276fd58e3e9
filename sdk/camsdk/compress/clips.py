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
    return split_groups([range(frame_count)], calibration=calibration, evaluation=evaluation)


def split_groups(
    groups: Sequence[Sequence[int]], *, calibration: int = 24, evaluation: int = 50
) -> ClipSplit:
    """Choose frames as of a clip, from the thirds, gaps and halves of each group.

    Every group that has frames for a purpose serves it with one at least, as long as there are as
    many frames to choose; what is left goes by the groups' sizes.

    Args:
        groups: Frame indices of each, such as those of a class, ascending.

    Raises:
        InvalidInput: They are too few.
    """
    thirds = [group[: len(group) // 3] for group in groups]
    gaps = [group[len(group) // 3 : len(group) // 2] for group in groups]
    halves = [group[len(group) // 2 :] for group in groups]
    third, gap, half = (sum(map(len, parts)) for parts in (thirds, gaps, halves))
    if third < calibration or half < evaluation:
        of_each = " of each class" if len(groups) > 1 else ""
        raise InvalidInput(
            f"{third + gap + half} frames are too few: the first third{of_each}, {third}, has to "
            f"hold {calibration} to calibrate on, and the second half{of_each}, {half}, "
            f"{evaluation} to evaluate on",
            _way_out(calibration, third, evaluation, half),
        )
    return ClipSplit(
        _spaced(thirds, calibration),
        _spaced(halves, evaluation),
        _spaced(gaps, min(_CHOICE, gap), 1),
    )


def _way_out(calibration: int, third: int, evaluation: int, half: int) -> str:
    """What to do about too few frames; no option is named with what it refuses."""
    if (calibration and not third) or (evaluation and not half):
        least = 3 if calibration else 1
        return f"give more: {least} of them at the least, a few dozen for figures that say much"
    asked = (("--calibration", calibration, third), ("--evaluation", evaluation, half))
    ways = [f"{option} up to {held}" for option, wanted, held in asked if wanted > held]
    return f"give more, or {' and '.join(ways)}"


def _spaced(parts: Sequence[Sequence[int]], count: int, offset: int = 0) -> tuple[int, ...]:
    """``count`` entries at equal distances inside each part, ascending.

    Args:
        offset: Of the first from the part's start, in half distances.
    """
    return tuple(
        sorted(
            part[(2 * index + offset) * len(part) // (2 * share)]
            for part, share in zip(parts, _shares([*map(len, parts)], count), strict=True)
            for index in range(share)
        )
    )


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many of ``count`` each part gives: one each, the rest by size (largest remainder).

    If there are more parts than that, evenly spaced ones give one.
    """
    shares = [0] * len(sizes)
    held = [place for place, size in enumerate(sizes) if size]
    if count < len(held):
        for index in range(count):
            shares[held[index * len(held) // count]] = 1
        return shares
    rest, more = count - len(held), sum(sizes) - len(held)
    remainders: dict[int, int] = {}
    for place in held:
        whole, remainders[place] = divmod((sizes[place] - 1) * rest, max(more, 1))
        shares[place] = 1 + whole
    by_remainder = sorted(held, key=lambda place: -remainders[place])
    for place in by_remainder[: count - sum(shares)]:
        shares[place] += 1
    return shares


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
        # Of a relative path, FFmpeg takes what is before a colon for a protocol.
        container = av.open(str(path.absolute()))
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
