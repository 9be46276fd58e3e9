"""Reports leave when something changes, wishes come in, and the stream comes back."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from camagent.link import CloudLink
from camagent.shadow import CameraReport, Desired, Report, Shadow, UpdateReport, to_message
from camproto.v1 import device_pb2
from support.fake_cloud import FakeCloud
from support.waiting import wait_until


class Device:
    """A shadow and what it heard."""

    def __init__(self, link: CloudLink, interval_s: float = 60.0) -> None:
        self.detail = "first"
        self.wishes: list[Desired] = []
        self.shadow = Shadow(link, self._report, self.wishes.append, interval_s)
        self.thread = threading.Thread(target=self.shadow.run)
        self.thread.start()

    def _report(self) -> Report:
        update = UpdateReport(state="trial", digest="d" * 64, detail=self.detail, attempt=7)
        return Report(update, (CameraReport("gate-1"),), 3, "rules", "cpu-x86_64", "0.1.0")

    def stop(self) -> None:
        self.shadow.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture
def start(link: CloudLink) -> Iterator[Callable[..., Device]]:
    devices: list[Device] = []

    def begin(interval_s: float = 60.0) -> Device:
        devices.append(Device(link, interval_s))
        return devices[-1]

    yield begin
    for device in devices:
        device.stop()


def test_reports_leave_at_once_when_poked(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    device = start()
    wait_until(lambda: cloud.last_report("gate-1").detail == "first")
    device.detail = "second"
    device.shadow.poke()
    wait_until(lambda: cloud.last_report("gate-1").detail == "second")
    report = cloud.last_report("gate-1")
    assert report.update_state == device_pb2.UPDATE_STATE_TRIAL
    assert (report.rollout_attempt, report.desired_version) == (7, 3)
    assert [camera.camera_id for camera in report.cameras] == ["gate-1"]


def test_reports_leave_in_intervals(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    start(0.02)
    wait_until(lambda: len(cloud.reports.get("gate-1", [])) >= 4)


def test_wishes_come_in(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    device = start()
    wait_until(lambda: device.wishes == [Desired()])
    cloud.want("gate-1", artifact_digest="a" * 64, artifact_name="m:1", attempt=2, is_rollback=True)
    expected = Desired(version=1, digest="a" * 64, name="m:1", attempt=2, is_rollback=True)
    wait_until(lambda: device.wishes[-1] == expected)
    assert device.shadow.is_connected


def test_the_stream_comes_back(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    device = start()
    wait_until(lambda: device.shadow.is_connected)
    cloud.stop_gateway()
    wait_until(lambda: not device.shadow.is_connected)
    cloud.want("gate-1", rules_digest="r")
    cloud.start_gateway()
    wait_until(lambda: bool(device.wishes) and device.wishes[-1].rules_digest == "r", 6)
    assert device.shadow.reconnects >= 1


def test_a_cloud_that_ends_streams_at_once_is_not_stormed(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    cloud.faults.is_silent = True
    start()
    time.sleep(0.5)
    assert 2 <= cloud.stream_count <= 6
    cloud.faults.is_silent = False
    wait_until(lambda: bool(cloud.reports.get("gate-1")))


def test_moves_to_a_renewed_channel(
    cloud: FakeCloud, link: CloudLink, start: Callable[..., Device]
) -> None:
    device = start()
    wait_until(lambda: device.shadow.is_connected)
    link.renew()
    device.shadow.poke()
    wait_until(lambda: device.shadow.reconnects == 1 and device.shadow.is_connected)


def test_the_last_report_leaves_before_the_end(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    device = start()
    wait_until(lambda: device.shadow.is_connected)
    device.detail = "goodbye"
    device.stop()
    wait_until(lambda: cloud.last_report("gate-1").detail == "goodbye")


def test_coming_and_going_are_one_line_each(
    cloud: FakeCloud,
    start: Callable[..., Device],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "camagent")
    device = start()
    wait_until(lambda: device.shadow.is_connected)
    cloud.stop_gateway()
    wait_until(lambda: "lost the cloud" in caplog.text)
    before = device.shadow.reconnects
    wait_until(lambda: device.shadow.reconnects >= before + 3)
    cloud.start_gateway()
    wait_until(lambda: device.shadow.is_connected, 6)
    said = [record.getMessage().split(":")[0] for record in caplog.records]
    connected = "connected to the cloud at 127.0.0.1"
    assert said == [connected, "lost the cloud", connected]


@pytest.mark.parametrize("is_told", [True, False], ids=["while connected", "before"])
def test_a_refused_device_is_told_so_once_and_not_called_out_of_reach(
    is_told: bool,
    cloud: FakeCloud,
    start: Callable[..., Device],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "camagent")
    if is_told:  # then the agent has said it already, at the wish
        cloud.want("gate-1", is_revoked=True)
        device = start()
        wait_until(lambda: device.shadow.is_connected)
        cloud.stop_gateway()
        wait_until(lambda: not device.shadow.is_connected)
        caplog.clear()
        cloud.faults.is_rejecting = True
        cloud.start_gateway()
    else:
        cloud.faults.is_rejecting = True
        device = start()
    before = device.shadow.reconnects
    wait_until(lambda: device.shadow.reconnects >= before + 4, 8)
    errors = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert len(errors) == (0 if is_told else 1)
    assert all("new token and --replace" in text for text in errors)
    assert is_told or "reach" not in caplog.text


def test_every_update_state_is_known_to_the_protocol() -> None:
    for state in (
        "idle", "downloading", "verifying", "canary", "trial", "good", "failed", "rolled_back",
    ):  # fmt: skip
        message = to_message(Report(UpdateReport(state), (), 0, "", "", ""))  # type: ignore[arg-type] # all of the Literal
        assert message.update_state != device_pb2.UPDATE_STATE_UNSPECIFIED
