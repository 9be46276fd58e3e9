"""The rollout engine, case by case; its laws stand in test_engine_laws."""

import dataclasses

import pytest

from camcloud.rollout import engine
from camcloud.rollout.engine import Observation, Progress
from camcloud.rollout.plan import Candidate, Plan, RolloutState, Strategy
from camsdk.errors import Conflict
from support.rollout_fleet import NEW, OLD, SimulatedFleet

CANARY = Plan(Strategy.CANARY)


def test_all_at_once_tells_everyone_and_completes() -> None:
    fleet = SimulatedFleet(3, Plan())
    assert all(fleet.is_told(device_id) for device_id in fleet.devices)
    for device_id in fleet.devices:
        fleet.run_device(device_id)
    assert fleet.rollout.state is RolloutState.COMPLETED
    assert set(fleet.states().values()) == {"succeeded"}
    assert {device.running for device in fleet.devices.values()} == {NEW}


def test_the_next_wave_waits_for_the_canary() -> None:
    fleet = SimulatedFleet(3, CANARY)
    assert fleet.states() == {"cam-00": "wanted", "cam-01": "queued", "cam-02": "queued"}
    fleet.run_device("cam-00")
    assert fleet.states() == {"cam-00": "succeeded", "cam-01": "wanted", "cam-02": "wanted"}


def test_a_failing_canary_aborts_before_anyone_else_is_told() -> None:
    fleet = SimulatedFleet(3, CANARY)
    fleet.run_device("cam-00", is_good=False)
    assert fleet.rollout.state is RolloutState.ROLLING_BACK
    assert fleet.rollout.detail == "no failures are allowed; cam-00: canary inference differs"
    fleet.run_device("cam-00")
    assert fleet.rollout.state is RolloutState.ABORTED
    assert fleet.states() == {"cam-00": "reverted", "cam-01": "cancelled", "cam-02": "cancelled"}
    assert not fleet.is_told("cam-01")
    assert fleet.rollout.executions[0].has_failed


def test_an_abort_sends_back_the_whole_of_the_waves_begun() -> None:
    fleet = SimulatedFleet(4, Plan(Strategy.WAVES, wave_count=3))
    fleet.run_device("cam-00")
    fleet.run_device("cam-01", is_good=False)
    order = fleet.devices["cam-00"].orders[-1]
    assert (order.digest, order.is_rollback) == (OLD, True)
    fleet.run_device("cam-00")
    fleet.run_device("cam-01")
    assert fleet.rollout.state is RolloutState.ABORTED
    assert [fleet.devices[f"cam-0{n}"].running for n in range(4)] == [OLD] * 4
    assert not fleet.is_told("cam-02")


def test_a_device_without_an_artifact_goes_back_to_none() -> None:
    fleet = SimulatedFleet(2, Plan(), running={0: ""})
    fleet.run_device("cam-00")
    fleet.run_device("cam-01", is_good=False)
    assert fleet.devices["cam-00"].desired == ""
    fleet.run_device("cam-00")
    fleet.run_device("cam-01")
    assert fleet.devices["cam-00"].running == ""
    assert fleet.rollout.state is RolloutState.ABORTED


def test_failures_within_the_limit_do_not_stop_it() -> None:
    fleet = SimulatedFleet(3, Plan(max_failures=1))
    fleet.run_device("cam-00", is_good=False)
    fleet.run_device("cam-01")
    fleet.run_device("cam-02")
    assert fleet.rollout.state is RolloutState.COMPLETED
    assert fleet.states()["cam-00"] == "failed"


def test_what_no_device_took_is_never_completed() -> None:
    fleet = SimulatedFleet(2, Plan(max_failures=5))
    fleet.run_device("cam-00", is_good=False)
    fleet.run_device("cam-01", is_good=False)
    assert fleet.rollout.state is RolloutState.ROLLING_BACK
    assert fleet.rollout.detail.startswith("No device took it")


