"""A whole platform on loopback for tests: real cloud, real agents, real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from camsdk.artifact import bundle, keys
from camsdk.artifact.manifest import Manifest
from camsdk.cli.demo.processes import CamctlProcess, wait_until
from camsdk.client import Client, Credentials, Model

FLEET = "park-a"
START_S = 1_700_000_000.0
"""Capture time of each recording's first frame, so that replays are comparable."""


def free_base_port() -> int:
    """A port with two free neighbours above it: API, devices, enrolment."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            base = int(probe.getsockname()[1])
        try:
            with ExitStack() as held:
                for port in range(base, base + 3):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise AssertionError("no three free ports in a row")


class Stack:
    """An embedded cloud that can be killed and started again, and agents that can be, too.

    Args:
        folder: Of everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "cloud"
        self.base_port = free_base_port()
        self.cloud: CamctlProcess | None = None
        self.agents: dict[str, CamctlProcess] = {}
        self._client: Client | None = None

    def __enter__(self) -> "Stack":
        self.start_cloud()
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()
        for agent in self.agents.values():
            agent.stop()
        if self.cloud is not None:
            self.cloud.stop()

    def start_cloud(self) -> None:
        """Starts it on the same data folder and ports as before."""
        arguments = ["serve", "--data", str(self.data), "--json"]
        address = ["--grpc", f"127.0.0.1:{self.base_port}"]
        self.cloud = CamctlProcess("cloud", [*arguments, *address], self.folder / "cloud.log")
        self.cloud.read_ready_line()

    @property
    def client(self) -> Client:
        """An administrator's client; it survives restarts of the cloud."""
        if self._client is None:
            credentials = Credentials.from_files(
                self.data / "admin.token", self.data / "pki" / "ca.pem"
            )
            self._client = Client(
                f"127.0.0.1:{self.base_port}", credentials=credentials, timeout_s=30.0
            )
        return self._client

    def push(self, manifest: Manifest, members: Mapping[str, bytes]) -> Model:
        """Signs a model with the cloud's own key and pushes it."""
        key = keys.load_signing_key(self.data / "keys" / "signing.key")
        return self.client.push_model(bundle.pack(manifest, members, key))

    def enrol(self, device_id: str) -> None:
        """Enrols a device into the fleet."""
        token = self.client.create_bootstrap_token(FLEET, lifetime_s=600).tokens[0]
        folder = self.folder / device_id
        folder.mkdir()
        command = ["agent", "enroll", "--token", token, "--data", str(folder / "data")]
        run = subprocess.run(
            [sys.executable, "-m", "camsdk.cli.main", *command, "--name", device_id, "--json"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr

    def start_agent(self, device_id: str, source: Path, **options: Any) -> CamctlProcess:
        """Starts an agent with one camera of its own name.

        Args:
            device_id: Enrolled before.
            source: Recording.
            options: Top-level fields of agent.yaml; ``camera`` holds fields of the camera.
        """
        folder = self.folder / device_id
        camera = {"id": device_id, "source": str(source), "pace": "fast", "start_time_s": START_S}
        config = {
            "data_dir": "data",
            "exit_when_finished": True,
            "status_file": "status.json",
            "cameras": [camera | options.pop("camera", {})],
        }
        path = folder / "agent.yaml"
        path.write_text(json.dumps(config | options))
        arguments = ["-v", "agent", "run", "--config", str(path)]
        self.agents[device_id] = CamctlProcess(device_id, arguments, folder / "agent.log")
        return self.agents[device_id]

    def status(self, device_id: str) -> Mapping[str, Any]:
        """The agent's own figures."""
        status: Mapping[str, Any] = json.loads(
            (self.folder / device_id / "status.json").read_text()
        )
        return status

    def wait_connected(self, device_id: str, timeout_s: float = 30.0) -> None:
        """Waits until the cloud sees the device."""
        wait_until(lambda: self.client.get_device(device_id).is_connected, timeout_s, "connection")


def kill(process: CamctlProcess) -> None:
    """SIGKILL: no clean-up, no flush."""
    os.kill(process.pid, signal.SIGKILL)
    process.stop()


def eventually(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """``wait_until`` that forgives a cloud that is just being restarted."""
    from camsdk.errors import Unavailable

    def check() -> bool:
        try:
            return condition()
        except Unavailable:
            return False

    wait_until(check, timeout_s, what, interval_s=0.2)


def timed(action: Callable[[], object]) -> float:
    """Seconds that ``action`` took."""
    started = time.monotonic()
    action()
    return time.monotonic() - started
