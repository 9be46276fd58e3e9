"""Deploying, watching and steering rollouts from the command line."""

import io
import threading
import time

import pytest
from rich.console import Console

from camproto.v1 import api_pb2
from camsdk.cli.output import Output
from camsdk.cli.waves import draw_rollout
from camsdk.client import ExecutionState
from camsdk.client.messages import rollout_status
from support.fake_api import FakeCloud

from .conftest import Camctl


@pytest.fixture
def fleet(cloud: FakeCloud, camctl: Camctl) -> FakeCloud:
    camctl("fleet", "create", "park-a")
    for name in ("cam-1", "cam-2", "cam-3"):
        cloud.add_device(name)
    return cloud


def _complete(rollout: api_pb2.Rollout) -> None:
    for execution in rollout.executions:
        execution.state = api_pb2.EXECUTION_STATE_SUCCEEDED
    rollout.state = api_pb2.ROLLOUT_STATE_COMPLETED


def _abort(rollout: api_pb2.Rollout) -> None:
    for execution in rollout.executions:
        execution.state = api_pb2.EXECUTION_STATE_CANCELLED
    rollout.executions[0].state = api_pb2.EXECUTION_STATE_REVERTED
    rollout.executions[0].has_failed = True
    rollout.executions[0].detail = "canary output differs"
    rollout.state = api_pb2.ROLLOUT_STATE_ABORTED
    rollout.detail = "1 device failed, 0 may"


def _later(fleet: FakeCloud, *changes: object) -> threading.Thread:
    """Waits for the rollout and then changes it step by step."""

    def act() -> None:
        deadline_s = time.monotonic() + 10
        while not fleet.state.rollouts and time.monotonic() < deadline_s:
            time.sleep(0.01)
        for change in changes:
            time.sleep(0.1)
            fleet.change_rollout("r1", change)  # type: ignore[arg-type] # functions, see callers

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_deploy_starts_a_rollout(fleet: FakeCloud, camctl: Camctl) -> None:
    outcome = camctl(
        "deploy", "model", "detector:2", "--fleet", "park-a", "--strategy", "waves",
        "--waves", "2", "--canary-percent", "10", "--max-failures", "1",
        "--device-timeout", "90s", "--needs-approval", "--rollback", "--json",
    )  # fmt: skip
    assert outcome.code == 0
    assert outcome.json["state"] == "pending"
    assert outcome.json["strategy"] == "waves"
    sent = fleet.state.requests[-1]
    assert (sent.model, sent.fleet, sent.wave_count) == ("detector:2", "park-a", 2)
    assert (sent.canary_percent, sent.max_failures, sent.timeout_s) == (10.0, 1, 90.0)
    assert sent.needs_approval
    assert sent.is_rollback
    newest = camctl("deploy", "model", "--fleet", "park-a")
    assert fleet.state.requests[-1].model == ""
    assert fleet.state.requests[-1].timeout_s == 0.0, "the cloud's own default"
    assert "camctl rollout watch r2" in newest.err
    assert "wave 1" in newest.out


def test_deploy_and_watch_to_a_good_end(fleet: FakeCloud, camctl: Camctl) -> None:
    thread = _later(fleet, lambda row: setattr(row, "current_wave", 1), _complete)
    outcome = camctl("deploy", "model", "detector:2", "--fleet", "park-a", "--watch", "--json")
    thread.join()
    assert outcome.code == 0
    assert [line["state"] for line in outcome.lines][-1] == "completed"
    assert [line["revision"] for line in outcome.lines] == sorted(
        line["revision"] for line in outcome.lines
    )


def test_an_aborted_rollout_is_exit_code_1(fleet: FakeCloud, camctl: Camctl) -> None:
    thread = _later(fleet, _abort)
    outcome = camctl("deploy", "model", "detector:2", "--fleet", "park-a", "--watch")
    thread.join()
    assert outcome.code == 1
    assert "aborted" in outcome.out.splitlines()[-1]
    assert "camctl rollout show r1" in outcome.err
    shown = camctl("rollout", "show", "r1")
    assert "canary output differs" in shown.out
    assert "reverted" in shown.out
    assert camctl("rollout", "watch", "r1").code == 1


def test_watching_is_bounded(fleet: FakeCloud, camctl: Camctl) -> None:
    camctl("deploy", "model", "--fleet", "park-a", "--needs-approval")
    outcome = camctl("rollout", "watch", "r1", "--seconds", "0.1", "--json")
    assert outcome.code == 1
    assert outcome.lines[-1]["error"]["reason"] == "deadline-exceeded"


def test_steering(fleet: FakeCloud, camctl: Camctl) -> None:
    assert "camctl deploy model" in camctl("rollout", "list").err
    camctl("deploy", "model", "--fleet", "park-a", "--needs-approval")
    states = [
        camctl("rollout", action, "r1", "--json").json["state"]
        for action in ("approve", "pause", "resume", "abort")
    ]
    assert states == ["running", "paused", "running", "aborted"]
    assert "aborted" in camctl("rollout", "list", "--fleet", "park-a").out
    assert camctl("rollout", "list", "--json").json["rollouts"][0]["rollout_id"] == "r1"
    assert camctl("rollout", "pause", "r9").code == 1
    assert "1 of 2" in camctl("rollout", "list").out
    fleet.change_rollout("r1", lambda row: setattr(row, "wave_count", 0))
    assert "of 0" not in camctl("rollout", "list").out, "a fleet without devices has no waves"


def test_the_drawing_shows_waves_and_failures() -> None:
    message = api_pb2.Rollout(
        rollout_id="r1",
        fleet="park-a",
        model_name="detector:2",
        state=api_pb2.ROLLOUT_STATE_ROLLING_BACK,
        wave_count=3,
        current_wave=1,
        executions=[
            api_pb2.RolloutExecution(device_id=f"cam-{number}", wave=number % 2, state=number)
            for number in range(len(ExecutionState))
        ],
    )
    message.executions[5].has_failed = True
    message.executions[5].detail = "canary output differs"
    screen = io.StringIO()
    Console(file=screen, width=240).print(draw_rollout(rollout_status(message)))
    lines = screen.getvalue().splitlines()
    assert lines[0].startswith("detector:2 to park-a  rolling back")
    assert [line[:8].strip() for line in lines[1:4]] == ["wave 1", "> wave 2", "wave 3"]
    assert "0/0" in lines[3]
    assert "○ 1 queued" in lines[4]
    assert "✗ 1 failed  ✗ 1 timed out" in lines[4]
    assert "cam-5: failed, canary output differs" in lines[5]


def test_a_terminal_shows_one_drawing_that_changes(
    fleet: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(Output, "console", lambda self: terminal)
    thread = _later(fleet, _complete)
    assert camctl("deploy", "model", "detector:2", "--fleet", "park-a", "--watch").code == 0
    thread.join()
    drawn = screen.getvalue()
    assert "running" in drawn
    assert "completed" in drawn
    assert "\x1b[1A" in drawn, "the cursor goes up to draw over the last state"
