"""Driving rollouts over real rows: orders, convergence, restarts, and what is refused."""

import asyncio
import time
from collections.abc import Callable

import pytest

from camcloud.fleet import devices
from camcloud.fleet.presence import Presence
from camcloud.rollout.engine import Observation, Progress
from camcloud.rollout.plan import ExecutionState, Plan, Rollout, RolloutState, Strategy
from camcloud.rollout.service import RolloutService
from camcloud.store.database import Database
from camsdk.errors import Conflict, InvalidInput, NotFound
from support.store_rows import add_device, add_fleet, add_model, open_store

OLD, NEW, NEWER = "a" * 64, "b" * 64, "c" * 64
PARK = "park-a"


class Cloud:
    """Rows, the service over them, and devices that do as they are told."""

    def __init__(self, device_count: int = 3) -> None:
        self.now_s = 1000.0
        self.database: Database = open_store()
        self.running: dict[str, str] = {}
        self.seen: dict[str, int] = {}
        self.presence = Presence()
        self.service = self.new_service()
        self.database.run(self._fill)
        for number in range(device_count):
            self.enrol(f"cam-{number}")

    def _fill(self, connection: object) -> None:
        add_fleet(connection, PARK)
        add_model(connection, OLD, version=1, pushed_s=1)
        add_model(connection, NEW, version=2, pushed_s=2)
        add_model(connection, NEWER, version=3, pushed_s=3, hardware=("gpu-x86_64",))

    def new_service(self) -> RolloutService:
        return RolloutService(self.database, self.presence, clock=lambda: self.now_s)

    async def restart(self) -> None:
        self.service = self.new_service()
        await self.service.start()

    def enrol(self, device_id: str, hardware: str = "cpu-x86_64") -> None:
        self.database.run(lambda c: add_device(c, device_id, PARK, hardware))
        self.running[device_id] = ""

    def row(self, device_id: str) -> devices.DeviceRow:
        return self.database.run(lambda c: devices.find_device(c, device_id))

    async def say(self, device_id: str, progress: Progress, digest: str, detail: str = "") -> None:
        row = self.row(device_id)
        seen = Observation(
            device_id, row.attempt, progress, digest, self.running[device_id], detail
        )
        await self.service.observe(seen, b"")

    async def obey(self, device_id: str, *, is_good: bool = True) -> None:
        row = self.row(device_id)
        if is_good:
            self.running[device_id] = row.desired_digest
            await self.say(device_id, Progress.GOOD, row.desired_digest)
        else:
            await self.say(device_id, Progress.FAILED, row.desired_digest, "canary differs")

    async def release(self, reference: str, plan: Plan | None = None) -> Rollout:
        rollout = await self.service.create(reference, PARK, plan or Plan())
        for device_id in self.running:
            await self.obey(device_id)
        return await self.service.get(rollout.rollout_id)


@pytest.fixture
def cloud() -> Callable[[], Cloud]:
    made: list[Cloud] = []

    def make(device_count: int = 3) -> Cloud:
        made.append(Cloud(device_count))
        return made[-1]

    yield make
    for item in made:
        item.database.close()


async def test_a_release_reaches_every_device_and_becomes_the_fleets(cloud) -> None:
    park = cloud()
    rollout = await park.release("tiny:1")
    assert rollout.state is RolloutState.COMPLETED
    assert {park.row(name).running_digest for name in park.running} == {OLD}
    fleet = park.database.run(lambda c: devices.find_fleet(c, PARK))
    assert fleet.release_digest == OLD


async def test_one_failing_canary_of_three_aborts_and_the_others_never_change(cloud) -> None:
    park = cloud()
    await park.release("tiny:1")
    before = {name: park.row(name).desired_version for name in park.running}
    rollout = await park.service.create("tiny:2", PARK, Plan(Strategy.CANARY))
    await park.obey("cam-0", is_good=False)
    assert park.row("cam-0").desired_digest == OLD
    assert park.row("cam-0").desired_is_rollback
    await park.obey("cam-0")
    ended = await park.service.get(rollout.rollout_id)
    assert ended.state is RolloutState.ABORTED
    assert [item.state for item in ended.executions] == [
        ExecutionState.REVERTED,
        ExecutionState.CANCELLED,
        ExecutionState.CANCELLED,
    ]
    for name in ("cam-1", "cam-2"):
        assert park.row(name).desired_version == before[name]
    assert {park.row(name).running_digest for name in park.running} == {OLD}


