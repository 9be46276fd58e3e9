"""From an order to an artifact that has earned its place, or back: over faults and restarts."""

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from camagent.config import UpdateSettings
from camagent.detect import Detect
from camagent.link import CloudLink
from camagent.shadow import Desired
from camagent.slots import Slots
from camagent.updater import Updater
from camsdk.artifact.keys import generate_sealing_key, public_bytes
from camsdk.errors import RuntimeFailure
from camsdk.vision.frames import Frame
from support.block_artifacts import make_artifact, start_block_runtime
from support.fake_cloud import FakeCloud
from support.fake_runtime import SIDE, BlockRuntime
from support.waiting import wait_until

SETTINGS = UpdateSettings(trial_frames=3, trial_max_s=5.0, canary_deadline_s=2.0)
IMPATIENT = UpdateSettings(trial_frames=3, trial_max_s=0.1, canary_deadline_s=2.0)


def frame(index: int = 0) -> Frame:
    luma = np.full((SIDE, SIDE), 40, np.uint8)
    luma[20:60, 30:90] = 230
    chroma = np.full((SIDE // 2, SIDE // 2), 128, np.uint8)
    return Frame(index, 1000.0 + index / 10, luma, chroma, chroma)


class Device:
    """One life of an agent's updater: from its start to its stop or kill."""

    def __init__(self, link: CloudLink, folder: Path, settings: UpdateSettings = SETTINGS) -> None:
        self.detect = Detect()
        self.runtimes: list[BlockRuntime] = []
        self.states: list[str] = []
        self.on_disk: dict[str, dict[str, bytes]] = {}  # what a kill in that state leaves
        self._folder = folder
        self.slots = Slots(folder)
        self.updater = Updater(
            link, self.slots, self.detect, self._start_runtime, settings, self._note
        )
        self._thread = threading.Thread(target=self.updater.run)
        self._thread.start()

    def _start_runtime(self, model: bytes) -> BlockRuntime:
        runtime = start_block_runtime(model)
        self.runtimes.append(runtime)
        return runtime

    def _note(self) -> None:
        state = self.updater.report.state
        if not self.states or self.states[-1] != state:
            self.states.append(state)
            self.on_disk[state] = {path.name: path.read_bytes() for path in self._folder.iterdir()}

    def order(self, digest: str, attempt: int, *, is_rollback: bool = False) -> None:
        self.updater.want(
            Desired(version=attempt, digest=digest, attempt=attempt, is_rollback=is_rollback)
        )

    def wait(self, state: str, attempt: int | None = None) -> None:
        report = lambda: self.updater.report  # noqa: E731 # short for the line below
        wait_until(lambda: report().state == state and attempt in (None, report().attempt))

    def look(self, count: int = 3) -> None:
        """Live frames."""
        for index in range(count):
            self.detect(frame(index))

    def stop(self) -> None:
        self.updater.stop()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture
def start(link: CloudLink, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    lives: list[Device] = []

    def begin(settings: UpdateSettings = SETTINGS) -> Device:
        lives.append(Device(link, tmp_path / "artifacts", settings))
        return lives[-1]

    yield begin
    for life in lives:
        life.stop()


def install(device: Device, digest: str, attempt: int) -> None:
    device.order(digest, attempt)
    device.wait("trial", attempt)
    device.look()
    device.wait("good", attempt)


def test_an_artifact_earns_its_place(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    device = start()
    wait_until(lambda: not device.updater.is_busy)
    assert device.updater.report.state == "idle"
    device.order(digest, 1)
    device.wait("trial")
    assert device.detect.digest == digest
    device.look()
    device.wait("good")
    report = device.updater.report
    assert (report.running_digest, report.running_name, report.attempt) == (digest, "tiny:1", 1)
    assert device.states == ["idle", "downloading", "verifying", "canary", "trial", "good"]
    wait_until(lambda: device.updater.handled_version == 1)


def test_the_swap_loses_no_frame_and_frees_the_old_model(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    first = cloud.add_bundle(make_artifact(cloud.signing_key, 1, model=b"slow"))
    second = cloud.add_bundle(make_artifact(cloud.signing_key, 2))
    device = start()
    install(device, first, 1)
    seen: list[str] = []
    stop = threading.Event()

    def camera() -> None:
        while not stop.is_set():
            look = device.detect.look(frame())
            assert look is not None
            assert len(look.detections) == 1
            seen.append(look.digest)

    thread = threading.Thread(target=camera)
    thread.start()
    device.order(second, 2)
    device.wait("good", 2)
    stop.set()
    thread.join(5)
    assert set(seen) == {first, second}
    assert seen == sorted(seen, key=[first, second].index)  # never back and forth
    assert device.runtimes[0].is_closed
    assert not any(runtime.used_after_close for runtime in device.runtimes)
    assert device.updater.report.previous_digest == first


def test_a_good_artifact_runs_after_a_restart_without_a_cloud(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    device = start()
    install(device, digest, 1)
    device.stop()
    cloud.stop_gateway()
    again = start()
    wait_until(lambda: again.detect.digest == digest)
    wait_until(lambda: again.updater.report.state == "good")


REFUSALS = {
    "changed": (lambda cloud: setattr(cloud.faults, "flip_artifact", True), {}, "does not open"),
    "of another device": (
        lambda cloud: setattr(
            cloud.faults, "seal_for", ("gate-2", public_bytes(generate_sealing_key()))
        ),
        {},
        "does not open",
    ),
    "for another hardware": (None, {"hardware": ("fpga-ecp5",)}, "fpga-ecp5"),
    "that differs in its canary": (None, {"offset": 0.5}, "canary"),
    "with a forbidden operator": (None, {"model": b"refused"}, "operator"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_an_artifact_is_refused(
    name: str, cloud: FakeCloud, start: Callable[..., Device], tmp_path: Path
) -> None:
    prepare, changes, word = REFUSALS[name]
    good = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    bad = cloud.add_bundle(make_artifact(cloud.signing_key, 2, **changes))
    device = start()
    install(device, good, 1)
    if prepare:
        prepare(cloud)
    device.order(bad, 2)
    device.wait("failed", 2)
    report = device.updater.report
    assert word in report.detail
    assert report.digest == bad
    assert report.running_digest == good == device.detect.digest
    device.look(1)
    assert sorted(path.stem for path in (tmp_path / "artifacts").glob("*.sealed")) == [good]
    assert not list((tmp_path / "artifacts").glob("*.part"))


def test_a_signature_by_a_stranger_is_refused(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    digest = cloud.add_bundle(make_artifact(Ed25519PrivateKey.generate(), 1))
    device = start()
    device.order(digest, 1)
    device.wait("failed", 1)
    assert "trust" in device.updater.report.detail
    assert device.detect.digest == ""


def test_an_older_version_needs_a_rollback(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    old = cloud.add_bundle(make_artifact(cloud.signing_key, 3))
    new = cloud.add_bundle(make_artifact(cloud.signing_key, 4))
    device = start()
    install(device, old, 1)
    install(device, new, 2)
    device.order(old, 3)
    device.wait("failed", 3)
    assert "older than tiny:4" in device.updater.report.detail
    assert device.detect.digest == new
    device.order(old, 4, is_rollback=True)
    device.wait("trial", 4)
    device.look()
    device.wait("good", 4)
    assert device.detect.digest == old
    assert len([digest for digest, _ in cloud.fetches if digest == old]) == 1  # from its slot


def test_a_failure_on_live_frames_brings_the_old_one_back(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    good = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    bad = cloud.add_bundle(make_artifact(cloud.signing_key, 2, model=b"breaks"))
    device = start()
    install(device, good, 1)
    device.order(bad, 2)
    device.wait("trial", 2)
    device.runtimes[-1].is_broken = True
    with pytest.raises(RuntimeFailure):
        device.look(1)
    device.wait("failed", 2)
    assert "live frame" in device.updater.report.detail
    assert device.detect.digest == good
    assert device.runtimes[1].is_closed
    assert not device.runtimes[0].is_closed
    device.look()


def test_a_slow_model_fails_its_trial(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1, model=b"slow"))
    device = start(UpdateSettings(trial_frames=3, max_latency_ms=5.0))
    device.order(digest, 1)
    device.wait("trial")
    device.look()
    device.wait("failed")
    assert "ms a frame" in device.updater.report.detail


def test_a_canary_has_a_deadline(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1, model=b"slow"))
    device = start(UpdateSettings(canary_deadline_s=0.01))
    device.order(digest, 1)
    device.wait("failed")
    assert "took longer" in device.updater.report.detail


def test_a_quiet_trial_ends_in_time(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    device = start(IMPATIENT)
    device.order(digest, 1)
    device.wait("good")


def test_a_failed_order_is_not_tried_again_until_it_is_given_again(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    bad = cloud.add_bundle(make_artifact(cloud.signing_key, 1, offset=0.5))
    device = start()
    device.order(bad, 1)
    device.wait("failed", 1)
    device.order(bad, 1)
    wait_until(lambda: not device.updater.is_busy)
    device.stop()
    again = start()
    wait_until(lambda: not again.updater.is_busy)
    assert again.updater.report.state == "failed"
    assert "canary" in again.updater.report.detail
    again.order(bad, 1)
    wait_until(lambda: not again.updater.is_busy)
    assert len(cloud.fetches) == 1
    again.order(bad, 2)
    again.wait("failed", 2)
    assert len(cloud.fetches) == 2


def test_a_download_goes_on_where_it_broke(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    cloud.faults.cut_fetch_after = 8192
    device = start(IMPATIENT)
    device.order(digest, 1)
    device.wait("good")
    assert cloud.fetches == [(digest, 0), (digest, 8192)]


def test_a_part_of_another_sealing_is_fetched_anew(
    cloud: FakeCloud, start: Callable[..., Device], tmp_path: Path
) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    device = start(IMPATIENT)
    (tmp_path / "artifacts" / f"{digest}.part").write_bytes(b"x" * 8192)
    device.order(digest, 1)
    device.wait("good")
    assert cloud.fetches == [(digest, 8192), (digest, 0)]


def test_a_newer_order_ends_a_trial(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    first = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    second = cloud.add_bundle(make_artifact(cloud.signing_key, 2))
    device = start()
    install(device, first, 1)
    device.order(second, 2)
    device.wait("trial", 2)
    device.order(first, 3, is_rollback=True)
    device.wait("good", 3)
    assert device.detect.digest == first
    assert device.slots.state.trial is None


def test_none_is_wanted(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    device = start()
    install(device, digest, 1)
    device.order("", 2, is_rollback=True)
    device.wait("rolled_back", 2)
    assert device.detect.digest == ""
    assert device.runtimes[0].is_closed
    assert device.updater.report.running_digest == ""
    device.stop()
    again = start()
    wait_until(lambda: not again.updater.is_busy)
    assert again.detect.digest == ""
    assert again.updater.report.state == "idle"
    install(again, digest, 3)
    assert len(cloud.fetches) == 1  # it was still in the other slot


def test_a_cloud_that_never_ordered_anything_changes_nothing(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    device = start()
    install(device, digest, 1)
    device.updater.want(Desired(version=9))
    wait_until(lambda: device.updater.handled_version == 9)
    assert device.detect.digest == digest


def test_a_damaged_good_artifact_gives_way_to_the_one_before(
    cloud: FakeCloud, start: Callable[..., Device], tmp_path: Path
) -> None:
    first = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    second = cloud.add_bundle(make_artifact(cloud.signing_key, 2))
    device = start()
    install(device, first, 1)
    install(device, second, 2)
    device.stop()
    path = tmp_path / "artifacts" / f"{second}.sealed"
    path.write_bytes(path.read_bytes()[:-100])
    again = start()
    wait_until(lambda: again.detect.digest == first)
    again.wait("failed")
    assert "does not start" in again.updater.report.detail
    install(again, second, 2)  # the cloud still wants it: fetched anew
    assert again.detect.digest == second


@pytest.mark.parametrize("is_file_whole", [True, False])
def test_after_a_damaged_state_the_next_order_finds_the_file(
    is_file_whole: bool, cloud: FakeCloud, start: Callable[..., Device], tmp_path: Path
) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    first = start()
    install(first, digest, 1)
    first.stop()
    (tmp_path / "artifacts" / "state.json").write_text("{")
    if not is_file_whole:
        (tmp_path / "artifacts" / f"{digest}.sealed").write_bytes(b"damaged as well")
    second = start()
    wait_until(lambda: not second.updater.is_busy)
    assert second.updater.report.state == "idle"
    install(second, digest, 1)
    assert second.detect.digest == digest
    assert len(cloud.fetches) == (1 if is_file_whole else 2)


def test_dying_in_every_trial_gives_the_artifact_up(
    cloud: FakeCloud, start: Callable[..., Device], tmp_path: Path
) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    folder = tmp_path / "artifacts"
    for life in range(1, SETTINGS.max_trial_starts + 1):
        device = start()
        device.order(digest, 1)
        device.wait("trial")
        left = {path: path.read_bytes() for path in folder.iterdir()}
        device.stop()
        for path, content in left.items():  # as a kill leaves it: nothing was tidied
            path.write_bytes(content)
        assert device.slots.state.trial is None
        assert f'"starts": {life}' in left[folder / "state.json"].decode()
    device = start()
    device.order(digest, 1)
    device.wait("failed")
    assert "died 3 times" in device.updater.report.detail
    assert len(cloud.fetches) == 1


def test_a_trial_that_was_stopped_counts_for_nothing(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    digest = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    for _ in range(SETTINGS.max_trial_starts + 1):
        device = start()
        device.order(digest, 1)
        device.wait("trial")
        device.stop()
    again = start()
    install(again, digest, 1)
    assert len(cloud.fetches) == 1 + SETTINGS.max_trial_starts + 1  # each asks for the rest: none
    assert {offset for _, offset in cloud.fetches[1:]} != {0}


def test_an_unknown_artifact_fails_with_the_clouds_words(
    cloud: FakeCloud, start: Callable[..., Device]
) -> None:
    device = start()
    device.order("0" * 64, 1)
    device.wait("failed")
    assert "no such artifact" in device.updater.report.detail


def test_a_digest_that_is_a_path_is_refused(cloud: FakeCloud, start: Callable[..., Device]) -> None:
    device = start()
    device.order("../../etc/passwd", 1)
    device.wait("failed")
    assert "not the digest" in device.updater.report.detail


def test_killed_in_every_state_one_artifact_runs_and_the_order_is_carried_out(
    cloud: FakeCloud, link: CloudLink, start: Callable[..., Device], tmp_path: Path
) -> None:
    first = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    second = cloud.add_bundle(make_artifact(cloud.signing_key, 2))
    device = start()
    install(device, first, 1)
    device.on_disk.clear()
    install(device, second, 2)
    assert list(device.on_disk) == ["downloading", "verifying", "canary", "trial", "good"]
    for state, files in device.on_disk.items():
        folder = tmp_path / f"killed-{state}"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        again = Device(link, folder)
        wait_until(lambda: not again.updater.is_busy)  # noqa: B023 # used up within the turn
        assert again.detect.digest == (second if state == "good" else first)
        if state == "good":
            again.order(second, 2)
            again.wait("good", 2)
        else:
            install(again, second, 2)
        assert again.detect.digest == second
        again.stop()


def test_a_full_disk_costs_the_order_and_not_the_agent(
    cloud: FakeCloud, start: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = cloud.add_bundle(make_artifact(cloud.signing_key, 1))
    second = cloud.add_bundle(make_artifact(cloud.signing_key, 2))
    device = start(IMPATIENT)
    device.order(good, 1)
    device.wait("good", 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("camagent.slots.write_atomic", full)
    device.order(second, 2)
    device.wait("failed", 2)
    assert "No space left" in device.updater.report.detail
    assert device.detect.digest == good
    monkeypatch.undo()
    device.order(second, 3)
    device.wait("good", 3)
