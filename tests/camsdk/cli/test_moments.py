"""Times as people type and read them."""

import contextlib
import time

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from camsdk.cli.moments import duration_s, moment_s, show_age, show_duration, show_moment


@pytest.mark.parametrize(
    ("text", "span_s"),
    [("30", 30), ("90s", 90), ("15m", 900), ("2h", 7200), ("1.5d", 129600), ("1w", 604800)],
)
def test_durations(text: str, span_s: float) -> None:
    assert duration_s(text) == span_s


@pytest.mark.parametrize("text", ["", "soon", "-3s", "5 y", "1e3", "٣s", "2026-13-01", "h"])
def test_anything_else_is_wrong_usage(text: str) -> None:
    for parse in (duration_s, moment_s):
        with pytest.raises(typer.BadParameter, match=r"give e\.g\."):
            parse(text)


@given(st.text(max_size=12))
def test_no_text_raises_anything_but_wrong_usage(text: str) -> None:
    for parse in (duration_s, moment_s):
        with contextlib.suppress(typer.BadParameter):
            assert isinstance(parse(text), float)


def test_moments() -> None:
    assert moment_s("1700000000.5") == 1_700_000_000.5
    assert moment_s("1970-01-01T00:01:00+00:00") == 60.0
    assert abs(moment_s("10m") - (time.time() - 600)) < 5
    assert abs(moment_s("now") - time.time()) < 5
    local = show_moment(1_700_000_000.25)
    assert moment_s(local) == 1_700_000_000.25


def test_what_people_read() -> None:
    assert show_moment(0.0) == "-"
    assert show_age(0.0) == "-"
    assert show_age(100.0, now_s=142.0) == "42 s ago"
    assert show_age(200.0, now_s=100.0) == "in 100 s"
    assert show_duration(3600 * 5) == "5 h"
    assert show_duration(86400 * 12) == "12 d"
    assert show_duration(150) == "2 min"
