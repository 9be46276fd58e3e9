"""The demo's own steps: what it does when a camera does not get on."""

from pathlib import Path

import pytest

from camsdk.cli.demo.cameras import CameraPlan
from camsdk.cli.demo.journey import DemoOptions, _follow_to_end, run_demo
from camsdk.errors import DeadlineExceeded, SourceError
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


def test_what_is_no_video_is_said_before_anything_is_started(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no video")
    out = tmp_path / "out"
    with pytest.raises(SourceError, match=r"notes\.txt cannot be read as video"):
        run_demo(DemoOptions(out, video=text), lambda *_: None)
    assert not out.exists()
