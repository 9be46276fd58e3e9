"""The demo's own steps: what it does when a camera does not get on."""

from pathlib import Path

import pytest

from camsdk.cli.demo.cameras import CameraPlan
from camsdk.cli.demo.journey import _follow_to_end
from camsdk.errors import DeadlineExceeded
from support.clips import still, write_video


class Hanging:
    """An agent that runs, says nothing and never ends."""

    log_path = Path("agent.log")
    has_ended = False


def test_an_agent_that_hangs_ends_the_demo(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", still(64, 48, 5))
    plan = CameraPlan("gate-1", clip, "fast", tmp_path)
    said: list[int] = []
    with pytest.raises(DeadlineExceeded, match="gate-1 does not get on: frame 0 of 5"):
        _follow_to_end(Hanging(), plan, lambda _, done, __: said.append(done), stall_s=0.1)  # type: ignore[arg-type] # stands in for the process
    assert said
