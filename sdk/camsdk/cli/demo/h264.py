"""What the same clip costs as video, encoded in the same run: the baseline that a ratio names."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from camsdk.errors import SourceError


@dataclass(frozen=True)
class EncodedClip:
    """Size of a clip as H.264.

    Attributes:
        crf: Constant rate factor of libx264.
        preset: Of libx264.
        frame_count: Frames encoded.
        size_bytes: Of all packets, without a container.
        duration_s: At the clip's own frame rate.
    """

    crf: int
    preset: str
    frame_count: int
    size_bytes: int
    duration_s: float


def encode_clip(
    path: Path,
    *,
    crf: int = 23,
    preset: str = "medium",
    on_progress: Callable[[int, int], None] | None = None,
) -> EncodedClip:
    """Encodes a recording with libx264 and counts the bytes; nothing is kept.

    Args:
        path: Any video that the decoder reads.
        crf: Constant rate factor, 0 to 51.
        preset: Of libx264; its default is the fair choice, faster ones give larger files.
        on_progress: Called with frames done and frames in all (0: not known).

    Raises:
        SourceError: The file cannot be read as video.
    """
    try:
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            rate = Fraction(video.average_rate or 25)
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height = video.width, video.height
            encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", 1 / rate, rate
            encoder.options = {"crf": str(crf), "preset": preset}
            frames = size = 0
            for frame in container.decode(video):
                plain = frame.reformat(format="yuv420p")
                plain.pts, plain.time_base = frames, encoder.time_base
                plain.pict_type = av.video.frame.PictureType.NONE
                size += sum(packet.size for packet in encoder.encode(plain))
                frames += 1
                if on_progress and frames % 16 == 0:
                    on_progress(frames, video.frames)
            size += sum(packet.size for packet in encoder.encode(None))
    except (av.FFmpegError, IndexError, OSError) as error:
        raise SourceError(
            f"{path} cannot be read as video", "give a file that a player shows"
        ) from error
    return EncodedClip(crf, preset, frames, size, float(frames / rate))
