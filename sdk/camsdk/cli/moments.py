"""Durations and points in time as people type them: ``90s``, ``2h``, ``2026-05-01T08:00``."""

import re
import time
from datetime import datetime

import typer

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)")


def duration_s(text: str) -> float:
    """Seconds of ``30``, ``30s``, ``15m``, ``2h``, ``7d`` or ``1w``.

    Raises:
        typer.BadParameter: None of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration: give e.g. 90s, 15m, 2h or 7d")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def moment_s(text: str) -> float:
    """Seconds since the Unix epoch of ``15m`` (ago), ``now``, an ISO 8601 time or such seconds.

    A time without a zone is local time, as on the clock of the person who types it.

    Raises:
        typer.BadParameter: None of these.
    """
    text = text.strip()
    if text == "now":
        return time.time()
    match = _DURATION.fullmatch(text)
    if match is not None and match[2]:
        return time.time() - duration_s(text)
    if match is not None:
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise typer.BadParameter(
            f"{text!r} is no time: give e.g. 15m (ago), 2026-05-01T08:00 or seconds since 1970"
        ) from error


def show_moment(timestamp_s: float) -> str:
    """Local time to the millisecond, or a dash for none."""
    if not timestamp_s:
        return "-"
    local = datetime.fromtimestamp(timestamp_s).astimezone()
    return local.isoformat(sep=" ", timespec="milliseconds")[:23]


def show_age(timestamp_s: float, now_s: float | None = None) -> str:
    """How long ago, to one unit: ``42 s ago``, ``3 h ago``; or a dash for none."""
    if not timestamp_s:
        return "-"
    age_s = (time.time() if now_s is None else now_s) - timestamp_s
    return f"in {show_duration(-age_s)}" if age_s < 0 else f"{show_duration(age_s)} ago"


def show_duration(span_s: float) -> str:
    """To one unit, rounded down: ``42 s``, ``3 h``, ``12 d``."""
    for unit, size_s in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if span_s >= 2 * size_s:
            return f"{int(span_s // size_s)} {unit}"
    return f"{int(span_s)} s"
