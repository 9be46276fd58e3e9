"""The boundary to PyAV: opens a file or stream and hands out decoded pictures.

Everything foreign is checked or translated here. Sizes are bounded before the decoder allocates,
protocols and containers come from an allow-list, errors lose the address (it may hold a password),
and a decoder that conceals damage says so in ``Picture.is_corrupt``.

Lifetime of planes: an array views the plane, the plane keeps its ``av.VideoFrame``, and that holds
a counted reference to the decoder's buffer. The decoder never writes to a buffer that somebody
still holds; it takes another from its pool. So the planes stay valid as long as an array lives and
need no copy. What they cost is memory: one buffer for each picture held.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import av.error
import numpy as np

from camagent.config import CameraSettings
from camagent.source.address import Address, redact
from camsdk.errors import SourceError, Unauthenticated
from camsdk.vision.frames import U8

log = logging.getLogger(__name__)

MAX_SIDE_PX = 4096
MAX_BARREN_START = 600
"""Packets without a picture at the start: more than the longest usual distance of key frames (10 s
at 50 fps), from which a decoder that joins late must wait."""

MAX_BARREN_PACKETS = 120
"""The same once pictures have come: from then on, every packet should give one."""

_CONTAINERS = "avi,mov,mp4,matroska,webm,mpegts,h264,hevc,m4v,mjpeg"
_PLANAR = {"yuv420p": False, "yuvj420p": True}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG

_FILE_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
_HTTP_OPTIONS = {
    "protocol_whitelist": "http,https,tls,tcp",
    "format_whitelist": "mpjpeg,mpegts,mjpeg,mov,mp4,matroska,webm",
}
# First picture early: nothing is probed, the decoder learns what it needs from the stream. On
# loopback the first picture comes with the second frame, not the fourth to eighth. Only video is
# set up, so that a talkative audio track hides no silent video. ``nobuffer`` is left out on
# purpose: it loses the first key frame.
_RTSP_OPTIONS = {
    "protocol_whitelist": "rtsp,rtp,udp,tcp,tls",
    "format_whitelist": "rtsp,rtp,sdp,mpegts",
    "allowed_media_types": "video",
    "fpsprobesize": "0",
    "probesize": "32",
    "analyzeduration": "100000",
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture, not yet placed in time.

    Attributes:
        y, u, v: Read-only planes as in ``Frame``; valid as long as they are held.
        pts_s: Presentation time by the stream's own clock, seconds, or None.
        is_keyframe, is_corrupt, is_full_range: As in ``Frame``.
    """

    y: U8
    u: U8
    v: U8
    pts_s: float | None
    is_keyframe: bool
    is_corrupt: bool
    is_full_range: bool


class Video:
    """An open file or stream. Made by ``open_video``; used by one thread at a time."""

    def __init__(
        self, container: "av.container.InputContainer", label: str, read_timeout_s: float | None
    ) -> None:
        self._container = container
        self._label = label
        self._read_timeout_s = read_timeout_s
        self._stream = container.streams.video[0]
        rate = self._stream.average_rate
        self.interval_s = float(1 / rate) if rate else 0.04
        """Nominal time between two pictures, seconds; for pictures without a timestamp."""
        self.undecodable_packets = 0
        """Packets that the decoder refused so far."""

    def pictures(self) -> Iterator[Picture]:
        """Decode until the end.

        Yields:
            Pictures in order of presentation.

        Raises:
            SourceError: Read error, silence, a picture that is too large, or nothing decodable.
        """
        barren, limit = 0, MAX_BARREN_START
        for packet in self._packets():
            is_packet_corrupt = bool(packet.is_corrupt)
            barren += 1
            for frame in self._decode(packet):
                barren, limit = 0, MAX_BARREN_PACKETS
                yield _to_picture(frame, is_packet_corrupt, self._label)
            if barren > limit:
                raise SourceError(
                    f"{self._label} gave {barren} packets without one picture",
                    "check the camera's codec settings",
                )

    def close(self) -> None:
        """Close the file or connection. Pictures that are still held stay valid."""
        self._container.close()

    def _packets(self) -> Iterator["av.Packet[av.VideoStream]"]:
        packets = self._container.demux(self._stream)
        failure: av.error.FFmpegError | None = None
        while failure is None:
            asked_s = time.monotonic()
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                failure = error
                continue
            except IndexError:
                # At the end PyAV (18.1) flushes streams that appeared while it read, and that it
                # does not know: all that could be read has been.
                return
            # An interrupted read gives out what was buffered, or an end, before it fails.
            limit_s = self._read_timeout_s
            if limit_s is not None and time.monotonic() - asked_s >= limit_s:
                raise _silent(self._label)
            if packet is None:
                return
            yield packet
        raise _source_error("cannot be read further", self._label, failure)

    def _decode(self, packet: "av.Packet[av.VideoStream]") -> "list[av.VideoFrame]":
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            self.undecodable_packets += 1
            if self.undecodable_packets == 1:
                log.warning("%s sends packets that do not decode", self._label)
            return []
        except av.error.FFmpegError as error:
            failure = error
        raise _source_error("cannot be decoded", self._label, failure)


