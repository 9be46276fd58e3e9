"""Sync, artifacts and revocation over real mTLS streams."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from camproto.v1 import api_pb2, device_pb2
from camsdk.artifact.bundle import open_bundle
from camsdk.artifact.envelope import unseal
from camsdk.artifact.keys import generate_signing_key, key_id
from camsdk.errors import ArtifactRefused
from support.artifacts import make_bundle
from support.embedded_cloud import FLEET, CloudHarness, TestDevice

GOOD = device_pb2.UPDATE_STATE_GOOD
FAILED = device_pb2.UPDATE_STATE_FAILED
ROLLED_BACK = device_pb2.UPDATE_STATE_ROLLED_BACK
RULES = """
version: 1
cameras:
  "*":
    lines:
      - {name: door, from: [0.1, 0.5], to: [0.9, 0.5], in: left}
"""


class Agent:
    """The Sync stream of a device that takes whatever it is told, or fails it."""

    def __init__(self, device: TestDevice) -> None:
        self.device = device
        self.reports: asyncio.Queue[device_pb2.DeviceReport | None] = asyncio.Queue()
        self.running = ""
        self.call = device.gateway.Sync(self._send())
        self.say()

    async def _send(self) -> AsyncIterator[device_pb2.DeviceReport]:
        while (report := await self.reports.get()) is not None:
            yield report

    def say(self, **fields: object) -> None:
        fields.setdefault("running_digest", self.running)
        self.reports.put_nowait(self.device.report(**fields))

    async def desired(self) -> device_pb2.DesiredState:
        """The next desired state."""
        message = await asyncio.wait_for(self.call.read(), 5)
        assert isinstance(message, device_pb2.DesiredState), "the stream has ended"
        return message

    async def obey(self, *, is_good: bool = True) -> device_pb2.DesiredState:
        """Takes in the next desired state and says how it went."""
        desired = await self.desired()
        if is_good:
            self.running = desired.artifact_digest
        self.say(
            update_state=GOOD if is_good else FAILED,
            update_digest=desired.artifact_digest,
            rollout_attempt=desired.attempt,
            detail="" if is_good else "canary inference differs",
        )
        return desired


async def deploy(cloud: CloudHarness, **fields: object) -> api_pb2.Rollout:
    request = api_pb2.CreateRolloutRequest(fleet=FLEET, **fields)
    return await cloud.api.CreateRollout(request)


async def versions(cloud: CloudHarness, *device_ids: str) -> list[int]:
    """Version of each device's desired state: it grows with whatever the device is told."""
    requests = [api_pb2.GetDeviceRequest(device_id=device_id) for device_id in device_ids]
    return [(await cloud.api.GetDevice(request)).desired.version for request in requests]


async def wait_for_end(cloud: CloudHarness, rollout: api_pb2.Rollout) -> api_pb2.Rollout:
    request = api_pb2.GetRolloutRequest(rollout_id=rollout.rollout_id)
    async with asyncio.timeout(10):
        changes = [change async for change in cloud.api.WatchRollout(request)]
    assert [item.revision for item in changes] == sorted({item.revision for item in changes})
    return changes[-1]


async def test_a_canary_that_fails_takes_its_wave_back_and_leaves_the_others(
    cloud: CloudHarness,
) -> None:
    first = await cloud.push(cloud.signed_bundle(version=1))
    second = await cloud.push(cloud.signed_bundle(version=2))
    agents = [Agent(await cloud.enrol(f"cam-{n}")) for n in range(3)]
    for agent in agents:
        assert (await agent.desired()).artifact_digest == ""
    rollout = await deploy(cloud, model="tiny:1")
    for agent in agents:
        assert (await agent.obey()).artifact_name == "tiny:1"
    done = await wait_for_end(cloud, rollout)
    assert done.state == api_pb2.ROLLOUT_STATE_COMPLETED

    before = await versions(cloud, "cam-1", "cam-2")
    rollout = await deploy(cloud, strategy=api_pb2.ROLLOUT_STRATEGY_CANARY)
    assert rollout.model_name == "tiny:2"
    assert (await agents[0].obey(is_good=False)).artifact_digest == second.digest
    back = await agents[0].obey()
    assert (back.artifact_digest, back.is_rollback) == (first.digest, True)
    ended = await wait_for_end(cloud, rollout)
    assert ended.state == api_pb2.ROLLOUT_STATE_ABORTED
    assert [item.state for item in ended.executions] == [
        api_pb2.EXECUTION_STATE_REVERTED,
        api_pb2.EXECUTION_STATE_CANCELLED,
        api_pb2.EXECUTION_STATE_CANCELLED,
    ]
    assert ended.executions[0].has_failed
    assert "cam-0: canary inference differs" in ended.detail
    assert await versions(cloud, "cam-1", "cam-2") == before
    fleet = await cloud.api.GetFleet(api_pb2.GetFleetRequest(name=FLEET))
    assert dict(fleet.devices_by_artifact) == {"tiny:1": 3}
    assert fleet.connected_count == 3


