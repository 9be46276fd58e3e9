"""Bootstrap tokens: one line of text with all that a new camera needs to enrol.

    camtok1_ + base64url(JSON {"e": endpoint, "s": secret, "f": fleet, "c": CA certificate, PEM})

The certificate travels inside the token, so the first connection is already verified: enrolment
needs neither a CA file nor trust on first use. The secret is single-use; the cloud keeps its hash.
"""

import base64
import binascii
import json
from dataclasses import dataclass, field

from camsdk.errors import InvalidInput

PREFIX = "camtok1_"
MAX_TOKEN_CHARS = 16_384
"""A token with an ECDSA certificate has about 1,000; the bound keeps a pasted file from parsing."""

_WAY_OUT = "paste the whole line that `camctl token create` printed"


@dataclass(frozen=True)
class BootstrapToken:
    """A decoded token.

    Attributes:
        endpoint: ``host:port`` of the cloud's enrolment service.
        secret: What the cloud checks; kept out of ``repr``.
        fleet: Fleet that the camera joins.
        ca_pem: Certificate, PEM, that the cloud's own certificate must chain to.
    """

    endpoint: str
    secret: str = field(repr=False)
    fleet: str
    ca_pem: bytes = field(repr=False)


def encode_token(endpoint: str, secret: str, fleet: str, ca_pem: bytes) -> str:
    """The token's text: ASCII, no padding, safe in shells and URLs.

    Raises:
        InvalidInput: A part is empty, or the whole would be longer than ``MAX_TOKEN_CHARS``.
    """
    parts = {"e": endpoint, "s": secret, "f": fleet, "c": ca_pem.decode("ascii", "replace")}
    for key, value in parts.items():
        if not value:
            raise InvalidInput(f"a bootstrap token needs a value for {key!r}")
    body = base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode())
    text = PREFIX + body.rstrip(b"=").decode("ascii")
    if len(text) > MAX_TOKEN_CHARS:
        raise InvalidInput(
            f"the bootstrap token would have {len(text)} characters, at most {MAX_TOKEN_CHARS} fit",
            "give one CA certificate, not a bundle",
        )
    return text


def decode_token(text: str) -> BootstrapToken:
    """What :func:`encode_token` put in; blanks and line breaks around the text are ignored.

    The message of an error never repeats the text, because logs keep messages.

    Raises:
        InvalidInput: Not a token, cut off, or of a later format.
    """
    text = text.strip()
    if not text.startswith(PREFIX):
        raise InvalidInput(f"a bootstrap token starts with {PREFIX!r}", _WAY_OUT)
    if len(text) > MAX_TOKEN_CHARS:
        raise InvalidInput(f"a bootstrap token has at most {MAX_TOKEN_CHARS} characters", _WAY_OUT)
    body = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        parts = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidInput("the bootstrap token is cut off or damaged", _WAY_OUT) from error
    if not isinstance(parts, dict):
        raise InvalidInput("the bootstrap token is damaged", _WAY_OUT)
    values = [parts.get(key) for key in ("e", "s", "f", "c")]
    if not all(isinstance(value, str) and value for value in values):
        raise InvalidInput("the bootstrap token lacks a part", _WAY_OUT)
    endpoint, secret, fleet, ca_pem = map(str, values)
    return BootstrapToken(endpoint, secret, fleet, ca_pem.encode())
