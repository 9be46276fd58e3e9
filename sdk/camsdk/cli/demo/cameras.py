"""Cameras of the demo: each an agent of its own, enrolled with a single-use token."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from camsdk.cli.demo.processes import CamctlProcess
from camsdk.client import Client
from camsdk.errors import Unavailable

_SAMPLE_INTERVAL_S: Final = 0.2
_ENROL_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class CameraPlan:
    """One camera that the demo plays.

    Attributes:
        device_id: Also the camera's id.
        source: Recording.
        pace: ``fast`` or ``realtime``.
        folder: Its data, configuration, status and log.
    """

    device_id: str
    source: Path
    pace: str
    folder: Path

    @property
    def status_file(self) -> Path:
        """Figures that the agent keeps up to date."""
        return self.folder / "status.json"


def enrol(client: Client, fleet: str, plan: CameraPlan) -> None:
    """Gets the device its certificate, as ``camctl agent enroll`` does on a real one.

    Raises:
        Unavailable: The command failed; the message has its last words.
    """
    plan.folder.mkdir(parents=True)
    token = client.create_bootstrap_token(fleet, lifetime_s=600).tokens[0]
    arguments = ["agent", "enroll", "--data", str(plan.folder / "data")]
    run = subprocess.run(
        [sys.executable, "-m", "camsdk.cli.main", *arguments, "--name", plan.device_id, "--json"],
        env=os.environ | {"CAMCTL_AGENT_TOKEN": token},  # not among the arguments: ps shows those
        capture_output=True,
        text=True,
        timeout=_ENROL_TIMEOUT_S,
        check=False,
    )
    if run.returncode:
        raise Unavailable(f"{plan.device_id} could not enrol: {run.stderr.strip()[-500:]}")


def start_agent(plan: CameraPlan) -> CamctlProcess:
    """Writes ``agent.yaml`` and starts the agent; it leaves by itself after the recording."""
    config = {
        "data_dir": "data",
        "exit_when_finished": True,
        "status_file": plan.status_file.name,
        "cameras": [
            {"id": plan.device_id, "source": str(plan.source.resolve()), "pace": plan.pace}
        ],
    }
    path = plan.folder / "agent.yaml"
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    arguments = ["agent", "run", "--config", str(path)]
    return CamctlProcess(plan.device_id, arguments, plan.folder / "agent.log")


def read_status(plan: CameraPlan) -> Mapping[str, Any]:
    """The agent's last figures.

    Raises:
        Unavailable: It has left none.
    """
    try:
        status: Mapping[str, Any] = json.loads(plan.status_file.read_text())
    except (OSError, ValueError) as error:
        raise Unavailable(f"{plan.device_id} left no figures in {plan.status_file}") from error
    return status


class MemoryWatch:
    """Samples an agent's resident memory from outside, in a thread, until it is left."""

    def __init__(self, agent: CamctlProcess) -> None:
        self.samples: list[dict[str, int]] = []
        self._agent = agent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_INTERVAL_S):
            self.samples.append(self._agent.rss_bytes())