async def fetch(device: TestDevice, digest: str, offset: int = 0) -> bytes:
    data = b""
    request = device_pb2.FetchArtifactRequest(digest=digest, offset=offset)
    async for chunk in device.gateway.FetchArtifact(request):
        assert chunk.offset == offset + len(data)
        data += chunk.data
    assert offset + len(data) == chunk.total_size
    return data


async def test_an_artifact_comes_sealed_for_its_device_and_resumes(cloud: CloudHarness) -> None:
    members = {"canary.npz": b"c" * 9, "model.onnx": bytes(range(256)) * 3_000}
    bundle = cloud.signed_bundle(members=members)
    model = await cloud.push(bundle)
    agents = [Agent(await cloud.enrol(name)) for name in ("cam-1", "cam-2")]
    for agent in agents:
        await agent.desired()
    await deploy(cloud)
    one, two = (agent.device for agent in agents)
    sealed = await fetch(one, model.digest)
    assert sealed[300_000:] == await fetch(one, model.digest, 300_000)
    assert b"model" not in sealed[:200]
    opened = unseal(sealed, one.sealing_key, device_id="cam-1", digest=model.digest)
    assert opened == bundle
    assert open_bundle(opened, cloud.cloud.control.trust_keys).digest == model.digest
    with pytest.raises(ArtifactRefused):
        unseal(sealed, two.sealing_key, device_id="cam-2", digest=model.digest)
    with pytest.raises(grpc.aio.AioRpcError, match="fewer than the offset"):
        await fetch(one, model.digest, len(sealed) + 1)
    kept = cloud.cloud.workspace.blobs_dir / "sealed" / "cam-1" / model.digest
    assert kept.read_bytes() == sealed
    await agents[0].obey()
    async with asyncio.timeout(5):
        while kept.exists():
            await asyncio.sleep(0.01)


async def test_what_was_sealed_for_an_aborted_order_goes(cloud: CloudHarness) -> None:
    models = [await cloud.push(cloud.signed_bundle(version=n)) for n in (1, 2)]
    agent = Agent(await cloud.enrol())
    await agent.desired()
    folder = cloud.cloud.workspace.blobs_dir / "sealed" / "cam-1"
    for model in models:
        rollout = await deploy(cloud, model=model.digest)
        assert (await agent.desired()).artifact_digest == model.digest
        await fetch(agent.device, model.digest)
        assert [path.name for path in folder.iterdir()] == [model.digest]
        await cloud.api.ControlRollout(
            api_pb2.ControlRolloutRequest(
                rollout_id=rollout.rollout_id, action=api_pb2.ROLLOUT_ACTION_ABORT
            )
        )
        back = await agent.desired()
        agent.say(update_state=ROLLED_BACK, rollout_attempt=back.attempt)
        await wait_for_end(cloud, rollout)


