"""What an operator does with nothing but ``camctl``, against real processes: cloud, agent, tail."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.artifacts import make_bundle
from support.clips import encode, scene
from support.rtsp_server import RtspServer
from support.stack import FLEET, Stack, eventually, kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

RULES = """\
version: 1
cameras:
  "*":
    lines:
      - {name: entry, from: [0.5, 0.0], to: [0.5, 1.0], in: left}
"""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Operator:
    """Somebody at a terminal."""

    data: Path

    def command(self, *arguments: object) -> list[str]:
        words = [sys.executable, "-m", "camsdk.cli.main", *map(str, arguments)]
        return [*words, "--data", str(self.data)]

    def camctl(self, *arguments: object) -> Outcome:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=60
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path) as running:
        yield running


@pytest.fixture
def operator(stack: Stack) -> Operator:
    return Operator(stack.data)


@pytest.fixture
def camera() -> Iterator[RtspServer]:
    """A live one: whenever its connection breaks it goes offline and comes online again."""
    with RtspServer(encode(scene(128, 96, 40), rate_hz=20)) as server:
        yield server


def start_live(stack: Stack, device_id: str, camera: RtspServer) -> None:
    stack.enrol(device_id)
    resume_live(stack, device_id, camera)


def resume_live(stack: Stack, device_id: str, camera: RtspServer) -> None:
    settings = {"source": camera.url, "pace": "realtime", "start_time_s": None}
    stack.start_agent(device_id, Path(), camera=settings, exit_when_finished=False)
    stack.wait_connected(device_id)


def test_a_doctor_finds_a_fresh_cloud_healthy(operator: Operator) -> None:
    outcome = operator.camctl("doctor", "--json")
    verdicts = {row["name"]: row["verdict"] for row in outcome.json["checks"]}
    assert outcome.code == 0, outcome.out
    for name in ("cloud", "credentials", "certificate", "clock", "video"):
        assert verdicts[name] == "ok", outcome.json


def test_from_an_empty_cloud_to_a_camera_that_is_seen(
    stack: Stack, operator: Operator, camera: RtspServer, tmp_path: Path
) -> None:
    assert operator.camctl("fleet", "create", FLEET, "--json").json["name"] == FLEET
    again = operator.camctl("fleet", "create", FLEET)
    assert (again.code, again.out) == (1, "")
    assert again.err.startswith("camctl: ")
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    applied = operator.camctl("rules", "apply", "-f", rules, "--json").json
    assert (
        operator.camctl("fleet", "show", FLEET, "--json").json["rules_digest"]
        == (applied["rules_digest"])
    )
    rules.write_text("cameras: [1]\n")
    assert operator.camctl("rules", "apply", "-f", rules).code == 1

    token = operator.camctl("token", "create", "--fleet", FLEET).out.strip()
    enrol = ["agent", "enroll", "--token", token, "--name", "cam-1"]
    folder = tmp_path / "cam-1"
    folder.mkdir()
    words = [sys.executable, "-m", "camsdk.cli.main", *enrol, "--data", str(folder / "data")]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    reused = subprocess.run([*words, "--replace"], capture_output=True, text=True, timeout=60)
    assert reused.returncode == 1, "a token works once"
    assert reused.stderr.startswith("camctl: ")

    resume_live(stack, "cam-1", camera)
    eventually(lambda: stack.client.status().event_count > 0, 20, "an event")
    eventually(lambda: stack.client.get_device("cam-1").reported.cameras[0].is_online, 20, "video")
    device = operator.camctl("device", "show", "cam-1", "--json").json
    assert device["fleet"] == FLEET
    assert device["reported"]["cameras"][0]["camera_id"] == "cam-1"
    (event,) = operator.camctl("events", "list", "--kind", "camera_online", "--json").json["events"]
    assert (event["device_id"], event["fleet"]) == ("cam-1", FLEET)
    shown = operator.camctl("events", "show", event["event_id"])
    assert event["event_id"] in shown.out
    revoked = operator.camctl("device", "revoke", "cam-1", "--yes", "--json").json
    assert revoked["is_revoked"]


def test_a_tail_survives_a_killed_cloud(
    stack: Stack, operator: Operator, camera: RtspServer, tmp_path: Path
) -> None:
    operator.camctl("fleet", "create", FLEET)
    log = (tmp_path / "tail.log").open("w")
    tail = subprocess.Popen(
        operator.command("events", "tail", "--after-cursor", "0", "--limit", "3", "--json"),
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    assert tail.stdout is not None
    start_live(stack, "cam-1", camera)
    seen = [json.loads(tail.stdout.readline())]
    assert stack.cloud is not None
    kill(stack.cloud)
    camera.drop()
    stack.start_cloud()
    seen += [json.loads(tail.stdout.readline()) for _ in range(2)]
    assert tail.wait(30) == 0
    tail.stdout.close()
    log.close()
    assert [row["kind"] for row in seen] == ["camera_online", "camera_offline", "camera_online"]
    assert [row["sequence"] for row in seen] == [1, 2, 3]


def test_a_model_that_fails_its_canary_comes_back(
    stack: Stack, operator: Operator, camera: RtspServer, tmp_path: Path
) -> None:
    operator.camctl("fleet", "create", FLEET)
    draft = tmp_path / "tiny.cam"
    draft.write_bytes(make_bundle(None))
    refused = operator.camctl("model", "push", draft, "--json")
    assert (refused.code, refused.json["error"]["reason"]) == (1, "artifact-refused")
    key = stack.data / "keys" / "signing.key"
    sign = [sys.executable, "-m", "camsdk.cli.main", "model", "sign", str(draft), "--key", str(key)]
    subprocess.run(sign, check=True, capture_output=True, timeout=60)
    pushed = operator.camctl("model", "push", draft, "--json").json
    assert operator.camctl("model", "list", "--json").json["models"] == [pushed]

    start_live(stack, "cam-1", camera)
    watched = operator.camctl("deploy", "model", "tiny:1", "--fleet", FLEET, "--watch", "--json")
    states = [json.loads(line) for line in watched.out.splitlines()]
    assert watched.code == 1, "the model is no model, so the rollout is aborted"
    assert states[-1]["state"] == "aborted"
    (execution,) = states[-1]["executions"]
    assert execution["has_failed"]
    shown = operator.camctl("rollout", "show", states[-1]["rollout_id"])
    assert "aborted" in shown.out
    assert "cam-1" in shown.out
    device = operator.camctl("device", "show", "cam-1", "--json").json
    assert device["reported"]["running_digest"] == ""


def test_a_reader_may_look_and_not_change(stack: Stack, operator: Operator) -> None:
    token = operator.camctl("token", "create", "--api", "ann", "--read-only").out.strip()
    reader_file = stack.folder / "reader.token"
    reader_file.write_text(token)
    assert operator.camctl("fleet", "list", "--token-file", reader_file, "--json").code == 0
    refused = operator.camctl("fleet", "create", "x", "--token-file", reader_file, "--json")
    assert (refused.code, refused.json["error"]["reason"]) == (1, "permission-denied")
