"""The entry counter counts every crossing, tells each, and goes on after a restart."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from camsdk.errors import InvalidInput, PermissionDenied, Unavailable
from support.fake_api import FakeCloud
from support.webhook import WebhookReceiver

from .conftest import EXAMPLES, load

example = load("entry_counter")
SECRET = b"shared"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    """Runs for one test."""
    webhook = WebhookReceiver()
    yield webhook
    webhook.close()


def _cross(cloud: FakeCloud, direction: str, line: str = "entry") -> None:
    cloud.add_event(rule=line, class_name="person", attributes={"direction": direction})


@pytest.fixture
def arguments(data_dir: Path, receiver: WebhookReceiver, tmp_path: Path) -> list[str]:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    return [
        "--data", str(data_dir), "--line", "entry", "--webhook", receiver.url,
        "--secret-file", str(secret), "--state", str(tmp_path / "state.json"),
        "--from-start", "--seconds", "0.2",
    ]  # fmt: skip


def _told(receiver: WebhookReceiver) -> list[dict[str, Any]]:
    return [json.loads(body) for body, _ in receiver.deliveries]


def test_crossings_are_counted_told_and_signed(
    cloud: FakeCloud,
    receiver: WebhookReceiver,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for direction in ("in", "in", "out"):
        _cross(cloud, direction)
    _cross(cloud, "in", line="other")
    cloud.add_event("out_of_bounds")
    assert example.main(arguments) == 0
    told = _told(receiver)
    assert [row["event_id"] for row in told] == ["cam-1/7/1", "cam-1/7/2", "cam-1/7/3"]
    assert told[-1]["counts"] == {"in": 2, "out": 1}
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == told
    for body, signature in receiver.deliveries:
        assert example.is_signed(SECRET, body, signature, time.time())


def test_a_restart_goes_on_where_it_was(
    cloud: FakeCloud, receiver: WebhookReceiver, arguments: list[str]
) -> None:
    _cross(cloud, "in")
    assert example.main(arguments) == 0
    _cross(cloud, "in")
    _cross(cloud, "out")
    assert example.main(arguments) == 0
    assert [row["counts"] for row in _told(receiver)] == [
        {"in": 1},
        {"in": 2},
        {"in": 2, "out": 1},
    ]


def test_what_happens_before_the_first_crossing_is_not_lost(
    cloud: FakeCloud, receiver: WebhookReceiver, arguments: list[str]
) -> None:
    arguments.remove("--from-start")
    _cross(cloud, "in")
    assert example.main(arguments) == 0
    assert receiver.deliveries == []
    _cross(cloud, "out")
    assert example.main(arguments) == 0
    assert [row["direction"] for row in _told(receiver)] == ["out"]


def test_a_failing_receiver_is_asked_again(
    cloud: FakeCloud, receiver: WebhookReceiver, arguments: list[str]
) -> None:
    receiver.answers = [503]
    _cross(cloud, "in")
    assert example.main(arguments) == 0
    first, second = _told(receiver)
    assert first == second


def test_a_refused_crossing_does_not_hold_up_the_next(
    cloud: FakeCloud, receiver: WebhookReceiver, arguments: list[str]
) -> None:
    receiver.answers = [400]
    _cross(cloud, "in")
    _cross(cloud, "in")
    assert example.main(arguments) == 0
    assert [row["counts"] for row in _told(receiver)] == [{"in": 1}, {"in": 2}]


def test_a_receiver_that_stays_away_is_an_error_and_nothing_is_forgotten(
    receiver: WebhookReceiver,
) -> None:
    pauses: list[float] = []
    receiver.answers = [429, 500, 500, 500]
    webhook = example.Webhook(receiver.url, SECRET, max_attempts=4, max_pause_s=1.5)
    with pytest.raises(Unavailable, match="4 attempts"):
        webhook.deliver(b"{}", sleep=pauses.append)
    assert pauses == [0.5, 1.0, 1.5]
    receiver.answers = [403]
    with pytest.raises(PermissionDenied):
        webhook.deliver(b"{}", sleep=pauses.append)
    unreachable = example.Webhook("http://127.0.0.1:9/", SECRET, max_attempts=2)
    with pytest.raises(Unavailable):
        unreachable.deliver(b"{}", sleep=pauses.append)


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://x", "https://", "file:///etc"])
def test_only_safe_webhooks(url: str) -> None:
    with pytest.raises(InvalidInput):
        example.Webhook(url, SECRET)


def test_signatures() -> None:
    signature = example.sign(SECRET, b"body", 1000)
    digest = "eb2026d6f9667c3e4c288b34044ec892f964886527969903420738e36eae642c"
    assert signature == f"t=1000,v1={digest}"
    assert example.is_signed(SECRET, b"body", signature, 1299)
    assert not example.is_signed(SECRET, b"body", signature, 1301)
    assert not example.is_signed(SECRET, b"Body", signature, 1000)
    assert not example.is_signed(b"other", b"body", signature, 1000)
    for damaged in ("", "t=,v1=", "t=x,v1=y", signature[:-1], "t=²,v1=0"):
        assert not example.is_signed(SECRET, b"body", damaged, 1000)


def test_a_damaged_state_is_named(
    cloud: FakeCloud, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.json").write_text("{")
    assert example.main(arguments) == 1
    assert "state.json" in capsys.readouterr().err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        example.main(["--webhook", "https://example.org"])
    assert caught.value.code == 2
    assert "belong together" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_as_a_script(cloud: FakeCloud, arguments: list[str]) -> None:
    _cross(cloud, "in")
    command = [sys.executable, str(EXAMPLES / "entry_counter.py"), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["counts"] == {"in": 1}