def open_video(address: Address, settings: CameraSettings) -> Video:
    """Open a recording or connect to a camera.

    Raises:
        SourceError: Missing, not a video, too large, refused or silent.
        Unauthenticated: The camera refuses the credentials.
    """
    timeouts_s = (settings.open_timeout_s, settings.read_timeout_s)
    started_s = time.monotonic()
    try:
        container = av.open(
            address.target,
            options=_options(address, settings),
            metadata_errors="replace",  # a title in an unknown encoding is no reason to fail
            timeout=None if address.is_recording else timeouts_s,
        )
    except av.error.FFmpegError as error:
        failure = error
    else:
        try:
            _prepare(container, address.label)
        except SourceError:
            container.close()
            raise
        return Video(container, address.label, None if address.is_recording else timeouts_s[1])
    # Raised out here so that the original, which quotes the address, is not even its context.
    if isinstance(failure, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        raise Unauthenticated(
            f"{address.label} refuses the credentials", "check user and password of the camera"
        )
    if not address.is_recording and time.monotonic() - started_s >= timeouts_s[0]:
        raise _silent(address.label)
    raise _source_error("cannot be opened", address.label, failure)


def _options(address: Address, settings: CameraSettings) -> dict[str, str]:
    if address.is_recording:
        options = dict(_FILE_OPTIONS)
    elif address.target.lower().startswith("http"):
        options = dict(_HTTP_OPTIONS)
    else:
        options = {**_RTSP_OPTIONS, "rtsp_transport": settings.transport}
    if settings.tls_ca_file:
        options |= {"tls_verify": "1", "ca_file": settings.tls_ca_file}
    options["max_pixels"] = str(MAX_SIDE_PX * MAX_SIDE_PX)  # holds for the probing decoder
    return options


def _prepare(container: "av.container.InputContainer", label: str) -> None:
    """Check and configure the first video stream before its decoder opens."""
    if not container.streams.video:
        raise SourceError(f"{label} has no video", "name a file or stream with a video track")
    context = container.streams.video[0].codec_context
    if context is None:
        raise SourceError(f"{label} uses a codec without a decoder here", "use H.264 or H.265")
    _check_size(context.width, context.height, label)
    # One thread: no latency of frame threads, and a camera costs one core at most.
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_SIDE_PX * MAX_SIDE_PX)}


def _check_size(width: int, height: int, label: str) -> None:
    if width > MAX_SIDE_PX or height > MAX_SIDE_PX:
        raise SourceError(
            f"{label} has pictures of {width}x{height}, more than {MAX_SIDE_PX}x{MAX_SIDE_PX}",
            "use the camera's substream",
        )


def _to_picture(frame: "av.VideoFrame", is_packet_corrupt: bool, label: str) -> Picture:
    _check_size(frame.width, frame.height, label)
    is_full_range = _PLANAR.get(frame.format.name)
    if is_full_range is None:  # 4:2:2, 10 bit, NV12, ...: rare, one conversion
        is_full_range = False
        pts, is_keyframe, is_corrupt = frame.time, frame.key_frame, frame.is_corrupt
        try:
            frame = frame.reformat(format="yuv420p", dst_color_range="MPEG")
        except av.error.FFmpegError as error:  # some forms of RGB with 10 bits or more
            raise SourceError(
                f"{label} has pictures in {frame.format.name}, which cannot be converted",
                "use H.264 or H.265",
            ) from error
    else:
        pts, is_keyframe, is_corrupt = frame.time, frame.key_frame, frame.is_corrupt
        is_full_range = is_full_range or int(frame.color_range) == _FULL_RANGE
    y, u, v = (_view(plane) for plane in frame.planes)
    return Picture(
        y,
        u,
        v,
        pts_s=pts,
        is_keyframe=bool(is_keyframe),
        is_corrupt=bool(is_corrupt) or is_packet_corrupt,
        is_full_range=is_full_range,
    )


def _view(plane: "av.video.plane.VideoPlane") -> U8:
    """Read-only view of a plane, uint8 (height, width); rows may be padded."""
    buffer = cast("memoryview[int]", plane)  # PyAV's stubs do not tell of its buffer protocol
    rows = np.frombuffer(buffer, np.uint8).reshape(plane.height, plane.line_size)
    view = rows[:, : plane.width]
    view.setflags(write=False)
    return view


def _silent(label: str) -> SourceError:
    return SourceError(f"{label} is silent", "check the camera's power and network")


def _source_error(what: str, label: str, error: "av.error.FFmpegError") -> SourceError:
    """Our error for a foreign one; not chained to it, because that one quotes the address."""
    if isinstance(error, av.error.ExitError | TimeoutError):
        return _silent(label)
    if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):
        return SourceError(
            f"{label} is no video that can be read", "use H.264 or H.265, or a common video file"
        )
    return SourceError(
        f"{label} {what}: {redact(str(error.strerror or 'unknown reason'))}",
        "check the address, the network and the camera",
    )
