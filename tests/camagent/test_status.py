"""The status file: whole, and quiet about a disk that stays broken."""

import json
import logging
from pathlib import Path

import pytest

from camagent.outbox import Outbox
from camagent.shadow import Report, UpdateReport
from camagent.status import AgentStatus, ProcessFigures, StatusFile
from camagent.upload import UploadStats


@pytest.fixture
def status(tmp_path: Path) -> AgentStatus:
    outbox = Outbox(tmp_path / "outbox.db")
    stats = outbox.stats()
    outbox.close()
    return AgentStatus(
        device_id="gate-1",
        fleet="park-a",
        pid=1,
        timestamp_s=1000.0,
        is_connected=False,
        is_revoked=False,
        certificate_expires_timestamp_s=2000.0,
        shadow_reconnects=0,
        lost_frames=0,
        lost_events=0,
        lost_crops=0,
        report=Report(UpdateReport(), (), 0, "", "cpu-x86_64", "0.1.0"),
        outbox=stats,
        upload=UploadStats(),
        process=ProcessFigures.now(0.0),
    )


def test_a_file_that_cannot_be_written_is_said_once_until_it_works_again(
    status: AgentStatus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "camagent")
    folder = tmp_path / "later"
    file = StatusFile(folder / "status.json")
    for _ in range(3):
        file.write(status)
    assert len(caplog.records) == 1
    folder.mkdir()
    file.write(status)
    assert json.loads((folder / "status.json").read_text())["device_id"] == "gate-1"
    (folder / "status.json").unlink()
    folder.rmdir()
    file.write(status)
    assert len(caplog.records) == 2
