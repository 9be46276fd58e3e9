"""A recording for the demo: how long it is, and its beginning, cut without encoding it again."""

from pathlib import Path

import av

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
