"""A whole agent against a cloud in memory: a block crosses a line, every event arrives once."""

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from camagent.config import AgentConfig, CameraSettings, OutboxSettings, UpdateSettings
from camagent.enrolment import enroll
from camagent.identity import Identity, save_identity
from camagent.status import AgentStatus
from camagent.supervisor import Agent
from camproto.v1 import data_pb2, device_pb2
from camsdk.errors import InternalError, NotFound, SourceError
from camsdk.wire.tokens import decode_token
from support.block_artifacts import make_artifact, start_block_runtime
from support.clips import encode, scene, write_video
from support.fake_cloud import FakeCloud
from support.rtsp_server import RtspServer
from support.waiting import wait_until

FRAMES = 90
RULES = """
version: 1
cameras:
  "*":
    lines:
      - {name: middle, from: [0.5, 0.0], to: [0.5, 1.0], in: left}
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block that crosses the middle twice from left to right."""
    path = tmp_path_factory.mktemp("clips") / "walk.mp4"
    return write_video(path, scene(192, 144, FRAMES))


@pytest.fixture
def config(clip: Path, tmp_path: Path) -> AgentConfig:
    rules = tmp_path / "rules.yaml.local"
    rules.write_text(RULES)
    return AgentConfig(
        data_dir=tmp_path,
        cameras=(CameraSettings("cam", str(clip), pace="fast", start_time_s=1000.0),),
        rules=rules,
        update=UpdateSettings(trial_frames=3, trial_max_s=0.2),
        outbox=OutboxSettings(batch_frames=8),
        exit_when_finished=True,
        report_interval_s=0.2,
    )


class Life:
    """One run of an agent in a thread."""

    def __init__(self, config: AgentConfig) -> None:
        self.stop = threading.Event()
        self.agent = Agent(config, start_block_runtime)
        self.last: AgentStatus | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.last = self.agent.run(self.stop)
        except (InternalError, SourceError) as error:
            self.error = error

    def wait(self, timeout_s: float = 20.0) -> AgentStatus:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive()
        assert self.error is None
        assert self.last is not None
        return self.last

    def end(self) -> None:
        self.stop.set()
        self._thread.join(20)


@pytest.fixture
def start(identity: Identity) -> Iterator[Callable[[AgentConfig], Life]]:
    lives: list[Life] = []

    def begin(config: AgentConfig) -> Life:
        lives.append(Life(config))
        return lives[-1]

    yield begin
    for life in lives:
        life.end()


def deploy(cloud: FakeCloud, device_id: str = "gate-1") -> str:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    cloud.want(device_id, artifact_digest=digest, artifact_name="tiny:1", attempt=1)
    return digest


def shipped(cloud: FakeCloud, device_id: str = "gate-1") -> list[data_pb2.Batch]:
    return [
        data_pb2.Batch.FromString(cursor.payloads[sequence])
        for (device, _), cursor in cloud.cursors.items()
        if device == device_id
        for sequence in sorted(cursor.payloads)
    ]


def test_the_whole_way(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life]
) -> None:
    digest = deploy(cloud)
    last = start(config).wait()
    events = cloud.events("gate-1")
    assert [event.kind for event in events] == ["line_crossed"] * len(events)
    assert [event.attributes["direction"] for event in events] == ["in", "in"]
    assert [event.sequence for event in events] == [1, 2]
    batches = shipped(cloud)
    assert not any(batch.crops for batch in batches), "no rule asks for a picture"
    # One frame more than the clip has: the closing one, which ends the last track.
    assert sum(batch.frame_count for batch in batches) == FRAMES + 1
    assert {batch.model_digest.hex() for batch in batches} == {digest}
    values = last.to_dict()
    assert values["totals"]["frames"] == FRAMES
    assert values["totals"]["detector_calls"] > 0
    assert values["totals"]["is_finished"]
    assert values["running_digest"] == digest
    assert values["outbox"]["depth"] == 0
    report = cloud.last_report("gate-1")
    assert report.running_digest == digest
    assert report.cameras[0].is_finished
    assert report.cameras[0].frame_count == FRAMES
    assert report.metrics["rss_bytes"] > 1 << 20