def test_a_silent_device_times_out_and_its_late_success_is_kept() -> None:
    fleet = SimulatedFleet(2, Plan(max_failures=1, timeout_s=60))
    fleet.run_device("cam-00")
    fleet.pass_time(59.9)
    assert fleet.states()["cam-01"] == "wanted"
    fleet.pass_time(0.1)
    assert fleet.states()["cam-01"] == "timed-out"
    assert fleet.rollout.state is RolloutState.COMPLETED
    fleet.run_device("cam-01")
    assert fleet.states()["cam-01"] == "succeeded"
    assert fleet.rollout.failure_count == 1


def test_an_abort_does_not_wait_for_ever_but_is_confirmed_late() -> None:
    fleet = SimulatedFleet(1, Plan(timeout_s=60))
    fleet.pass_time(60)
    assert fleet.rollout.state is RolloutState.ROLLING_BACK
    fleet.pass_time(60)
    assert fleet.rollout.state is RolloutState.ABORTED
    assert fleet.states() == {"cam-00": "reverting"}
    assert "1 not back yet" in fleet.rollout.detail
    fleet.run_device("cam-00")
    assert fleet.states() == {"cam-00": "reverted"}
    assert fleet.devices["cam-00"].running == OLD


def test_devices_that_have_it_or_cannot_run_it_are_results_and_no_canaries() -> None:
    fleet = SimulatedFleet(4, CANARY, running={0: NEW}, misfits=frozenset({1}))
    assert fleet.states() == {
        "cam-00": "already-installed",
        "cam-01": "no-artifact-for-hardware",
        "cam-02": "wanted",
        "cam-03": "queued",
    }


def test_a_fleet_without_devices_is_done_at_once() -> None:
    rollout = SimulatedFleet(0, Plan()).rollout
    assert rollout.state is RolloutState.COMPLETED
    assert rollout.detail == "the fleet has no devices; those that enrol get it"


def test_a_rollout_that_nobody_took_says_why() -> None:
    rollout = SimulatedFleet(3, Plan(), running={0: NEW, 1: NEW}, misfits=frozenset({2})).rollout
    assert rollout.state is RolloutState.COMPLETED
    assert rollout.detail == (
        "2 of 3 devices had it already, 1 of 3 devices have hardware that it was not made for"
    )


def test_it_waits_for_an_approval_when_asked_to() -> None:
    fleet = SimulatedFleet(2, Plan(needs_approval=True))
    assert fleet.rollout.state is RolloutState.PENDING
    assert not fleet.is_told("cam-00")
    fleet.apply(engine.approve(fleet.rollout, fleet.now_s))
    assert fleet.is_told("cam-00")


def test_a_pause_begins_no_wave_and_still_aborts() -> None:
    fleet = SimulatedFleet(3, CANARY)
    fleet.apply(engine.pause(fleet.rollout, fleet.now_s))
    fleet.run_device("cam-00")
    assert not fleet.is_told("cam-01")
    fleet.apply(engine.resume(fleet.rollout, fleet.now_s))
    assert fleet.is_told("cam-01")
    fleet.apply(engine.pause(fleet.rollout, fleet.now_s))
    fleet.run_device("cam-01", is_good=False)
    assert fleet.rollout.state is RolloutState.ROLLING_BACK


def test_aborting_what_waits_for_approval_touches_nobody() -> None:
    fleet = SimulatedFleet(2, Plan(needs_approval=True))
    fleet.apply(engine.abort(fleet.rollout, "changed my mind", fleet.now_s))
    assert fleet.rollout.state is RolloutState.ABORTED
    assert set(fleet.states().values()) == {"cancelled"}


def test_a_revoked_device_is_neither_waited_for_nor_a_failure() -> None:
    fleet = SimulatedFleet(3, CANARY)
    fleet.apply(engine.drop(fleet.rollout, "cam-00", fleet.now_s))
    assert fleet.rollout.failure_count == 0
    assert fleet.states() == {"cam-00": "cancelled", "cam-01": "wanted", "cam-02": "wanted"}


