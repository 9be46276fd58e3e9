"""Every call, against a real server over TLS: what is asked, what comes back, and how it fails."""

import dataclasses
import inspect
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from camproto.v1 import api_pb2
from camsdk.client import AsyncClient, Client, Credentials, RetryPolicy, Strategy, UpdateState
from camsdk.client.aio import AsyncEventStream, AsyncRollout
from camsdk.client.calls import MAX_IMAGE_BYTES
from camsdk.client.sync import EventStream, Rollout
from camsdk.errors import (
    AlreadyExists,
    ArtifactRefused,
    CamError,
    DataCorrupted,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from support.fake_api import READER, START_S, FakeCloud
from support.tls import server_tls


def test_fleets_and_devices(cloud: FakeCloud, client: Client) -> None:
    made = client.create_fleet("park-a", description="the park")
    assert (made.name, made.description, made.created_timestamp_s) == (
        "park-a",
        "the park",
        START_S,
    )
    assert client.list_fleets() == (made,)
    assert client.get_fleet("park-a") == made
    cloud.add_device("cam-1")
    cloud.add_device("cam-2", fleet="park-b")
    assert [row.device_id for row in client.list_devices(fleet="park-a")] == ["cam-1"]
    device = client.label_device("cam-1", {"gate": "north", "old": "x"})
    assert device.labels == {"gate": "north", "old": "x"}
    assert client.label_device("cam-1", remove=["old"]).labels == {"gate": "north"}
    assert device.reported.running_name == "detector:1"
    assert device.reported.update_state is UpdateState.GOOD
    assert device.reported.cameras[0].is_online
    assert client.revoke_device("cam-1", reason="stolen").is_revoked
    assert cloud.state.requests[-1].reason == "stolen"


def test_tokens(client: Client) -> None:
    client.create_fleet("park-a")
    tokens = client.create_bootstrap_token("park-a", lifetime_s=60, count=3)
    assert len(tokens.tokens) == 3
    assert tokens.fleet == "park-a"
    assert tokens.expires_timestamp_s == START_S + 60
    api = client.create_api_token("ann", is_read_only=True)
    assert (api.name, api.is_read_only, api.token) == ("ann", True, "camapi1_x")


def test_models_are_pushed_in_chunks(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "detector.cam"
    path.write_bytes(b"CAM" + bytes(700_000))
    model = client.push_model(path)
    assert model.reference == "detector:1"
    assert model.size_bytes == 700_003
    assert model.manifest == {"precision": "int8"}
    assert client.get_model("detector:1") == model
    assert client.list_models() == (model,)
    with pytest.raises(ArtifactRefused):
        client.push_model(b"not signed")
    with pytest.raises(InvalidInput, match="cannot be read"):
        client.push_model(tmp_path / "missing.cam")
    with pytest.raises(InvalidInput, match="empty"):
        client.push_model(b"")


def test_rules(cloud: FakeCloud, client: Client) -> None:
    client.create_fleet("park-a")
    cloud.add_device("cam-1")
    applied = client.apply_rules("park-a", "lines: []", is_dry_run=True)
    assert (applied.device_count, applied.is_dry_run) == (1, True)
    assert cloud.state.requests[-1].is_dry_run
    with pytest.raises(InvalidInput, match="line 1"):
        client.apply_rules("park-a", "zones: []")


def test_status_stats_and_tracks(cloud: FakeCloud, client: Client) -> None:
    assert client.status().version == "fake"
    stats = client.ingest_stats(device="cam-1", camera="gate")
    assert stats.bytes_by_kind == {"tracks": 10, "events": 3}
    assert cloud.state.requests[-1].camera_id == "gate"
    cloud.state.tracks.append(api_pb2.TrackRecord(track_id=4, last_xyxy=[1, 2, 3, 4]))
    cloud.state.tracks.append(api_pb2.TrackRecord(track_id=5))
    first, second = client.list_tracks(camera="gate", since=5.0, limit=7)
    assert first.last_xyxy == (1.0, 2.0, 3.0, 4.0)
    assert second.last_xyxy is None
    assert (cloud.state.requests[-1].since_s, cloud.state.requests[-1].limit) == (5.0, 7)


def test_events_are_listed_page_by_page(cloud: FakeCloud, client: Client) -> None:
    for number in range(5):
        cloud.add_event(xyxy=[0, 1, 2, 3], attributes={"direction": "in"}, frame_index=number)
    page = client.list_events(limit=2)
    seen = list(page)
    while page.next_cursor:
        page = client.list_events(limit=2, after_cursor=page.next_cursor)
        seen += page
    assert [event.sequence for event in seen] == [1, 2, 3, 4, 5]
    assert [event.frame_index for event in seen] == [0, 1, 2, 3, 4]
    newest = client.list_events(limit=1, newest_first=True)
    assert (len(newest), newest.events[0].cursor) == (1, 50)
    event = client.get_event("cam-1/7/2")
    assert event == seen[1]
    assert event.xyxy == (0.0, 1.0, 2.0, 3.0)
    assert event.attributes == {"direction": "in"}
    assert (event.device_id, event.camera_id, event.epoch) == ("cam-1", "gate", 7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.kind = "other"  # type: ignore[misc] # that is the point


def test_an_events_crop(cloud: FakeCloud, client: Client) -> None:
    cloud.add_event()
    cloud.add_event()
    cloud.state.crops["cam-1/7/2"] = b"\xff\xd8 picture"
    first, second = client.list_events()
    assert client.event_crop(second) == client.event_crop("cam-1/7/2") == b"\xff\xd8 picture"
    with pytest.raises(NotFound, match="no crop"):
        client.event_crop(first)


def test_filters_reach_the_cloud(cloud: FakeCloud, client: Client) -> None:
    cloud.add_event("out_of_bounds", camera_id="yard")
    cloud.add_event("line_crossed", fleet="park-b")
    cloud.add_event("line_crossed", timestamp_s=START_S + 500)
    found = client.list_events(
        fleet="park-a",
        kinds=["line_crossed"],
        since=datetime.fromtimestamp(START_S + 100, UTC),
        until=START_S + 501,
    )
    assert [event.cursor for event in found] == [30]
    assert len(client.list_events(camera="yard", device="cam-1")) == 1
    with pytest.raises(InvalidInput, match="kinds"):
        client.list_events(kinds="line_crossed")
    with pytest.raises(InvalidInput, match="time zone"):
        client.list_events(since=datetime(2026, 5, 1))
    for moment in (math.nan, math.inf, -1.0):
        with pytest.raises(InvalidInput):
            client.list_events(until=moment)
    with pytest.raises(InvalidInput, match="limit"):
        client.list_events(limit=5000)


def test_search_takes_image_event_or_code(cloud: FakeCloud, client: Client, tmp_path: Path) -> None:
    cloud.state.hits.append(api_pb2.AppearanceHit(track_id=3, similarity=0.5, camera_id="gate"))
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:, :, 0] = 200
    result = client.search(image=rgb, top_k=5, fleet="park-a")
    assert result.method == "hsv-stripes-128"
    assert [hit.similarity for hit in result] == [0.5]
    sent = cloud.state.requests[-1]
    assert sent.image.startswith(b"\x89PNG")
    assert (sent.top_k, sent.fleet) == (5, "park-a")
    path = tmp_path / "crop.png"
    path.write_bytes(sent.image)
    client.search(image=path)
    assert cloud.state.requests[-1].image == sent.image
    client.search(event="cam-1/7/1")
    assert cloud.state.requests[-1].event_id == "cam-1/7/1"
    cloud.add_event()
    client.search(event=client.get_event("cam-1/7/1"))
    assert cloud.state.requests[-1].event_id == "cam-1/7/1"
    client.search(code=np.array([-1, 2], np.int8))
    assert cloud.state.requests[-1].code == b"\xff\x02"


def test_png_keeps_the_colours(cloud: FakeCloud, client: Client) -> None:
    import cv2

    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    client.search(image=rgb)
    encoded = np.frombuffer(cloud.state.requests[-1].image, np.uint8)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[:, :, ::-1], rgb)


def test_a_search_that_makes_no_sense_is_not_sent(cloud: FakeCloud, client: Client) -> None:
    with pytest.raises(InvalidInput, match="exactly one"):
        client.search()
    with pytest.raises(InvalidInput, match="exactly one"):
        client.search(event="x", code=b"y")
    with pytest.raises(InvalidInput, match="crop"):
        client.search(image=bytes(MAX_IMAGE_BYTES + 1))
    with pytest.raises(InvalidInput, match="uint8 RGB"):
        client.search(image=np.zeros((4, 4), np.uint8))
    with pytest.raises(InvalidInput, match="cannot be read"):
        client.search(image="/nowhere/crop.png")
    with pytest.raises(InvalidInput, match="top_k"):
        client.search(event="x", top_k=1000)
    assert cloud.state.calls["SearchAppearance"] == 0


def test_the_clouds_errors_arrive_as_they_were_raised(cloud: FakeCloud, client: Client) -> None:
    client.create_fleet("park-a")
    with pytest.raises(AlreadyExists) as caught:
        client.create_fleet("park-a")
    assert caught.value.message == "a fleet is called 'park-a'"
    assert caught.value.hint == "choose another"
    with pytest.raises(NotFound):
        client.get_device("nobody")
    cloud.fail("GetStatus", grpc.StatusCode.UNKNOWN)
    with pytest.raises(InternalError):
        client.status()
    cloud.fail("GetStatus", grpc.StatusCode.UNIMPLEMENTED)
    with pytest.raises(CamError, match="one version"):
        client.status()


def test_a_damaged_manifest_is_an_error_of_ours(cloud: FakeCloud, client: Client) -> None:
    for text in ("{", "[]"):
        cloud.state.models["x:1"] = api_pb2.Model(name="x", version="1", manifest_json=text)
        with pytest.raises(DataCorrupted):
            client.get_model("x:1")


def test_tokens_decide_what_is_allowed(cloud: FakeCloud) -> None:
    reader = Credentials(READER, cloud.tls.ca_pem)
    with Client(cloud.endpoint, credentials=reader) as client:
        assert client.list_fleets() == ()
        with pytest.raises(PermissionDenied):
            client.create_fleet("park-a")
    wrong = Credentials("wrong", cloud.tls.ca_pem)
    with Client(cloud.endpoint, credentials=wrong) as client, pytest.raises(Unauthenticated):
        client.status()


def test_a_cloud_with_another_certificate_is_not_talked_to(cloud: FakeCloud) -> None:
    other = Credentials("secret", server_tls("another CA").ca_pem)
    with (
        Client(cloud.endpoint, credentials=other, timeout_s=3) as client,
        pytest.raises(Unauthenticated, match="not trusted"),
    ):
        client.status()
    assert cloud.state.calls["GetStatus"] == 0


def test_what_is_idempotent_is_sent_again(cloud: FakeCloud, client: Client) -> None:
    cloud.fail("ListFleets", *[grpc.StatusCode.UNAVAILABLE] * 3)
    assert client.list_fleets() == ()
    assert cloud.state.calls["ListFleets"] == 4
    cloud.fail("PushModel", grpc.StatusCode.UNAVAILABLE)
    assert client.push_model(b"CAM" + bytes(600_000)).size_bytes == 600_003
    cloud.fail("ListFleets", *[Unavailable("the store is away")] * 4)
    with pytest.raises(Unavailable, match="store is away"):
        client.list_fleets()
    assert cloud.state.calls["ListFleets"] == 8


def test_what_is_not_idempotent_is_sent_once(cloud: FakeCloud, client: Client) -> None:
    for method, act in {
        "CreateFleet": lambda: client.create_fleet("park-a"),
        "CreateRollout": lambda: client.deploy(fleet="park-a"),
        "CreateBootstrapToken": lambda: client.create_bootstrap_token("park-a"),
        "CreateApiToken": lambda: client.create_api_token("ann"),
    }.items():
        cloud.fail(method, grpc.StatusCode.UNAVAILABLE)
        with pytest.raises(Unavailable):
            act()
        assert cloud.state.calls[method] == 1


def test_every_call_has_a_deadline(cloud: FakeCloud) -> None:
    cloud.state.delays_s["GetStatus"] = 0.5
    with cloud.client(timeout_s=0.2) as client:
        start_s = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="in time"):
            client.status()
        assert time.monotonic() - start_s < 1.0
    cloud.state.delays_s.clear()