def test_the_log_tells_the_whole_way(
    cloud: FakeCloud,
    config: AgentConfig,
    start: Callable[[AgentConfig], Life],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "camagent")
    deploy(cloud)
    start(config).wait()
    for name, expected in {
        "camagent.updater": [
            "waiting for a model: none runs on this device until the cloud orders one",
            "tiny:1: downloading",
            "tiny:1: canary",
            "tiny:1: trial",
            "tiny:1: good",
        ],
        "camagent.camera": [
            "camera cam: the recording begins",
            f"camera cam: the recording ended, {FRAMES} frames",
        ],
        "camagent.supervisor": [
            "leaving: all recordings are read and shipped, 0 batches wait for the cloud"
        ],
    }.items():
        assert [r.getMessage() for r in caplog.records if r.name == name] == expected
    caplog.clear()
    start(config).wait()
    assert "tiny:1 runs, as before" in caplog.text
    assert "the recording was read before" in caplog.text


def test_a_second_start_ships_nothing_twice(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life]
) -> None:
    deploy(cloud)
    start(config).wait()
    before = cloud.events("gate-1")
    last = start(config).wait()
    assert cloud.events("gate-1") == before
    assert last.to_dict()["totals"]["frames"] == 0


def test_a_recording_to_be_repeated_is_a_new_session(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life]
) -> None:
    deploy(cloud)
    camera = dataclasses.replace(config.cameras[0], is_repeated=True)
    config = dataclasses.replace(config, cameras=(camera,))
    for _ in range(2):
        start(config).wait()
    events = cloud.events("gate-1")
    assert [event.session for event in events] == [1, 1, 2, 2]
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    first, second = events[:2], events[2:]
    assert [e.frame_index for e in first] == [e.frame_index for e in second]
    assert [e.timestamp_s for e in first] == [e.timestamp_s for e in second]
    assert [e.xyxy for e in first] == [e.xyxy for e in second]


@pytest.mark.slow
def test_runs_without_a_cloud_and_ships_when_it_is_back(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life], tmp_path: Path
) -> None:
    deploy(cloud)
    idle = dataclasses.replace(
        config,
        cameras=(
            dataclasses.replace(
                config.cameras[0], camera_id="other", source=str(tmp_path / "none.mp4")
            ),
        ),
        exit_when_finished=False,
    )
    first = start(idle)
    wait_until(lambda: cloud.last_report("gate-1").update_state == device_pb2.UPDATE_STATE_GOOD)
    first.end()
    cloud.stop_gateway()
    life = start(config)
    wait_until(lambda: life.agent.status().to_dict()["totals"]["is_finished"], 10)
    status = life.agent.status()
    assert not status.is_connected
    assert status.outbox.event_count == 2
    assert status.report.update.running_name == "tiny:1"
    assert cloud.events("gate-1") == []
    cloud.start_gateway()
    life.wait()
    assert len(cloud.events("gate-1")) == 2


def test_rules_of_the_cloud_replace_the_local_ones_and_are_kept(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life], tmp_path: Path
) -> None:
    cloud.want("gate-1", rules_yaml=RULES.replace("middle", "from-cloud"), rules_digest="x")
    wait_first = start(config)  # the recording waits for a model, so the rules come first
    wait_until(lambda: (tmp_path / "rules.yaml").exists())
    deploy(cloud)
    wait_first.wait()
    assert {event.rule for event in cloud.events("gate-1")} == {"from-cloud"}
    cloud.want("gate-1", rules_yaml="version: nonsense", rules_digest="y")
    last = start(config).wait()
    assert "from-cloud" in (tmp_path / "rules.yaml").read_text()
    assert last.report.rules_digest == cloud.last_report("gate-1").rules_digest