async def test_a_restart_at_every_point_goes_on(cloud) -> None:
    park = cloud()
    rollout = await park.service.create("tiny:1", PARK, Plan(Strategy.WAVES, wave_count=2))
    for device_id in park.running:
        await park.restart()
        assert (await park.service.get(rollout.rollout_id)).state is RolloutState.RUNNING
        await park.obey(device_id)
    await park.restart()
    assert (await park.service.get(rollout.rollout_id)).state is RolloutState.COMPLETED


async def test_a_restart_while_rolling_back_goes_on(cloud) -> None:
    park = cloud()
    await park.release("tiny:1")
    rollout = await park.service.create("tiny:2", PARK, Plan())
    await park.obey("cam-0")
    await park.obey("cam-1", is_good=False)
    await park.restart()
    for device_id in park.running:
        await park.obey(device_id)
    assert (await park.service.get(rollout.rollout_id)).state is RolloutState.ABORTED
    assert set(park.running.values()) == {OLD}


async def test_a_device_that_enrols_later_converges_with_its_first_report(cloud) -> None:
    park = cloud()
    await park.release("tiny:1")
    park.enrol("late")
    park.enrol("misfit", hardware="npu-x")
    for name in ("late", "misfit"):
        await park.say(name, Progress.IDLE, "")
    assert park.row("late").desired_digest == OLD
    assert park.row("misfit").desired_digest == ""


async def test_a_device_that_enrols_during_a_rollout_gets_its_result(cloud) -> None:
    park = cloud(1)
    await park.release("tiny:1")
    await park.service.create("tiny:2", PARK, Plan())
    park.enrol("late")
    await park.say("late", Progress.IDLE, "")
    assert park.row("late").desired_digest == OLD
    await park.obey("cam-0")
    assert park.row("late").desired_digest == NEW


async def test_a_device_offline_during_an_aborted_rollout_goes_back_when_it_returns(cloud) -> None:
    park = cloud(2)
    await park.release("tiny:1")
    rollout = await park.service.create("tiny:2", PARK, Plan(timeout_s=60))
    await park.obey("cam-0")
    park.now_s += 61  # cam-1 says nothing: a failure
    await park.service.tick()
    await park.obey("cam-0")
    park.now_s += 61
    await park.service.tick()
    assert (await park.service.get(rollout.rollout_id)).state is RolloutState.ABORTED
    await park.obey("cam-1")
    assert park.running["cam-1"] == OLD
    late = await park.service.get(rollout.rollout_id)
    assert {item.state for item in late.executions} == {ExecutionState.REVERTED}


async def test_what_a_device_refused_is_not_ordered_again_by_itself(cloud) -> None:
    park = cloud(2)
    await park.service.create("tiny:1", PARK, Plan(max_failures=1))
    await park.obey("cam-0", is_good=False)
    await park.obey("cam-1")
    attempt = park.row("cam-0").attempt
    await park.restart()
    await park.say("cam-0", Progress.FAILED, OLD, "canary differs")
    assert park.row("cam-0").attempt == attempt


async def test_what_a_device_refused_is_not_ordered_after_an_abort_either(cloud) -> None:
    park = cloud(2)
    await park.release("tiny:1")
    await park.service.create("tiny:2", PARK, Plan(max_failures=1))
    await park.obey("cam-0", is_good=False)
    await park.obey("cam-1")
    park.database.run(lambda c: add_model(c, "d" * 64, version=4, pushed_s=4))
    rollout = await park.service.create("tiny:4", PARK, Plan())
    await park.service.abort(rollout.rollout_id, "by hand")
    for name in park.running:
        await park.obey(name)
    assert (await park.service.get(rollout.rollout_id)).state is RolloutState.ABORTED
    assert park.row("cam-0").desired_digest == OLD
    assert park.row("cam-1").desired_digest == NEW


