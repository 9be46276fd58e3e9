"""The data API over real gRPC on loopback."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

import grpc
import grpc.aio
import numpy as np
import pytest

from camcloud.api.data import DataApi
from camcloud.data_plane import DataPlane
from camcloud.listeners import API_OPTIONS, make_server
from camproto.v1 import api_pb2, api_pb2_grpc
from camsdk.vision.results import LINE_CROSSED, OUT_OF_BOUNDS, Event
from camsdk.wire import Crop
from support.data_plane import Camera, code, data_plane, publish, with_codes, with_events
from support.store_rows import add_fleet

JPEG = b"\xff\xd8\xff\xe0 picture"


@dataclass
class Cloud:
    plane: DataPlane
    stub: api_pb2_grpc.CloudApiStub


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    async with data_plane() as plane:
        for fleet in ("park-a", "park-b"):
            plane.database.run(partial(add_fleet, name=fleet))
        server = make_server(None, API_OPTIONS)
        api_pb2_grpc.add_CloudApiServicer_to_server(DataApi(plane), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Cloud(plane, api_pb2_grpc.CloudApiStub(channel))
        await server.stop(0)


async def ship(cloud: Cloud, camera: Camera, *kinds: str) -> None:
    """One frame a kind, each with one event of it about track 1."""
    results = [
        with_events(
            result,
            Event(
                kind,
                result.frame_index,
                result.timestamp_s,
                rule="entry",
                track_id=1,
                class_id=0,
                class_name="person",
                score=0.75,
                xyxy=(1.0, 2.0, 3.0, 4.0),
                attributes={"direction": "in"},
            ),
        )
        for result, kind in zip(camera.frames(len(kinds)), kinds, strict=True)
    ]
    await publish(cloud.plane.bus, camera, camera.pack(results))
    await asyncio.wait_for(cloud.plane.drained(), 10)


async def listed(cloud: Cloud, **request: object) -> list[str]:
    response = await cloud.stub.ListEvents(api_pb2.ListEventsRequest(**request))
    return [record.event_id for record in response.events]


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_an_event_travels_whole(cloud: Cloud) -> None:
    await ship(cloud, Camera(), LINE_CROSSED)
    record = await cloud.stub.GetEvent(api_pb2.GetEventRequest(event_id="cam-1/7/1"))
    assert (record.device_id, record.fleet, record.cursor) == ("cam-1", "park-a", 1)
    assert record.received_timestamp_s > 1_600_000_000
    event = record.event
    assert (event.epoch, event.sequence, event.kind) == (7, 1, LINE_CROSSED)
    assert (event.camera_id, event.session, event.frame_index) == ("gate", 1, 0)
    assert (event.timestamp_s, event.rule, event.track_id) == (1000.0, "entry", 1)
    assert (event.class_id, event.class_name, event.score) == (0, "person", 0.75)
    assert list(event.xyxy) == [1, 2, 3, 4]
    assert dict(event.attributes) == {"direction": "in"}


async def test_a_crop_is_found_by_its_event(cloud: Cloud) -> None:
    """Two rules fire for one track in one frame, and only one of them asks for a still."""
    camera = Camera()
    (result,) = camera.frames(1)
    about = Event(LINE_CROSSED, 0, 1000.0, rule="entry", track_id=1)
    result = with_events(result, about, replace(about, rule="door"), Event("camera_online", 0, 0.0))
    crop = Crop(1, 0, 1000.0, JPEG, event_sequence=2)
    await publish(cloud.plane.bus, camera, camera.pack([result], crops=[crop]))
    await asyncio.wait_for(cloud.plane.drained(), 10)

    async def found(event_id: str) -> api_pb2.EventCrop:
        return await cloud.stub.GetEventCrop(api_pb2.GetEventCropRequest(event_id=event_id))

    answer = await found("cam-1/7/2")
    assert (answer.event_id, answer.jpeg) == ("cam-1/7/2", JPEG)
    assert (answer.frame_index, answer.timestamp_s) == (0, 1000.0)
    for other in ("cam-1/7/1", "cam-1/7/3"):
        error = await refused(found(other))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "has no crop" in error.details()
    error = await refused(found("cam-1/7/4"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "no event" in error.details()
    stats = await cloud.stub.GetIngestStats(api_pb2.GetIngestStatsRequest())
    assert stats.bytes_by_kind["crops"] > len(JPEG)


async def test_two_events_of_one_track_and_frame_have_a_crop_each(cloud: Cloud) -> None:
    camera = Camera()
    (result,) = camera.frames(1)
    about = Event(LINE_CROSSED, 0, 1000.0, rule="entry", track_id=1)
    result = with_events(result, about, replace(about, rule="door"))
    crops = [Crop(1, 0, 1000.0, JPEG, number) for number in (1, 2)]
    await publish(cloud.plane.bus, camera, camera.pack([result], crops=crops))
    await asyncio.wait_for(cloud.plane.drained(), 10)
    for number in (1, 2):
        request = api_pb2.GetEventCropRequest(event_id=f"cam-1/7/{number}")
        assert (await cloud.stub.GetEventCrop(request)).jpeg == JPEG


async def test_pages_follow_each_other_in_both_directions(cloud: Cloud) -> None:
    await ship(cloud, Camera(), *[LINE_CROSSED] * 5)

    async def pages(newest_first: bool) -> list[int]:
        found: list[int] = []
        cursor = 0
        while True:
            response = await cloud.stub.ListEvents(
                api_pb2.ListEventsRequest(limit=2, after_cursor=cursor, newest_first=newest_first)
            )
            found += [record.event.sequence for record in response.events]
            cursor = response.next_cursor
            if not cursor:
                return found

    assert await pages(False) == [1, 2, 3, 4, 5]
    assert await pages(True) == [5, 4, 3, 2, 1]


async def test_filters_narrow_the_list(cloud: Cloud) -> None:
    await ship(cloud, Camera(), LINE_CROSSED, OUT_OF_BOUNDS, LINE_CROSSED)
    await ship(cloud, Camera("cam-2", "park-b", "yard"), OUT_OF_BOUNDS)
    for wanted, found in [
        ({"fleet": "park-b"}, ["cam-2/7/1"]),
        ({"device_id": "cam-2"}, ["cam-2/7/1"]),
        ({"camera_id": "gate", "kinds": [OUT_OF_BOUNDS]}, ["cam-1/7/2"]),
        ({"kinds": [OUT_OF_BOUNDS, "other"]}, ["cam-1/7/2", "cam-2/7/1"]),
        ({"since_s": 1000.15}, ["cam-1/7/3"]),
        ({"until_s": 1000.05}, ["cam-1/7/1", "cam-2/7/1"]),
        ({"kinds": ["' OR 1=1 --"]}, []),
    ]:
        assert await listed(cloud, filter=api_pb2.EventFilter(**wanted)) == found


@pytest.mark.parametrize("fleet", ["park-z", "' OR 1=1 --"])
async def test_a_fleet_that_there_is_not_is_no_empty_answer(cloud: Cloud, fleet: str) -> None:
    filter_ = api_pb2.EventFilter(fleet=fleet)
    search = api_pb2.SearchAppearanceRequest(code=code(1).tobytes(), fleet=fleet)
    for call in (
        cloud.stub.ListEvents(api_pb2.ListEventsRequest(filter=filter_)),
        cloud.stub.TailEvents(api_pb2.TailEventsRequest(filter=filter_)).read(),
        cloud.stub.SearchAppearance(search),
    ):
        error = await refused(asyncio.wait_for(call, 5))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert fleet in error.details()


async def test_tailing_replays_then_goes_live(cloud: Cloud) -> None:
    camera = Camera()
    await ship(cloud, camera, LINE_CROSSED, LINE_CROSSED)
    call = cloud.stub.TailEvents(api_pb2.TailEventsRequest(after_cursor=1))
    assert (await call.read()).event_id == "cam-1/7/2"
    waiting = asyncio.ensure_future(call.read())
    await asyncio.sleep(0.02)
    await ship(cloud, camera, OUT_OF_BOUNDS)
    live = await asyncio.wait_for(waiting, 5)
    assert (live.event_id, live.cursor) == ("cam-1/7/3", 3)
    call.cancel()


async def test_a_tail_without_events_has_answered_before_any_comes(cloud: Cloud) -> None:
    await ship(cloud, Camera("cam-2"), LINE_CROSSED)
    call = cloud.stub.TailEvents(api_pb2.TailEventsRequest(from_now=True))
    await asyncio.wait_for(call.initial_metadata(), 5)
    await asyncio.sleep(0.05)
    await ship(cloud, Camera(), LINE_CROSSED)
    assert (await asyncio.wait_for(call.read(), 5)).event_id == "cam-1/7/1"
    call.cancel()


async def test_who_hangs_up_is_forgotten(cloud: Cloud) -> None:
    await ship(cloud, Camera(), LINE_CROSSED, LINE_CROSSED)
    calls = [cloud.stub.TailEvents(api_pb2.TailEventsRequest()) for _ in range(5)]
    for call in calls:
        await call.read()
    assert cloud.plane.feed.subscriber_count == 5
    for call in calls:
        call.cancel()
    async with asyncio.timeout(5):
        while cloud.plane.feed.subscriber_count:
            await asyncio.sleep(0.01)


async def test_search_by_code_event_and_picture(cloud: Cloud) -> None:
    camera = Camera()
    results = camera.frames(2)
    results[0] = with_codes(results[0], {1: code(1), 2: code(2)})
    results[1] = with_events(results[1], Event(LINE_CROSSED, 1, 1000.1, track_id=2))
    await publish(cloud.plane.bus, camera, camera.pack(results))
    await asyncio.wait_for(cloud.plane.drained(), 10)

    async def best(**query: object) -> api_pb2.AppearanceHit:
        request = api_pb2.SearchAppearanceRequest(**query)
        response = await cloud.stub.SearchAppearance(request)
        assert response.method == "hsv-stripes-128 (baseline)"
        return response.hits[0]

    hit = await best(code=code(1).tobytes())
    assert (hit.device_id, hit.camera_id, hit.session, hit.track_id) == ("cam-1", "gate", 1, 1)
    assert hit.similarity == pytest.approx(1.0, abs=1e-6)
    assert (hit.first_timestamp_s, hit.last_timestamp_s) == (1000.0, 1000.1)
    assert (hit.matched_timestamp_s, hit.class_id) == (1000.0, 0)
    assert (await best(event_id="cam-1/7/1")).track_id == 2
    error = await refused(
        cloud.stub.SearchAppearance(api_pb2.SearchAppearanceRequest(image=b"no picture"))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_stats_and_tracks_by_camera(cloud: Cloud) -> None:
    await ship(cloud, Camera(), LINE_CROSSED, LINE_CROSSED)
    await ship(cloud, Camera("cam-2", camera_id="yard"), LINE_CROSSED)
    stats = await cloud.stub.GetIngestStats(api_pb2.GetIngestStatsRequest())
    assert (stats.batch_count, stats.frame_count, stats.event_count) == (2, 3, 3)
    assert set(stats.bytes_by_kind) == {"tracks", "embeddings", "events", "crops", "envelope"}
    one = await cloud.stub.GetIngestStats(api_pb2.GetIngestStatsRequest(camera_id="yard"))
    assert (one.batch_count, one.frame_count, one.duplicate_batch_count) == (1, 1, 0)
    response = await cloud.stub.ListTracks(api_pb2.ListTracksRequest(device_id="cam-1"))
    track = {record.track_id: record for record in response.tracks}[2]
    assert (track.camera_id, track.session, track.frame_count) == ("gate", 1, 2)
    assert list(track.last_xyxy) == [25, 25, 45, 65]
    later = await cloud.stub.ListTracks(api_pb2.ListTracksRequest(since_s=1000.05))
    assert {record.device_id for record in later.tracks} == {"cam-1"}


async def test_what_is_lost_or_left_out_is_told_by_device(cloud: Cloud) -> None:
    camera, other = Camera(), Camera("cam-2", epoch=2**62)
    loud = with_codes(camera.frames(1)[0], {1: np.full(128, 127, np.int8)})
    await publish(cloud.plane.bus, camera, camera.pack([loud]))
    for lossy, batches, made_up in ((camera, 3, 2), (other, 2**63 - 9, 2**63 - 9)):
        lane = cloud.plane.bus.open_lane(lossy.device_id, lossy.fleet, lossy.epoch)
        lossy.next_batch = lane.taken + batches + 1
        lane.skip_to(lossy.next_batch)
        lossy.next_event += made_up
        await ship(cloud, lossy, LINE_CROSSED)
    stats = await cloud.stub.GetIngestStats(api_pb2.GetIngestStatsRequest(device_id="cam-1"))
    assert (stats.lost_batch_count, stats.lost_event_count, stats.refused_row_count) == (3, 2, 1)
    everybody = await cloud.stub.GetIngestStats(api_pb2.GetIngestStatsRequest())
    assert everybody.lost_batch_count > 2**62
    assert everybody.lost_event_count > 2**62


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("ListEvents", api_pb2.ListEventsRequest(limit=1001), "INVALID_ARGUMENT", "too large"),
        ("ListEvents", api_pb2.ListEventsRequest(after_cursor=2**63), "INVALID_ARGUMENT", "cursor"),
        (
            "ListEvents",
            api_pb2.ListEventsRequest(filter=api_pb2.EventFilter(kinds=map(str, range(101)))),
            "INVALID_ARGUMENT",
            "too many",
        ),
        (
            "ListEvents",
            api_pb2.ListEventsRequest(filter=api_pb2.EventFilter(since_s=float("nan"))),
            "INVALID_ARGUMENT",
            "span",
        ),
        ("ListTracks", api_pb2.ListTracksRequest(since_s=5, until_s=4), "INVALID_ARGUMENT", "span"),
        ("GetEvent", api_pb2.GetEventRequest(event_id="x"), "INVALID_ARGUMENT", "event id"),
        ("GetEvent", api_pb2.GetEventRequest(event_id="x/1/2"), "NOT_FOUND", "no event"),
        ("GetEventCrop", api_pb2.GetEventCropRequest(event_id="x"), "INVALID_ARGUMENT", "event id"),
        ("GetEvent", api_pb2.GetEventRequest(event_id=f"x/1/{10**19 - 1}"), "INVALID_ARGUMENT", ""),
        ("SearchAppearance", api_pb2.SearchAppearanceRequest(), "INVALID_ARGUMENT", "nothing"),
        (
            "SearchAppearance",
            api_pb2.SearchAppearanceRequest(code=code(1).tobytes(), top_k=500),
            "INVALID_ARGUMENT",
            "top_k",
        ),
    ],
)
async def test_what_cannot_be_answered_says_why(
    cloud: Cloud, method: str, request_: object, code: str, reason: str
) -> None:
    error = await refused(getattr(cloud.stub, method)(request_))
    assert error.code() is grpc.StatusCode[code]
    assert reason in error.details()
