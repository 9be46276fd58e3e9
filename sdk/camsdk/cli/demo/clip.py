"""A recording for the demo: how long it is, and its beginning, cut without encoding it again."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camsdk.errors import InvalidInput, SourceError


def frame_count(path: Path) -> int:
    """Frames of a recording as its container states them; 0 if it does not.

    Raises:
        SourceError: The file cannot be read as video.
    """
    try:
        with av.open(str(path)) as container:
            return int(container.streams.video[0].frames)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise SourceError(f"{path} cannot be read as video", "name a recording") from error


def cut_clip(source: Path, target: Path, seconds: float) -> Path:
    """Copies the packets of the first ``seconds`` of a recording's video.

    Args:
        source: Any video that the demuxer reads.
        target: Written in the same container format (by suffix).
        seconds: Of video to keep, above 0.

    Returns:
        ``target``.

    Raises:
        InvalidInput: ``seconds`` is not above 0.
        SourceError: The file cannot be read as video.
    """
    if seconds <= 0:
        raise InvalidInput(f"a clip of {seconds} seconds holds nothing", "give a positive number")
    try:
        with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
            video = reader.streams.video[0]
            copy = writer.add_stream_from_template(video)
            for packet in reader.demux(video):
                if packet.dts is None:
                    continue
                if packet.dts * packet.time_base >= seconds:
                    break
                packet.stream = copy
                writer.mux(packet)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise SourceError(f"{source} cannot be read as video") from error
    return target


def read_stills(path: Path, indices: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Decodes a recording and keeps the frames asked for.

    Returns:
        Frame index to RGB, uint8 (height, width, 3); indices past the end are missing.

    Raises:
        SourceError: The file cannot be read as video.
    """
    wanted, last = set(indices), max(indices, default=-1)
    stills: dict[int, NDArray[np.uint8]] = {}
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index > last:
                    break
                if index in wanted:
                    stills[index] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise SourceError(f"{path} cannot be read as video") from error
    return stills


def cut_picture(
    path: Path, frame_index: int, xyxy: tuple[float, float, float, float], target: Path
) -> Path:
    """Cuts one object out of a recording's frame, as somebody would who saw it on a screen.

    Args:
        path: The recording.
        frame_index: Which frame.
        xyxy: Box in pixels of the frame.
        target: JPEG to write.

    Returns:
        ``target``.

    Raises:
        SourceError: The file cannot be read as video or has no such frame.
    """
    still = read_stills(path, [frame_index]).get(frame_index)
    if still is None:
        raise SourceError(f"{path} has no frame {frame_index}")
    x1, y1, x2, y2 = (round(edge) for edge in xyxy)
    Image.fromarray(still).crop((x1, y1, x2, y2)).save(target, quality=90)
    return target
