"""RTP payloads of H.264 and MPEG-4 video, and their session descriptions."""

import base64
import re
import struct
from collections.abc import Iterator

from support.clips import Clip

MAX_PAYLOAD = 1400
PAYLOAD_TYPE = 96
CLOCK_HZ = 90_000

_START_CODE = re.compile(rb"\x00\x00\x00?\x01")


def payloads(clip: Clip, access_unit: bytes) -> Iterator[bytes]:
    """RTP payloads of one frame; the last one gets the marker bit."""
    if clip.codec == "mpeg4":  # RFC 6416, section 5: cut anywhere
        for start in range(0, len(access_unit), MAX_PAYLOAD):
            yield access_unit[start : start + MAX_PAYLOAD]
        return
    for nal in nal_units(access_unit):
        if len(nal) <= MAX_PAYLOAD:
            yield nal
        else:
            yield from _fragments(nal)


def nal_units(access_unit: bytes) -> list[bytes]:
    """The NAL units of an Annex B access unit."""
    return [nal for nal in _START_CODE.split(access_unit) if nal]


def _fragments(nal: bytes) -> Iterator[bytes]:
    """FU-A, RFC 6184, section 5.8."""
    indicator = (nal[0] & 0xE0) | 28
    parts = [nal[start : start + MAX_PAYLOAD] for start in range(1, len(nal), MAX_PAYLOAD)]
    for index, part in enumerate(parts):
        is_first, is_last = index == 0, index == len(parts) - 1
        header = (is_first << 7) | (is_last << 6) | (nal[0] & 0x1F)
        yield bytes((indicator, header)) + part


def packet(payload: bytes, sequence: int, timestamp: int, ssrc: int, is_last: bool) -> bytes:
    """An RTP packet, RFC 3550, section 5.1."""
    marker = PAYLOAD_TYPE | (is_last << 7)
    head = struct.pack("!BBHII", 0x80, marker, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc)
    return head + payload


def description(clip: Clip) -> str:
    """The SDP of a clip, RFC 8866."""
    first = clip.access_units[0]
    if clip.codec == "mpeg4":
        config = first[: first.index(b"\x00\x00\x01\xb6")].hex()
        name, parameters = "MP4V-ES", f"profile-level-id=1;config={config}"
    else:
        sets = [nal for nal in nal_units(first) if nal[0] & 0x1F in (7, 8)]
        joined = ",".join(base64.b64encode(nal).decode() for nal in sets)
        name, parameters = "H264", f"packetization-mode=1;sprop-parameter-sets={joined}"
    lines = [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=test",
        "c=IN IP4 127.0.0.1",
        "t=0 0",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} {name}/{CLOCK_HZ}",
        f"a=fmtp:{PAYLOAD_TYPE} {parameters}",
        "a=control:track1",
    ]
    return "\r\n".join(lines) + "\r\n"