async def test_a_blob_that_was_damaged_is_not_sealed(cloud: CloudHarness) -> None:
    model = await cloud.push(cloud.signed_bundle())
    (blob,) = (cloud.cloud.workspace.blobs_dir / "models").iterdir()
    damaged = bytearray(blob.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    blob.write_bytes(damaged)
    device = await cloud.enrol()
    await deploy(cloud)
    with pytest.raises(grpc.aio.AioRpcError, match="is damaged") as caught:
        await fetch(device, model.digest)
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert not (cloud.cloud.workspace.blobs_dir / "sealed" / "cam-1").exists()


async def test_pushing_again_mends_a_damaged_blob(cloud: CloudHarness) -> None:
    bundle = cloud.signed_bundle()
    model = await cloud.push(bundle)
    blob = cloud.cloud.workspace.blobs_dir / "models" / f"{model.digest}.cam"
    blob.write_bytes(b"damaged")
    assert await cloud.push(bundle) == model
    assert blob.read_bytes() == bundle


async def test_a_device_gets_no_artifact_but_the_one_that_it_is_to_run(
    cloud: CloudHarness,
) -> None:
    model = await cloud.push(cloud.signed_bundle())
    device = await cloud.enrol()
    for digest in (model.digest, "f" * 64, ""):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetch(device, digest)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_newcomer_gets_the_last_release(cloud: CloudHarness) -> None:
    model = await cloud.push(cloud.signed_bundle())
    rollout = await deploy_to_empty_fleet(cloud)
    assert rollout.state == api_pb2.ROLLOUT_STATE_COMPLETED
    agent = Agent(await cloud.enrol("late"))
    assert (await agent.desired()).artifact_digest == ""
    assert (await agent.obey()).artifact_digest == model.digest


async def deploy_to_empty_fleet(cloud: CloudHarness) -> api_pb2.Rollout:
    await cloud.api.CreateFleet(api_pb2.CreateFleetRequest(name=FLEET))
    return await deploy(cloud)


async def test_rules_reach_a_connected_device_and_bad_ones_do_not(cloud: CloudHarness) -> None:
    agent = Agent(await cloud.enrol())
    await agent.desired()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cloud.api.ApplyRules(api_pb2.ApplyRulesRequest(fleet=FLEET, rules_yaml="a: &x [*x]"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    dry = api_pb2.ApplyRulesRequest(fleet=FLEET, rules_yaml=RULES, is_dry_run=True)
    assert (await cloud.api.ApplyRules(dry)).device_count == 1
    applied = await cloud.api.ApplyRules(api_pb2.ApplyRulesRequest(fleet=FLEET, rules_yaml=RULES))
    desired = await agent.desired()
    assert (desired.rules_yaml, desired.rules_digest) == (RULES, applied.rules_digest)


async def test_a_revocation_is_told_and_ends_both_streams_within_a_second(
    cloud: CloudHarness,
) -> None:
    agent = Agent(await cloud.enrol())
    await agent.desired()
    ingest = agent.device.gateway.Ingest()
    hello = device_pb2.Hello(epoch=7, next_sequence=1)
    await ingest.write(device_pb2.IngestRequest(hello=hello))
    assert (await ingest.read()).credits > 0
    started = time.monotonic()
    await cloud.api.RevokeDevice(api_pb2.RevokeDeviceRequest(device_id="cam-1"))
    assert (await agent.desired()).is_revoked
    for call in (agent.call, ingest):
        assert await asyncio.wait_for(call.code(), 5) is grpc.StatusCode.UNAUTHENTICATED
    assert time.monotonic() - started < 1
    devices = await cloud.api.ListDevices(api_pb2.ListDevicesRequest(fleet=FLEET))
    assert devices.devices[0].is_revoked
    assert not devices.devices[0].is_connected


async def test_a_revoked_device_that_reads_slowly_is_told_as_well(cloud: CloudHarness) -> None:
    # More than gRPC buffers, so that the cloud waits for its reader when the revocation comes.
    members = {"canary.npz": b"c", "model.onnx": bytes(32 << 20)}
    model = await cloud.push(cloud.signed_bundle(members=members))
    agent = Agent(await cloud.enrol())
    await agent.desired()
    await deploy(cloud)
    request = device_pb2.FetchArtifactRequest(digest=model.digest)
    call = agent.device.gateway.FetchArtifact(request)
    await call.initial_metadata()
    await asyncio.sleep(0.2)
    await cloud.api.RevokeDevice(api_pb2.RevokeDeviceRequest(device_id="cam-1"))

    async def rest() -> int:
        return sum([len(chunk.data) async for chunk in call])

    with pytest.raises(grpc.aio.AioRpcError, match="not in force") as caught:
        await asyncio.wait_for(rest(), 5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.slow
async def test_a_revocation_by_another_process_ends_streams_within_5_seconds(
    cloud: CloudHarness,
) -> None:
    from camcloud.fleet import devices

    agent = Agent(await cloud.enrol())
    await agent.desired()
    control = cloud.cloud.control
    await control.database.arun(lambda c: devices.revoke_device(c, "cam-1", "elsewhere"))
    async with asyncio.timeout(5):
        assert await agent.call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_what_a_device_says_is_shown_and_survives_its_leaving(cloud: CloudHarness) -> None:
    agent = Agent(await cloud.enrol())
    await agent.desired()
    agent.say(metrics={"outbox_depth": 3.0}, update_state=GOOD)
    request = api_pb2.GetDeviceRequest(device_id="cam-1")
    async with asyncio.timeout(5):
        while "outbox_depth" not in (await cloud.api.GetDevice(request)).reported.metrics:
            await asyncio.sleep(0.01)
    agent.reports.put_nowait(None)
    assert await asyncio.wait_for(agent.call.code(), 5) is grpc.StatusCode.OK
    shown = await cloud.api.GetDevice(request)
    assert not shown.is_connected
    assert shown.reported.metrics["outbox_depth"] == 3.0


async def test_a_device_from_elsewhere_goes_back_to_what_this_cloud_does_not_know(
    cloud: CloudHarness,
) -> None:
    await cloud.push(cloud.signed_bundle())
    agent = Agent(await cloud.enrol())
    await agent.desired()
    agent.running = "f" * 64
    agent.say()
    request = api_pb2.GetDeviceRequest(device_id="cam-1")
    async with asyncio.timeout(5):
        while not (await cloud.api.GetDevice(request)).reported.running_digest:
            await asyncio.sleep(0.01)
    rollout = await deploy(cloud)
    await agent.desired()
    agent.say(
        update_state=FAILED,
        update_digest=rollout.model_digest,
        rollout_attempt=1,
        detail="no\n2026 ERROR all is lost\x1b[2J",
    )
    back = await agent.desired()
    assert (back.artifact_digest, back.artifact_name, back.attempt) == ("f" * 64, "", 2)
    agent.say(update_state=GOOD, update_digest="f" * 64, rollout_attempt=2)
    ended = await wait_for_end(cloud, rollout)
    assert ended.executions[0].state == api_pb2.EXECUTION_STATE_REVERTED
    assert ended.executions[0].detail == "no 2026 ERROR all is lost [2J"
    listed = await cloud.api.ListDevices(api_pb2.ListDevicesRequest())
    assert [item.desired.artifact_digest for item in listed.devices] == ["f" * 64]


async def test_numbers_and_digests_that_are_none_change_nothing(cloud: CloudHarness) -> None:
    agent = Agent(await cloud.enrol())
    await agent.desired()
    agent.say(
        update_state=GOOD,
        update_digest="../../models/x",
        running_digest="no digest",
        rollout_attempt=2**64 - 1,
    )
    agent.reports.put_nowait(None)
    assert await asyncio.wait_for(agent.call.code(), 5) is grpc.StatusCode.OK
    fleet = await cloud.api.GetFleet(api_pb2.GetFleetRequest(name=FLEET))
    assert dict(fleet.devices_by_artifact) == {"none": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"running_name": "\x1b[2J"},
        {"rules_digest": "1\n2"},
        {"metrics": {"\x07": 1.0}},
        {"cameras": [device_pb2.CameraStatus(camera_id="\x1b]0;gate")]},
    ],
)
async def test_names_that_draw_in_a_terminal_are_refused(
    cloud: CloudHarness, fields: dict[str, object]
) -> None:
    agent = Agent(await cloud.enrol())
    await agent.desired()
    agent.say(**fields)
    assert await asyncio.wait_for(agent.call.code(), 5) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_report_out_of_bounds_ends_the_stream(cloud: CloudHarness) -> None:
    agent = Agent(await cloud.enrol())
    await agent.desired()
    agent.say(detail="x" * 300_000)
    assert await asyncio.wait_for(agent.call.code(), 5) is grpc.StatusCode.INVALID_ARGUMENT


async def test_models_that_nobody_trusted_signed_or_that_change_are_refused(
    cloud: CloudHarness,
) -> None:
    bundle = cloud.signed_bundle()
    model = await cloud.push(bundle)
    assert (await cloud.push(bundle)).digest == model.digest
    broken = bytearray(bundle)
    broken[len(broken) // 2] ^= 1
    for data, code in (
        (make_bundle(generate_signing_key(), version=2), grpc.StatusCode.FAILED_PRECONDITION),
        (make_bundle(None, version=2), grpc.StatusCode.FAILED_PRECONDITION),
        (bytes(broken), grpc.StatusCode.FAILED_PRECONDITION),
        (bundle[:-1], grpc.StatusCode.FAILED_PRECONDITION),
        (b"", grpc.StatusCode.DATA_LOSS),
        (cloud.signed_bundle(metrics={"ap50": 0.9}), grpc.StatusCode.ALREADY_EXISTS),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cloud.push(data)
        assert caught.value.code() is code
    models = await cloud.api.ListModels(api_pb2.ListModelsRequest())
    assert [item.digest for item in models.models] == [model.digest]


async def test_whoever_pushes_a_version_that_is_taken_hears_how_to_give_it_a_free_one(
    cloud: CloudHarness,
) -> None:
    for version in (1, 4):
        await cloud.push(cloud.signed_bundle(version=version))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cloud.push(cloud.signed_bundle(metrics={"ap50": 0.9}))
    hint = dict(caught.value.trailing_metadata())["cam-hint-bin"].decode()
    assert hint.endswith("camctl model sign FILE.cam --version 5")


@pytest.mark.parametrize("key", [None, generate_signing_key()])
async def test_whoever_pushes_what_is_not_signed_here_hears_which_key_to_use(
    cloud: CloudHarness, key: Ed25519PrivateKey | None
) -> None:
    workspace = cloud.cloud.workspace
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cloud.push(make_bundle(key))
    (trusted,) = cloud.cloud.control.trust_keys
    hint = dict(caught.value.trailing_metadata())["cam-hint-bin"].decode()
    assert hint.startswith(f"this cloud trusts {key_id(trusted)}: camctl model sign FILE")
    assert f"--data {workspace.folder} " in hint
    assert str(workspace.keys_dir / "signing.key") in hint
