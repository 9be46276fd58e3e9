"""Rules that name what a fleet does not know: said, against the real API."""

import asyncio

import pytest

from camproto.v1 import api_pb2, device_pb2
from support.embedded_cloud import FLEET, CloudHarness

RULES = """\
version: 1
cameras:
  "*":
    zones:
      - {name: lawn, polygon: [[0, 0], [1, 0], [1, 1]], classes: [person, persn]}
  gate-9:
    lines:
      - {name: entry, from: [0.5, 0.0], to: [0.5, 1.0], in: left, classes: [bicycle]}
"""
UNKNOWN_CAMERA = "no device of park-a has reported the camera gate-9; it has gate-1, gate-2"
UNKNOWN_CLASS = "tiny:1, which park-a runs, has no class persn; it has person, bicycle"


@pytest.mark.parametrize("is_dry_run", [True, False])
async def test_cameras_and_classes_that_the_fleet_does_not_know(
    cloud: CloudHarness, is_dry_run: bool
) -> None:
    async def warnings() -> list[str]:
        request = api_pb2.ApplyRulesRequest(fleet=FLEET, rules_yaml=RULES, is_dry_run=is_dry_run)
        return list((await cloud.api.ApplyRules(request)).warnings)

    device = await cloud.enrol("cam-1")
    assert await warnings() == [], "nothing is known of the fleet yet"

    cameras = [device_pb2.CameraStatus(camera_id=name) for name in ("gate-2", "gate-1")]
    sync = device.gateway.Sync()
    await sync.write(device.report(cameras=cameras))
    await sync.read()
    async with asyncio.timeout(5):
        while cloud.cloud.control.presence.report_of("cam-1") is None:
            await asyncio.sleep(0.01)
    assert await warnings() == [UNKNOWN_CAMERA]
    sync.cancel()

    await cloud.push(cloud.signed_bundle())
    request = api_pb2.RevokeDeviceRequest(device_id="cam-1")
    await cloud.api.RevokeDevice(request)
    made = await cloud.api.CreateRollout(api_pb2.CreateRolloutRequest(fleet=FLEET))
    assert made.state == api_pb2.ROLLOUT_STATE_COMPLETED, "there is nobody to wait for"
    assert await warnings() == [UNKNOWN_CLASS]
