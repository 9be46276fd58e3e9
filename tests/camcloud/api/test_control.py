"""The control part of the user API: fleets, labels and requests out of bounds."""

import threading

import grpc
import pytest
from sqlalchemy import event

from camcloud.api import control
from camproto.v1 import api_pb2
from camsdk.vision.rules import Rules
from support.embedded_cloud import FLEET, CloudHarness
from support.store_rows import add_device

NO_RULES = "version: 1\ncameras: {}\n"


async def test_fleets_are_made_once_and_listed_by_name(cloud: CloudHarness) -> None:
    for name in ("park-b", "park-a"):
        await cloud.api.CreateFleet(api_pb2.CreateFleetRequest(name=name, description="gate"))
    listed = await cloud.api.ListFleets(api_pb2.ListFleetsRequest())
    assert [fleet.name for fleet in listed.fleets] == ["park-a", "park-b"]
    for name, code in (
        ("park-a", grpc.StatusCode.ALREADY_EXISTS),
        ("Park A", grpc.StatusCode.INVALID_ARGUMENT),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("-a", grpc.StatusCode.INVALID_ARGUMENT),
        ("a" * 64, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cloud.api.CreateFleet(api_pb2.CreateFleetRequest(name=name))
        assert caught.value.code() is code


async def test_a_fleet_that_is_mistyped_is_not_made_by_the_way(cloud: CloudHarness) -> None:
    for call, request in (
        (cloud.api.CreateBootstrapToken, api_pb2.CreateBootstrapTokenRequest(fleet="park-z")),
        (cloud.api.ApplyRules, api_pb2.ApplyRulesRequest(fleet="park-z", rules_yaml=NO_RULES)),
        (cloud.api.CreateRollout, api_pb2.CreateRolloutRequest(fleet="park-z")),
        (cloud.api.ListRollouts, api_pb2.ListRolloutsRequest(fleet="park-z")),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="camctl fleet create park-z") as caught:
            await call(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert not (await cloud.api.ListFleets(api_pb2.ListFleetsRequest())).fleets


async def test_labels_are_set_and_removed(cloud: CloudHarness) -> None:
    await cloud.enrol("cam-1")
    request = api_pb2.LabelDeviceRequest(device_id="cam-1", set={"site": "north", "post": "7"})
    assert dict((await cloud.api.LabelDevice(request)).labels) == {"site": "north", "post": "7"}
    request = api_pb2.LabelDeviceRequest(device_id="cam-1", set={"post": "8"}, remove=["site"])
    assert dict((await cloud.api.LabelDevice(request)).labels) == {"post": "8"}
    for labels in ({"a b": ""}, {"x": "y" * 257}, {"x": "\n"}, {f"k{n}": "" for n in range(33)}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cloud.api.LabelDevice(api_pb2.LabelDeviceRequest(device_id="cam-1", set=labels))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_rules_are_parsed_beside_the_event_loop(
    cloud: CloudHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, threads = control.parse_rules, []

    def watched(text: str) -> Rules:
        threads.append(threading.current_thread())
        return real(text)

    monkeypatch.setattr(control, "parse_rules", watched)
    await cloud.api.CreateFleet(api_pb2.CreateFleetRequest(name=FLEET))
    request = api_pb2.ApplyRulesRequest(fleet=FLEET, rules_yaml=NO_RULES)
    assert (await cloud.api.ApplyRules(request)).device_count == 0
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_request_is_bounded_and_a_strangers_is_not_even_read(cloud: CloudHarness) -> None:
    request = api_pb2.ApplyRulesRequest(fleet=FLEET, rules_yaml="x" * (5 << 20))
    for stub, code in (
        (cloud.api, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (cloud.api_as("camapi1_guess"), grpc.StatusCode.UNAUTHENTICATED),
        (cloud.api_as(None), grpc.StatusCode.UNAUTHENTICATED),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ApplyRules(request)
        assert caught.value.code() is code


async def test_a_list_of_devices_takes_a_fixed_number_of_queries(cloud: CloudHarness) -> None:
    database = cloud.cloud.control.database
    await cloud.api.CreateFleet(api_pb2.CreateFleetRequest(name=FLEET))
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    counts = []
    for number in range(5):
        await database.arun(lambda c, number=number: add_device(c, f"cam-{number}", FLEET))
        statements.clear()
        listed = await cloud.api.ListDevices(api_pb2.ListDevicesRequest(fleet=FLEET))
        counts.append(len(statements))
        assert len(listed.devices) == number + 1
    assert counts == counts[:1] * 5


async def test_status_counts_the_fleet(cloud: CloudHarness) -> None:
    await cloud.enrol("cam-1")
    status = await cloud.api.GetStatus(api_pb2.GetStatusRequest())
    assert (status.device_count, status.connected_device_count, status.event_count) == (1, 0, 0)
    assert status.data_dir == str(cloud.cloud.workspace.folder)
    assert status.now_timestamp_s >= status.started_timestamp_s > 0


async def test_rollouts_out_of_bounds(cloud: CloudHarness) -> None:
    await cloud.api.CreateFleet(api_pb2.CreateFleetRequest(name=FLEET))
    await cloud.push(cloud.signed_bundle())
    for fields, code in (
        ({"fleet": "nowhere"}, grpc.StatusCode.NOT_FOUND),
        ({"fleet": FLEET, "model": "none:1"}, grpc.StatusCode.NOT_FOUND),
        ({"fleet": FLEET, "model": "No Such!"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"fleet": FLEET, "canary_percent": 120.0}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"fleet": FLEET, "timeout_s": -1.0}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"fleet": FLEET, "strategy": 99}, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cloud.api.CreateRollout(api_pb2.CreateRolloutRequest(**fields))
        assert caught.value.code() is code, fields


async def test_rollouts_wait_for_approval_and_obey_their_operator(cloud: CloudHarness) -> None:
    await cloud.push(cloud.signed_bundle())
    await cloud.enrol("cam-1")
    made = await cloud.api.CreateRollout(
        api_pb2.CreateRolloutRequest(fleet=FLEET, needs_approval=True)
    )
    assert made.state == api_pb2.ROLLOUT_STATE_PENDING

    async def act(action: str) -> int:
        request = api_pb2.ControlRolloutRequest(
            rollout_id=made.rollout_id,
            action=api_pb2.RolloutAction.Value(f"ROLLOUT_ACTION_{action}"),
        )
        state: int = (await cloud.api.ControlRollout(request)).state
        return state

    assert await act("APPROVE") == api_pb2.ROLLOUT_STATE_RUNNING
    assert await act("PAUSE") == api_pb2.ROLLOUT_STATE_PAUSED
    assert await act("RESUME") == api_pb2.ROLLOUT_STATE_RUNNING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await act("APPROVE")
    assert caught.value.code() is grpc.StatusCode.ABORTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await act("UNSPECIFIED")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await act("ABORT") == api_pb2.ROLLOUT_STATE_ROLLING_BACK
    listed = await cloud.api.ListRollouts(api_pb2.ListRolloutsRequest(fleet=FLEET))
    assert [item.detail for item in listed.rollouts] == ["aborted by an operator"]