def test_a_rule_of_the_cloud_asks_for_pictures(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life], tmp_path: Path
) -> None:
    rules_yaml = RULES.replace("in: left", "in: left, crops: true")
    cloud.want("gate-1", rules_yaml=rules_yaml, rules_digest="x")
    life = start(config)
    wait_until(lambda: (tmp_path / "rules.yaml").exists())
    deploy(cloud)
    life.wait()
    crops = [crop for batch in shipped(cloud) for crop in batch.crops]
    events = cloud.events("gate-1")
    assert [crop.event_sequence for crop in crops] == [event.sequence for event in events] == [1, 2]
    assert all(crop.jpeg.startswith(b"\xff\xd8\xff") for crop in crops)


@pytest.mark.slow
def test_a_missing_recording_is_given_up(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life], tmp_path: Path
) -> None:
    camera = dataclasses.replace(config.cameras[0], source=str(tmp_path / "none.mp4"))
    life = start(dataclasses.replace(config, cameras=(camera,)))
    wait_until(lambda: life.error is not None, 10)
    assert isinstance(life.error, SourceError)
    assert "check its path" in str(life.error)


def test_an_agent_that_is_not_enrolled_says_so(config: AgentConfig, tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(config, data_dir=tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(NotFound, match="enroll"):
        Agent(elsewhere, start_block_runtime)


def test_our_own_mistake_ends_the_agent(
    cloud: FakeCloud,
    config: AgentConfig,
    start: Callable[[AgentConfig], Life],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    deploy(cloud)
    life = Life(config)
    monkeypatch.setattr(life.agent._detect, "look", lambda _frame: 1 / 0)
    wait_until(lambda: life.error is not None, 10)
    assert isinstance(life.error, InternalError)
    assert "camera-cam" in str(life.error)
    assert shown[0].exc_type is ZeroDivisionError
    life.end()


def test_two_devices_see_the_same(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life], tmp_path: Path
) -> None:
    deploy(cloud)
    start(config).wait()
    other = tmp_path / "gate-2"
    save_identity(enroll(decode_token(cloud.token), hardware="cpu-x86_64", name="gate-2"), other)
    deploy(cloud, "gate-2")
    start(dataclasses.replace(config, data_dir=other)).wait()

    def plain(device_id: str) -> list[bytes]:
        events = cloud.events(device_id)
        for event in events:
            event.epoch = 1
        return [event.SerializeToString(deterministic=True) for event in events]

    assert plain("gate-1") == plain("gate-2")


@pytest.mark.slow
def test_a_certificate_is_renewed_in_the_middle(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life], tmp_path: Path
) -> None:
    cloud.faults.certificate_life_s = 3.0
    short = enroll(decode_token(cloud.token), hardware="cpu-x86_64", name="gate-1")
    save_identity(short, tmp_path)
    cloud.faults.certificate_life_s = 86_400.0
    life = start(config)
    wait_until(lambda: cloud.renewals == 1, 6)
    deploy(cloud)
    life.wait()
    assert len(cloud.events("gate-1")) == 2
    assert all(cursor.duplicates == 0 for cursor in cloud.cursors.values())


@pytest.mark.slow
def test_a_live_camera_begins_a_session_with_each_connection(
    cloud: FakeCloud, config: AgentConfig, start: Callable[[AgentConfig], Life]
) -> None:
    deploy(cloud)
    with RtspServer(encode(scene(192, 144, 60))) as server:
        camera = CameraSettings("cam", server.url, read_timeout_s=1.0)
        life = start(dataclasses.replace(config, cameras=(camera,), exit_when_finished=False))

        def kinds() -> list[tuple[str, int]]:
            presence = ("camera_online", "camera_offline")
            events = [event for event in cloud.events("gate-1") if event.kind in presence]
            return [(event.kind, event.session) for event in events]

        wait_until(lambda: kinds() == [("camera_online", 1)], 10)
        server.drop()
        wait_until(lambda: len(kinds()) >= 3, 10)
        assert kinds()[:3] == [("camera_online", 1), ("camera_offline", 1), ("camera_online", 2)]
        status = life.agent.status().to_dict()
        assert status["cameras"][0]["reconnects"] == 1
        assert status["cameras"][0]["session"] == 2
        life.end()
    frames = {
        session: [b.first_frame_index for b in shipped(cloud) if b.session == session]
        for session in (1, 2)
    }
    assert all(indices[0] == 0 and indices == sorted(indices) for indices in frames.values())
