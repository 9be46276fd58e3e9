"""Tokens: single-use ones that let a device enrol, and those of people and applications.

A secret is 256 random bits; the store keeps its SHA-256. A slow hash would add nothing, because
there is nothing to guess. All functions run within the caller's transaction.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from camcloud.store.fleet_tables import api_tokens, bootstrap_tokens
from camsdk.errors import AlreadyExists, InvalidInput, Unauthenticated

API_PREFIX = "camapi1_"
MAX_LIFETIME_S = 366 * 86_400.0
DEFAULT_BOOTSTRAP_LIFETIME_S = 3_600.0
DEFAULT_API_LIFETIME_S = 90 * 86_400.0
MAX_COUNT = 1_000
MAX_SECRET_CHARS = 256
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,62}")


@dataclass(frozen=True)
class Caller:
    """Who holds an API token, and until when: seconds since the Unix epoch, ``None`` for ever."""

    name: str
    is_read_only: bool
    expires_timestamp_s: float | None


def create_bootstrap(
    connection: Connection, fleet: str, count: int, lifetime_s: float, now_s: float
) -> tuple[tuple[str, ...], float]:
    """New secrets, each good for one enrolment into ``fleet``, and when they expire.

    Raises:
        InvalidInput: ``count`` or ``lifetime_s`` is out of bounds.
    """
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput(f"{count} tokens were asked for.", f"ask for 1 to {MAX_COUNT}")
    expires_s = now_s + _checked_lifetime(lifetime_s)
    made = tuple(secrets.token_urlsafe(32) for _ in range(count))
    connection.execute(
        insert(bootstrap_tokens),
        [
            {"token_hash": _hash(secret), "fleet": fleet, "expires_timestamp_s": expires_s}
            for secret in made
        ],
    )
    return made, expires_s


def claim_bootstrap(connection: Connection, secret: str, device_id: str, now_s: float) -> str:
    """Uses a token up for ``device_id``, and says into which fleet it leads.

    The conditional update is what makes it single-use: of any number of racers one finds the row
    unused. The caller's transaction decides whether that holds.

    Raises:
        Unauthenticated: Unknown, used or expired.
    """
    hint = "make a new one with camctl token create"
    key = _hash(secret)
    table = bootstrap_tokens
    row = connection.execute(select(table).where(table.c.token_hash == key)).one_or_none()
    if row is None:
        raise Unauthenticated("The bootstrap token is not known.", hint)
    if now_s >= row.expires_timestamp_s:
        raise Unauthenticated("The bootstrap token has expired.", hint)
    claimed = connection.execute(
        update(table)
        .where(table.c.token_hash == key, table.c.used_timestamp_s.is_(None))
        .values(used_timestamp_s=now_s, used_by=device_id)
    )
    if claimed.rowcount != 1:
        raise Unauthenticated("The bootstrap token has been used.", hint)
    fleet: str = row.fleet
    return fleet


def create_api(
    connection: Connection,
    name: str,
    now_s: float,
    *,
    is_read_only: bool,
    lifetime_s: float | None,
) -> tuple[str, float | None]:
    """A new API token and when it expires.

    Args:
        name: What it is for; unique.
        lifetime_s: ``None``: until it is deleted, for the embedded profile's own administrator.

    Raises:
        AlreadyExists: The name is taken.
        InvalidInput: The name or the lifetime is not allowed.
    """
    if not _LABEL.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no token name", "use up to 63 letters, digits, blanks and ._@-"
        )
    expires_s = None if lifetime_s is None else now_s + _checked_lifetime(lifetime_s)
    token = API_PREFIX + secrets.token_urlsafe(32)
    row = {
        "token_hash": _hash(token),
        "name": name,
        "is_read_only": is_read_only,
        "expires_timestamp_s": expires_s,
        "created_timestamp_s": now_s,
    }
    try:
        connection.execute(insert(api_tokens), row)
    except IntegrityError as error:
        raise AlreadyExists(f"A token named {name!r} exists.", "choose another name") from error
    return token, expires_s


def delete_api(connection: Connection, name: str) -> None:
    """Ends the token of that name, if there is one."""
    connection.execute(delete(api_tokens).where(api_tokens.c.name == name))


def identify(connection: Connection, token: str, now_s: float) -> Caller:
    """Who holds ``token``.

    Raises:
        Unauthenticated: Unknown or expired.
    """
    table = api_tokens
    row = connection.execute(select(table).where(table.c.token_hash == _hash(token))).one_or_none()
    if row is None:
        raise Unauthenticated("The API token is not known.", "check the token or its file")
    if row.expires_timestamp_s is not None and now_s >= row.expires_timestamp_s:
        raise expired()
    return Caller(row.name, row.is_read_only, row.expires_timestamp_s)


def expired() -> Unauthenticated:
    """What the holder of an API token is told at its end, also in the middle of a stream."""
    return Unauthenticated("The API token has expired.", "ask an administrator for a new one")


def _checked_lifetime(lifetime_s: float) -> float:
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise InvalidInput(
            f"A token cannot live {lifetime_s} s.", f"ask for up to {MAX_LIFETIME_S:.0f}"
        )
    return lifetime_s


def _hash(secret: str) -> bytes:
    # Longer than any secret of ours: its hash is as unknown, and costs nothing.
    return hashlib.sha256(secret[:MAX_SECRET_CHARS].encode()).digest()