async def test_a_clock_that_is_set_times_nobody_out(cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    park = cloud(1)
    service = RolloutService(park.database, park.presence)
    rollout = await service.create("tiny:1", PARK, Plan(timeout_s=60))
    assert rollout.created_timestamp_s == pytest.approx(time.time(), abs=5)
    states = []
    for name, step_s in (("time", 30 * 86_400), ("monotonic", 61)):
        with monkeypatch.context() as patch:
            real = getattr(time, name)
            patch.setattr(time, name, lambda real=real, step_s=step_s: real() + step_s)
            await service.tick()
        states.append((await service.get(rollout.rollout_id)).state)
    assert states == [RolloutState.RUNNING, RolloutState.ROLLING_BACK]


async def test_an_abort_never_sends_a_device_to_an_aborted_artifact(cloud) -> None:
    park = cloud(1)
    await park.release("tiny:1")
    first = await park.service.create("tiny:2", PARK, Plan(timeout_s=60))
    park.running["cam-0"] = NEW
    await park.say("cam-0", Progress.BUSY, NEW)
    await park.service.abort(first.rollout_id, "by hand")  # and the device is gone
    park.now_s += 61
    await park.service.tick()
    second = await park.service.create("tiny:2", PARK, Plan())
    assert second.executions[0].from_digest == OLD


async def test_who_is_still_going_back_gets_the_release_only_when_it_is_back(cloud) -> None:
    park = cloud(1)
    await park.release("tiny:1")
    park.enrol("new")  # enrolled after the release, never heard of
    rollout = await park.service.create("tiny:2", PARK, Plan(timeout_s=60))
    await park.service.abort(rollout.rollout_id, "by hand")
    await park.obey("cam-0")
    park.now_s += 61
    await park.service.tick()
    assert (await park.service.get(rollout.rollout_id)).state is RolloutState.ABORTED
    assert park.row("new").desired_digest == ""
    await park.obey("new")
    late = await park.service.get(rollout.rollout_id)
    assert late.executions[1].state is ExecutionState.REVERTED
    assert park.row("new").desired_digest == OLD


async def test_a_late_success_counts_for_the_rollout_that_ordered_it(cloud) -> None:
    park = cloud(2)
    first = await park.service.create("tiny:1", PARK, Plan(max_failures=1, timeout_s=60))
    await park.obey("cam-0")
    park.now_s += 61
    await park.service.tick()  # cam-1 is late
    with park.presence.attend("cam-0"):
        second = await park.service.create("tiny:2", PARK, Plan(Strategy.CANARY))
    assert second.executions[1].state is ExecutionState.QUEUED
    await park.obey("cam-1")
    states = [item.state for item in (await park.service.get(first.rollout_id)).executions]
    assert states == [ExecutionState.SUCCEEDED, ExecutionState.SUCCEEDED]


async def test_the_canary_is_a_connected_device(cloud) -> None:
    park = cloud(3)
    with park.presence.attend("cam-2"):
        rollout = await park.service.create("tiny:1", PARK, Plan(Strategy.CANARY))
    assert rollout.executions[0].device_id == "cam-2"


async def test_an_order_that_is_not_newer_is_refused(cloud) -> None:
    park = cloud(1)
    await park.release("tiny:1")
    attempt = park.row("cam-0").attempt
    with pytest.raises(Conflict, match="newer order"):
        park.database.run(lambda c: devices.give_order(c, "cam-0", NEW, attempt, is_rollback=False))


async def test_one_rollout_a_fleet_at_a_time(cloud) -> None:
    park = cloud()
    await park.service.create("tiny:1", PARK, Plan(needs_approval=True))
    with pytest.raises(Conflict, match="under way"):
        await park.service.create("tiny:2", PARK, Plan())


async def test_an_older_version_needs_a_rollback(cloud) -> None:
    park = cloud()
    await park.release("tiny:2")
    with pytest.raises(Conflict, match="newer than tiny:1"):
        await park.service.create("tiny:1", PARK, Plan())
    rollout = await park.release("tiny:1", Plan(is_rollback=True))
    assert rollout.state is RolloutState.COMPLETED
    assert park.row("cam-0").desired_is_rollback


async def test_without_a_name_the_newest_that_fits_all_hardware_is_meant(cloud) -> None:
    park = cloud()
    rollout = await park.service.create("", PARK, Plan())
    assert rollout.digest == NEW  # tiny:3 is newer, but for GPUs
    await park.service.abort(rollout.rollout_id, "by hand")
    for name in park.running:
        await park.obey(name)
    park.enrol("gpu", hardware="gpu-x86_64")
    with pytest.raises(NotFound, match="cpu-x86_64, gpu-x86_64"):
        await park.service.create("", PARK, Plan())


async def test_without_a_name_a_fleet_stays_with_the_name_that_it_runs(cloud) -> None:
    park = cloud()
    for digest, name, kind in (("d", "other", "detector"), ("e", "scenes", "classifier")):
        park.database.run(
            lambda c, digest=digest, name=name, kind=kind: add_model(
                c, digest * 64, name=name, version=7, pushed_s=9, kind=kind
            )
        )
    with pytest.raises(InvalidInput, match="could run other, tiny") as caught:
        await park.service.create("", PARK, Plan())
    assert "name one" in caught.value.hint
    await park.release("tiny:1")
    rollout = await park.release("")
    assert rollout.digest == NEW
    assert rollout.state is RolloutState.COMPLETED


async def test_no_device_runs_a_classifier_unasked(cloud) -> None:
    park = cloud()
    park.database.run(
        lambda c: add_model(c, "e" * 64, name="tiny", version=9, pushed_s=9, kind="classifier")
    )
    assert (await park.service.create("", PARK, Plan())).digest == NEW


async def test_what_no_device_of_the_fleet_can_run_is_refused(cloud) -> None:
    park = cloud(2)
    with pytest.raises(Conflict, match=r"No device of fleet park-a can run tiny:3") as caught:
        await park.service.create("tiny:3", PARK, Plan())
    assert "gpu-x86_64, and they have cpu-x86_64" in caught.value.message
    fleet = park.database.run(lambda c: devices.find_fleet(c, PARK))
    assert fleet.release_digest == ""
    park.enrol("gpu", hardware="gpu-x86_64")
    rollout = await park.service.create("tiny:3", PARK, Plan())
    assert rollout.state is RolloutState.RUNNING


async def test_a_fleet_without_devices_takes_a_release_for_those_that_enrol(cloud) -> None:
    park = cloud(0)
    assert (await park.service.create("tiny:3", PARK, Plan())).state is RolloutState.COMPLETED


async def test_unknown_names(cloud) -> None:
    park = cloud()
    with pytest.raises(NotFound, match="fleet"):
        await park.service.create("tiny:1", "nowhere", Plan())
    with pytest.raises(NotFound, match="model"):
        await park.service.create("tiny:9", PARK, Plan())
    with pytest.raises(NotFound, match="rollout"):
        await park.service.pause("nothing")


async def test_a_revoked_device_leaves_its_rollout(cloud) -> None:
    park = cloud(2)
    rollout = await park.service.create("tiny:1", PARK, Plan())
    await park.service.revoke("cam-0", "stolen")
    await park.obey("cam-1")
    assert (await park.service.get(rollout.rollout_id)).state is RolloutState.COMPLETED
    with pytest.raises(Conflict, match="revoked already"):
        await park.service.revoke("cam-0", "again")


async def test_a_watcher_sees_the_changes_and_the_end(cloud) -> None:
    park = cloud(1)
    rollout = await park.service.create("tiny:1", PARK, Plan())
    seen: list[RolloutState] = []

    async def watch() -> None:
        async for value in park.service.watch(rollout.rollout_id):
            seen.append(value.state)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    await park.obey("cam-0")
    await asyncio.wait_for(watching, 5)
    assert seen == [RolloutState.RUNNING, RolloutState.COMPLETED]


async def test_a_caller_that_goes_away_parts_nothing(cloud) -> None:
    park = cloud(1)
    creating = asyncio.create_task(park.service.create("tiny:1", PARK, Plan()))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    with pytest.raises(Conflict, match="under way"):
        await park.service.create("tiny:2", PARK, Plan())


async def test_orders_wake_the_device(cloud) -> None:
    park = cloud(1)
    with park.presence.attend("cam-0") as news:
        await park.service.create("tiny:1", PARK, Plan())
        assert news.is_set()
