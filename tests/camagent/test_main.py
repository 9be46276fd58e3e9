"""The agent's own process: its memory, its clean end, and its first words after a mistake."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from camagent.identity import Identity
from camproto.v1 import device_pb2
from support.fake_cloud import FakeCloud
from support.waiting import wait_until

IDLE_BUDGET_BYTES = 120 << 20
"""Resident memory of an agent without a model (design: README)."""

pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def begin(**options: object) -> subprocess.Popen[str]:
        config = {"data_dir": str(tmp_path), "status_file": "status.json"} | options
        path = tmp_path / "agent.yaml"
        path.write_text(json.dumps(config))
        command = [sys.executable, "-m", "camsdk.cli.main", "agent", "run", "--json"]
        process = subprocess.Popen(
            [*command, "--config", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_an_idle_agent_is_small_and_ends_cleanly(
    cloud: FakeCloud,
    identity: Identity,
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    process = start(cameras=[{"id": "cam", "source": "/dev/null"}])
    wait_until(lambda: bool(cloud.last_report("gate-1").hardware), 20)
    wait_until(lambda: (tmp_path / "status.json").exists(), 5)
    assert psutil.Process(process.pid).memory_info().rss <= IDLE_BUDGET_BYTES
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    last = json.loads(output)
    assert last["device_id"] == "gate-1"
    assert last["pid"] == process.pid
    assert last["rss_bytes"] <= IDLE_BUDGET_BYTES


def test_the_log_tells_what_happens_and_no_password(
    cloud: FakeCloud,
    identity: Identity,
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    away = "rtsp://watcher:hush-hush@127.0.0.1:1/stream?token=hush-hush"
    process = start(cameras=[{"id": "cam", "source": away}])
    wait_until(lambda: cloud.last_report("gate-1").hardware != "", 20)
    digest = cloud.add_bundle(b"no artifact at all")
    cloud.want("gate-1", artifact_digest=digest, artifact_name="tiny:1", attempt=1)
    failed = device_pb2.UPDATE_STATE_FAILED
    wait_until(lambda: cloud.last_report("gate-1").update_state == failed, 10)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert json.loads(output)["device_id"] == "gate-1"  # logs are elsewhere
    lines = errors.splitlines()
    for words in (
        "waiting for a model",
        "connected to the cloud at 127.0.0.1:",
        "camera cam is offline",
        "tiny:1: downloading",
        "tiny:1 failed: ",
        "leaving: told to stop",
    ):
        assert len([line for line in lines if words in line]) == 1, (words, errors)
    assert "hush-hush" not in errors + output


def test_only_what_an_agent_needs_is_loaded() -> None:
    code = (
        "import sys, camagent.__main__;"
        "print([m for m in ('torch', 'onnx', 'sqlalchemy', 'typer', 'rich', 'pydantic',"
        " 'onnxruntime') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("data_dir: .\ncameras: 3\n")
    run = subprocess.run(
        [sys.executable, "-m", "camsdk.cli.main", "agent", "run", "--config", str(path), "--json"],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert run.returncode == 1
    assert json.loads(run.stdout)["error"]["reason"] == "invalid-input"
    assert run.stderr.startswith("camctl: cameras is missing")


def test_enrolling_twice_needs_a_word(cloud: FakeCloud, tmp_path: Path) -> None:
    def enroll(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "camsdk.cli.main", "agent", "enroll", "--json"]
        return subprocess.run(
            [*command, "--data", str(tmp_path / "data"), "--token", cloud.token, *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    first = enroll("--name", "gate-9")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["device_id"] == "gate-9"
    second = enroll()
    assert second.returncode == 1
    assert "--replace" in second.stderr
    third = enroll("--replace", "--name", "gate-10")
    assert json.loads(third.stdout)["device_id"] == "gate-10"


def test_a_folder_that_cannot_be_written_costs_no_token(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in ("/proc/foo", str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        command = [sys.executable, "-m", "camsdk.cli.main", "agent", "enroll"]
        run = subprocess.run(
            [*command, "--data", folder, "--token", cloud.token],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 1
        assert run.stderr.startswith(f"camctl: no identity can be kept in {folder}: ")
        assert "the token has not been used" in run.stderr
    assert cloud.enrolments == []
