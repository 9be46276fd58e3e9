"""``camctl serve`` as a process: started twice, killed, and in each other's way."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from camproto.v1 import api_pb2
from camproto.v1.api_pb2_grpc import CloudApiStub
from support.embedded_cloud import FLEET

pytestmark = pytest.mark.slow


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "camsdk.cli.main", *arguments]


@contextmanager
def cloud(data: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Mapping[str, Any]]]:
    """A process and what it said when it was ready; ended in the end."""
    arguments = arguments or ("--grpc", "127.0.0.1:0")
    with subprocess.Popen(
        command("serve", "--data", str(data), "--json", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def api(ready: Mapping[str, Any]) -> Iterator[CloudApiStub]:
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(Path(ready["ca"]).read_bytes()),
        grpc.access_token_call_credentials(Path(ready["admin_token_file"]).read_text().strip()),
    )
    with grpc.secure_channel(ready["api"], credentials) as channel:
        yield CloudApiStub(channel)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_run_goes_on_where_the_first_was(tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "data"
    with cloud(data) as (process, first), api(first) as stub:
        stub.CreateFleet(api_pb2.CreateFleetRequest(name=FLEET), timeout=10)
        assert json.loads((data / "ready.json").read_text()) == first
        process.send_signal(number)
        code = process.wait(10)
        assert code == (0 if number == signal.SIGTERM else -number)
    kept = {path: path.read_bytes() for path in (data / "admin.token", data / "pki" / "ca.pem")}
    with cloud(data) as (_, second), api(second) as stub:
        fleets = stub.ListFleets(api_pb2.ListFleetsRequest(), timeout=10).fleets
        assert [fleet.name for fleet in fleets] == [FLEET]
    assert kept == {path: path.read_bytes() for path in kept}


def test_a_second_cloud_in_the_way_says_so_in_one_sentence(tmp_path: Path) -> None:
    with cloud(tmp_path / "one") as (_, ready):
        for data, address, words in (
            (tmp_path / "one", "127.0.0.1:0", "Another cloud runs on"),
            (tmp_path / "two", ready["api"], "cannot be bound"),
            (tmp_path / "two", "0.0.0.0:0", "--advertise"),
        ):
            run = subprocess.run(
                command("serve", "--data", str(data), "--grpc", address),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert run.returncode == 1
            assert words in run.stderr
            assert "Traceback" not in run.stderr


def test_an_address_without_a_host_is_wrong_usage(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run = subprocess.run(
        command("serve", "--data", str(data), "--grpc", "8443"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert "such as 127.0.0.1:8443" in " ".join(run.stderr.replace("│", " ").split())
    assert not data.exists()


def test_what_it_prints_for_people_leads_on(tmp_path: Path) -> None:
    """The commands that it prints work as they stand."""
    with subprocess.Popen(
        command("serve", "--data", str(tmp_path / "data"), "--grpc", "127.0.0.1:0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        while "camctl doctor" not in (line := process.stdout.readline()):
            assert line, "it ended before it served"
            lines.append(line)
        exports = dict(
            line.split("export ", 1)[1].strip().split("=", 1) for line in lines if "export" in line
        )
        steps = [line.split()[1:] for line in lines if line.startswith("  camctl ")]
        steps = [step for step in steps if "TOKEN" not in step]  # an agent's, elsewhere
        for step in steps:
            run = subprocess.run(
                command(*step, "--json"),
                env={**os.environ, **exports},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert run.returncode == 0, run.stderr
        process.kill()
    assert json.loads(run.stdout)["tokens"][0].startswith("camtok1_")
