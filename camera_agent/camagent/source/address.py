"""Addresses of cameras: which schemes may be opened, and how one is shown without its secrets.

FFmpeg understands dozens of protocols, some of which run commands, join files or read other hosts
(``exec:``, ``concat:``, ``subfile:``, ``pipe:``). Only what stands in the allow-list gets through;
anything else that looks like a scheme is refused, never treated as a path.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from camsdk.errors import InvalidInput

LIVE_SCHEMES = frozenset({"rtsp", "rtsps"})
HTTP_SCHEMES = frozenset({"http", "https"})
MAX_LENGTH = 2048

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_USERINFO = re.compile(r"(?<=://)\S*@")
_SECRET_FIELD = re.compile(
    r"(?i)\b([\w-]*(?:user|login|pass|pwd|token|auth|key|secret|sig|cred)[\w-]*)=[^&;/\s'\"]*"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Address:
    """A checked address.

    Attributes:
        target: What FFmpeg opens: a URL or an absolute path. Secret, so not in ``repr``.
        label: The same for people and logs, without credentials.
        is_recording: Whether it is a file.
    """

    target: str = field(repr=False)
    label: str
    is_recording: bool


def redact(text: str) -> str:
    """Remove credentials from an address or from a message that quotes one.

    Everything between ``://`` and the last ``@`` of the same word goes, even when a password
    holds ``/`` or ``@``, and so do the values of parameters that sound secret. Rather too much
    than too little. Control characters become ``?``, so that no address forges a line of the log.
    """
    text = _USERINFO.sub("***@", text)
    text = _SECRET_FIELD.sub(r"\1=***", text)
    return _CONTROL.sub("?", text)


def parse_address(text: str, *, allow_http: bool = False) -> Address:
    """Check an address against the allow-list.

    Args:
        text: ``rtsp://...``, ``rtsps://...`` or a path.
        allow_http: Whether ``http`` and ``https`` count as live sources.

    Raises:
        InvalidInput: Scheme not allowed, no host, bad port, control characters, too long.
    """
    if not text or len(text) > MAX_LENGTH:
        raise InvalidInput(
            f"a camera's address has {len(text)} characters", f"give 1 to {MAX_LENGTH}"
        )
    if _CONTROL.search(text):
        raise InvalidInput("a camera's address holds control characters", "remove them")
    match = _SCHEME.match(text)
    if match is None:
        if text == "-":
            raise InvalidInput("'-' is not a recording", "give the path of a file")
        path = Path(text).absolute()
        return Address(str(path), redact(str(path)), is_recording=True)
    scheme = match.group(1).lower()
    allowed = LIVE_SCHEMES | (HTTP_SCHEMES if allow_http else frozenset())
    if scheme not in allowed:
        raise InvalidInput(
            f"the scheme {scheme!r:.40} is not allowed for a camera",
            f"use {', '.join(sorted(allowed))} or a path; write ./ before a path with a colon",
        )
    return _live_address(text, scheme)


def _live_address(text: str, scheme: str) -> Address:
    label = redact(text)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    if not text[len(scheme) :].startswith("://") or not host or port == 0 or " " in text:
        raise InvalidInput(
            f"{label:.200} is not a camera's address", f"write {scheme}://host[:port]/path"
        )
    return Address(text, label, is_recording=False)