def test_an_absent_cloud_is_named(cloud: FakeCloud) -> None:
    cloud.stop()
    once = RetryPolicy(max_attempts=1)
    with cloud.client(retry=once) as client, pytest.raises(Unavailable) as caught:
        client.status()
    assert f"127.0.0.1:{cloud.port} cannot be reached: nothing listens" in caught.value.message
    assert "camctl serve" in caught.value.hint
    cloud.start()


def test_bad_settings_are_refused_at_once(cloud: FakeCloud) -> None:
    for endpoint in ("http://x", "grpc://x:1", "x:0", "x:70000", "x:1/path", "", "a b"):
        with pytest.raises(InvalidInput):
            Client(endpoint, credentials=cloud.credentials)
    with pytest.raises(InvalidInput):
        Client("x", credentials=cloud.credentials, timeout_s=0)
    for pem in (b"", b"nonsense", b"\xff", server_tls().ca_pem[:200]):
        with pytest.raises(InvalidInput, match="PEM"):
            Credentials("token", pem)
    for token in ("", "two\nlines", "naïve"):
        with pytest.raises(InvalidInput):
            Credentials(token)


def test_an_unknown_strategy_is_refused(client: Client) -> None:
    for strategy in ("fast", Strategy.UNKNOWN):
        with pytest.raises(InvalidInput):
            client.deploy(fleet="park-a", strategy=strategy)


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(Credentials("secret", server_tls().ca_pem))


@pytest.mark.parametrize(
    ("sync", "mirror"),
    [(Client, AsyncClient), (Rollout, AsyncRollout), (EventStream, AsyncEventStream)],
)
def test_the_asynchronous_classes_mirror_the_others(sync: type, mirror: type) -> None:
    def surface(kind: type) -> dict[str, list[tuple[str, object, object]]]:
        return {
            name: [
                (parameter.name, parameter.kind, parameter.default)
                for parameter in inspect.signature(member).parameters.values()
            ]
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_"))
        }

    differences = {"start", "aclose", "close"} if sync is EventStream else set()
    wanted, found = surface(sync), surface(mirror)
    for name in differences:
        wanted.pop(name, None)
        found.pop(name, None)
    assert wanted == found
