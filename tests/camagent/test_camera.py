"""One camera's worker: what is told of it while it works."""

import threading
from pathlib import Path

import pytest

from camagent import batch
from camagent.camera import CameraWorker, Watch
from camagent.config import AgentConfig, CameraSettings, OutboxSettings
from camagent.detect import Detect
from camagent.outbox import NewBatch, Outbox
from camsdk.errors import ResourceExhausted
from camsdk.vision.rules import CameraRules
from support.clips import still, write_video
from support.waiting import wait_until


class FullDisk(Outbox):
    """An outbox whose disk is full."""

    def commit(self, batch: NewBatch) -> int:
        raise ResourceExhausted("disk full")


def test_what_a_full_disk_costs_is_told_while_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MAX_HELD", 2)
    clip = write_video(tmp_path / "clip.mp4", still(64, 48, 40))
    camera = CameraSettings("cam", str(clip), start_time_s=1000.0)
    config = AgentConfig(
        tmp_path,
        (camera,),
        outbox=OutboxSettings(batch_frames=1),
        recordings_wait_for_model=False,
    )
    outbox = FullDisk(tmp_path / "outbox.db")
    worker = CameraWorker(camera, config, outbox, Detect(), Watch(CameraRules(), ()))
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    wait_until(lambda: worker.losses.frames > 0)
    assert thread.is_alive()
    assert not worker.is_finished
    before = worker.losses
    stop.set()
    thread.join(5)
    after = worker.losses
    assert after.frames > before.frames  # what was still held
    assert (after.events, after.crops) == (0, 0)
    outbox.close()