def test_reports_of_another_order_or_artifact_change_nothing() -> None:
    fleet = SimulatedFleet(1, Plan())
    attempt = fleet.devices["cam-00"].attempt
    for seen in (
        Observation("cam-00", attempt - 1, Progress.GOOD, NEW, NEW),
        Observation("cam-00", attempt, Progress.GOOD, OLD, OLD),
        Observation("cam-00", attempt, Progress.FAILED, OLD, OLD),
        Observation("stranger", attempt, Progress.GOOD, NEW, NEW),
    ):
        step = engine.observe(fleet.rollout, seen, fleet.now_s)
        assert step.rollout is fleet.rollout
        assert step.orders == ()


def test_back_is_only_who_runs_the_old_artifact_and_is_done_with_it() -> None:
    fleet = SimulatedFleet(2, Plan())
    fleet.run_device("cam-00")
    fleet.apply(engine.abort(fleet.rollout, "by hand", fleet.now_s))
    attempt = fleet.devices["cam-00"].attempt
    for progress, running in ((Progress.BUSY, OLD), (Progress.FAILED, NEW), (Progress.GOOD, NEW)):
        seen = Observation("cam-00", attempt, progress, OLD, running)
        fleet.apply(engine.observe(fleet.rollout, seen, fleet.now_s))
        assert fleet.states()["cam-00"] == "reverting"
    seen = Observation("cam-00", attempt, Progress.IDLE, "", OLD)
    fleet.apply(engine.observe(fleet.rollout, seen, fleet.now_s))
    assert fleet.states()["cam-00"] == "reverted"


def test_who_runs_it_but_was_told_to_leave_it_is_told_again() -> None:
    leaving = Candidate("cam-00", True, NEW, OLD, "", 7)
    step = engine.create("r1", "park-a", NEW, Plan(), [leaving], 1.0)
    assert [(order.digest, order.attempt) for order in step.orders] == [(NEW, 8)]


def test_a_revocation_after_the_end_changes_nothing() -> None:
    fleet = SimulatedFleet(1, Plan())
    fleet.run_device("cam-00")
    assert engine.drop(fleet.rollout, "cam-00", fleet.now_s).rollout is fleet.rollout


def test_health_that_falls_after_success_counts_while_it_runs() -> None:
    fleet = SimulatedFleet(3, CANARY)
    fleet.run_device("cam-00")
    sick = dataclasses.replace(
        fleet.devices["cam-00"].observation(), progress=Progress.FAILED, running_digest=OLD
    )
    fleet.apply(engine.observe(fleet.rollout, sick, fleet.now_s))
    assert fleet.rollout.state is RolloutState.ROLLING_BACK
    assert set(fleet.states().values()) == {"reverting"}


@pytest.mark.parametrize("verb", [engine.approve, engine.resume])
def test_verbs_out_of_phase_are_conflicts(verb: object) -> None:
    fleet = SimulatedFleet(1, Plan())
    with pytest.raises(Conflict, match="is running"):
        verb(fleet.rollout, fleet.now_s)  # type: ignore[operator] # one of the two functions above


def test_ending_twice_is_a_conflict() -> None:
    fleet = SimulatedFleet(1, Plan())
    fleet.run_device("cam-00")
    assert fleet.rollout.detail == ""
    with pytest.raises(Conflict, match="is completed") as caught:
        engine.abort(fleet.rollout, "late", fleet.now_s)
    assert "camctl deploy model" in caught.value.hint


def test_every_change_counts_the_revision_up_and_nothing_else_does() -> None:
    fleet = SimulatedFleet(1, Plan())
    revision = fleet.rollout.revision
    fleet.pass_time(1)
    assert fleet.rollout.revision == revision
    fleet.devices["cam-00"].take_order()
    fleet.report("cam-00")
    fleet.report("cam-00")
    assert fleet.rollout.revision == revision + 1
