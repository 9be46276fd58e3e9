"""A model on its way to a fleet of real agents: it arrives, or everything is as it was."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from camsdk.artifact.manifest import Manifest
from camsdk.cli.demo.journey import read_rules
from camsdk.client import ExecutionState, Model, RolloutState, Strategy
from support.stack import FLEET, Stack, eventually

DEVICES = ("camera-a", "camera-b", "camera-c")
QUICK = {"update": {"trial_frames": 5, "trial_max_s": 5.0}, "report_interval_s": 0.5}
SLOW_BOX = {"update": {"trial_frames": 5, "trial_max_s": 5.0, "canary_deadline_s": 0.001}}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def next_version(manifest: Manifest, version: int) -> Manifest:
    return manifest.model_copy(update={"version": version})


def camctl(stack: Stack, *arguments: str) -> dict:
    """Runs camctl as a user does, and parses what it prints."""
    command = [sys.executable, "-m", "camsdk.cli.main", *arguments, "--json"]
    where = ["--data", str(stack.data)]
    run = subprocess.run([*command, *where], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture
def fleet(tmp_path: Path, vtest_path: Path, int8_detector) -> Iterator[tuple[Stack, Model]]:
    """Three cameras at real pace that run version 1."""
    manifest, members = int8_detector
    with Stack(tmp_path) as stack:
        stack.client.create_fleet(FLEET)
        stack.client.apply_rules(FLEET, read_rules(None))
        first = stack.push(next_version(manifest, 1), members)
        for device_id in DEVICES:
            stack.enrol(device_id)
            start(stack, device_id, vtest_path)
        deployed = stack.client.deploy(first.reference, fleet=FLEET, strategy="all-at-once")
        assert deployed.wait(timeout_s=120).state is RolloutState.COMPLETED
        yield stack, first


def start(stack: Stack, device_id: str, clip: Path, options: Mapping = QUICK) -> None:
    stack.start_agent(device_id, clip, camera={"pace": "realtime"}, **options)
    stack.wait_connected(device_id)


def running(stack: Stack) -> dict[str, str]:
    return {d.device_id: d.reported.running_digest for d in stack.client.list_devices(fleet=FLEET)}


def test_a_failing_canary_aborts_the_wave_and_leaves_the_others_alone(
    fleet, vtest_path, int8_detector
):
    stack, first = fleet
    manifest, members = int8_detector
    stack.agents["camera-a"].stop()
    # The same device under such load that its reference inferences miss their deadline.
    start(stack, "camera-a", vtest_path, SLOW_BOX)
    eventually(lambda: running(stack)["camera-a"] == first.digest, 30, "camera-a on version 1")
    before = {d.device_id: d.desired for d in stack.client.list_devices(fleet=FLEET)}
    second = stack.push(next_version(manifest, 2), members)

    rollout = stack.client.deploy(
        second.reference, fleet=FLEET, strategy=Strategy.CANARY, canary_count=2
    )
    ended = rollout.wait(timeout_s=120)

    assert ended.state is RolloutState.ABORTED
    wave = {row.device_id: row for row in ended.waves[0]}
    assert "camera-a" in wave
    assert len(wave) == 2
    assert wave["camera-a"].has_failed
    assert "deadline" in wave["camera-a"].detail or "canary" in wave["camera-a"].detail
    assert {row.state for row in wave.values()} == {ExecutionState.REVERTED}
    assert running(stack) == dict.fromkeys(DEVICES, first.digest)
    (untouched,) = set(DEVICES) - set(wave)
    after = stack.client.get_device(untouched)
    assert after.desired == before[untouched]
    shown = camctl(stack, "rollout", "show", ended.rollout_id)
    assert shown["state"] == "aborted"
    states = {row["device_id"]: row["state"] for row in shown["executions"]}
    assert states == {**dict.fromkeys(wave, "reverted"), untouched: "cancelled"}


def test_a_good_model_reaches_every_wave(fleet, int8_detector):
    stack, _ = fleet
    manifest, members = int8_detector
    second = stack.push(next_version(manifest, 2), members)

    ended = stack.client.deploy(
        second.reference, fleet=FLEET, strategy=Strategy.WAVES, wave_count=2
    ).wait(timeout_s=150)

    assert ended.state is RolloutState.COMPLETED
    assert running(stack) == dict.fromkeys(DEVICES, second.digest)
    for device_id in DEVICES:
        # This gate is open on every frame, so a frame that met no model would show here. One may
        # be under way when the figures are taken.
        camera = stack.status(device_id)["cameras"][0]
        assert camera["frame_count"] > 10
        assert abs(camera["frame_count"] - camera["detector_calls"]) <= 1


def test_a_model_damaged_in_the_registry_is_refused_and_the_old_one_goes_on(fleet, int8_detector):
    stack, first = fleet
    manifest, members = int8_detector
    second = stack.push(next_version(manifest, 2), members)
    (blob,) = [p for p in (stack.data / "blobs").rglob("*") if second.digest in p.name]
    damaged = bytearray(blob.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    blob.write_bytes(damaged)

    ended = stack.client.deploy(second.reference, fleet=FLEET).wait(timeout_s=120)

    assert ended.state is RolloutState.ABORTED
    details = {row.detail for row in ended.executions if row.has_failed}
    assert all("registry's copy" in detail for detail in details), details
    assert details
    assert running(stack) == dict.fromkeys(DEVICES, first.digest)
