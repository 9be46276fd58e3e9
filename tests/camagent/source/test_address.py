"""Security case 17: which addresses may be opened, and that none shows its secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camagent.config import CameraSettings
from camagent.source import is_recording, open_source
from camagent.source.address import parse_address, redact
from camsdk.errors import InvalidInput

REFUSED = [
    "exec:touch /tmp/owned",
    "concat:/etc/passwd|/etc/hostname",
    "pipe:0",
    "fd:3",
    "data:text/plain;base64,AAAA",
    "file:///etc/passwd",
    "FILE:/etc/passwd",
    "http://camera/stream",
    "https://camera/stream",
    "ftp://camera/clip.avi",
    "rtmp://camera/live",
    "tcp://camera:1",
    "crypto:/clip.avi",
    "tee:/tmp/a|/tmp/b",
    "-",
    "",
    "rtsp:camera",
    "rtsp://",
    "rtsp:///path",
    "rtsp://camera:port/",
    "rtsp://camera:70000/",
    "rtsp://camera:0/",
    "rtsp://camera/a b",
    "rtsp://camera/\nERROR root: forged line",
    "rtsp://camera/\x00",
    "rtsp://camera/" + "a" * 3000,
]


@pytest.mark.parametrize("text", REFUSED)
def test_refuses_what_is_not_on_the_list(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_address(text)
    assert caught.value.hint


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "RTSP"])
def test_takes_live_schemes(scheme: str) -> None:
    address = parse_address(f"{scheme}://camera.local:8554/main?channel=1")
    assert not address.is_recording
    assert address.target == f"{scheme}://camera.local:8554/main?channel=1"


def test_takes_http_only_when_allowed() -> None:
    assert not parse_address("http://camera/mjpeg", allow_http=True).is_recording
    settings = CameraSettings("cam", "http://camera/mjpeg", allow_http=True)
    assert not is_recording(settings)


def test_a_path_becomes_absolute_so_that_no_scheme_can_hide_in_it() -> None:
    for text in ("./exec:touch", "subfile,,start,0,end,9,,:/etc/passwd"):
        address = parse_address(text)
        assert address.is_recording
        assert address.target.startswith("/")
    assert parse_address("clips/a.avi").is_recording


SECRETS = [
    "rtsp://root:hunter2@10.0.0.1/live",
    "rtsp://root:hun/ter2@10.0.0.1/live",
    "rtsp://root:p@hunter2@10.0.0.1/live",
    "rtsp://10.0.0.1/user=admin&password=hunter2&channel=1",
    "rtsp://10.0.0.1/live?Pwd=hunter2",
    "rtsp://10.0.0.1/live?access_token=hunter2",
    "cannot open 'rtsp://root:hunter2@10.0.0.1/live': refused",
]


@pytest.mark.parametrize("text", SECRETS)
def test_redacts(text: str) -> None:
    shown = redact(text)
    assert "hunter2" not in shown
    assert "ter2" not in shown
    assert "10.0.0.1" in shown


_WORD = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)


@given(user=_WORD, password=_WORD)
def test_no_password_survives_redaction(user: str, password: str) -> None:
    shown = redact(f"rtsp://{user}:{password}@host.example/path")
    assert shown == "rtsp://***@host.example/path"


@given(st.text(max_size=200))
def test_redacted_text_is_one_line_and_stable(text: str) -> None:
    shown = redact(text)
    assert "\n" not in shown
    assert "\r" not in shown
    assert redact(shown) == shown


@given(st.text(max_size=60))
def test_parsing_refuses_or_gives_a_checked_address(text: str) -> None:
    try:
        address = parse_address(text)
    except InvalidInput:
        return
    assert address.is_recording == address.target.startswith("/")
    assert address.is_recording or address.target.lower().startswith(("rtsp://", "rtsps://"))


def test_settings_and_addresses_do_not_show_the_source() -> None:
    url = "rtsp://root:hunter2@10.0.0.1/live"
    settings = CameraSettings("cam", url)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(parse_address(url))
    assert "hunter2" not in repr(open_source(settings))


def test_a_refusal_does_not_quote_a_password() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_address("rtsp://root:hunter2@host:port/x")
    assert "hunter2" not in str(caught.value)
