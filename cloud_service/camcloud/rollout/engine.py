"""Decides what a rollout does next. Pure: a value in, a value and orders out; no clock, no store.

Laws, each tested against simulated fleets in every interleaving:

1. A device has at most one order at a time, and its orders' attempts only grow.
2. A device whose wave has not begun is never told anything.
3. More failures than the plan allows abort the rollout, in whatever state the others are.
4. An abort sends every device that was told, in every wave begun, back to what it ran before, and
   gives no other device an order. It ends when they have confirmed, or when the plan's timeout has
   passed for those that have not; such a device confirms when it returns.
5. Every function depends on its arguments alone, so a rollout that was stored and loaded again goes
   on as if nothing had happened.
6. A rollout that no device took is never completed while one has failed: it is aborted.

``now_s`` is wall-clock time, because timeouts must outlive a restart; the service sees to it that a
clock which is set does not end or delay them. One that goes back only makes a timeout late.
"""

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from camcloud.rollout.plan import (
    TOLD,
    UNSETTLED,
    Candidate,
    Execution,
    ExecutionState,
    Plan,
    Rollout,
    RolloutState,
    deal,
)
from camsdk.errors import Conflict


class Progress(enum.Enum):
    """What a device's report says of the order that it echoes."""

    IDLE = "idle"
    BUSY = "busy"
    GOOD = "good"
    FAILED = "failed"


@dataclass(frozen=True)
class Observation:
    """A device's report, as far as rollouts care.

    Attributes:
        attempt: Order that the report speaks of.
        progress: How far the device is with it.
        update_digest: Artifact that ``progress`` speaks of.
        running_digest: Artifact in use, ``""`` for none.
        detail: Why it failed, one sentence.
    """

    device_id: str
    attempt: int
    progress: Progress
    update_digest: str
    running_digest: str
    detail: str = ""

    @property
    def has_refused(self) -> bool:
        """Whether the device says that it cannot run ``update_digest``."""
        return self.progress is Progress.FAILED and self.update_digest != self.running_digest


@dataclass(frozen=True)
class Order:
    """A device is to run ``digest`` (``""``: none)."""

    device_id: str
    digest: str
    attempt: int
    is_rollback: bool


@dataclass(frozen=True)
class Step:
    """What an input led to: the rollout as it is now, and the orders to give."""

    rollout: Rollout
    orders: tuple[Order, ...] = ()


def create(
    rollout_id: str,
    fleet: str,
    digest: str,
    plan: Plan,
    candidates: Sequence[Candidate],
    now_s: float,
) -> Step:
    """A new rollout over a fixed set of devices, dealt into waves in the order given.

    Begins at once unless the plan needs an approval. Without any device it is complete at once.
    """
    due = [item.device_id for item in candidates if item.fits and not _has(item, digest)]
    waves = deal(plan, due)
    enlisted = (_enlist(item, waves, digest, now_s) for item in candidates)
    executions = tuple(sorted(enlisted, key=lambda item: (item.wave, item.device_id)))
    rollout = Rollout(
        rollout_id, fleet, digest, plan, RolloutState.PENDING, now_s, executions=executions
    )
    if plan.needs_approval:
        return Step(rollout)
    return _advance(replace(rollout, state=RolloutState.RUNNING), now_s)


def approve(rollout: Rollout, now_s: float) -> Step:
    """Begins a rollout that waited for it.

    Raises:
        Conflict: It does not wait for an approval.
    """
    _demand(rollout, "approved", RolloutState.PENDING)
    return _changed(rollout, _advance(replace(rollout, state=RolloutState.RUNNING), now_s))


def pause(rollout: Rollout, now_s: float) -> Step:
    """Begins no further wave; devices that have been told go on, and may still abort it.

    Raises:
        Conflict: It is not running.
    """
    _demand(rollout, "paused", RolloutState.RUNNING)
    return _changed(rollout, _advance(replace(rollout, state=RolloutState.PAUSED), now_s))


def resume(rollout: Rollout, now_s: float) -> Step:
    """Goes on after a pause.

    Raises:
        Conflict: It is not paused.
    """
    _demand(rollout, "resumed", RolloutState.PAUSED)
    return _changed(rollout, _advance(replace(rollout, state=RolloutState.RUNNING), now_s))


def abort(rollout: Rollout, reason: str, now_s: float) -> Step:
    """Stops it and sends back every device that was told.

    Raises:
        Conflict: It has ended or is on its way back already.
    """
    _demand(rollout, "aborted", RolloutState.PENDING, RolloutState.RUNNING, RolloutState.PAUSED)
    return _changed(rollout, _roll_back(rollout, reason, now_s))


def observe(rollout: Rollout, observation: Observation, now_s: float) -> Step:
    """Takes in a device's report; one that changes nothing returns the same rollout.

    Reports are also taken in after the end: a device that was offline says so late whether it
    succeeded or is back.
    """

    def judge(execution: Execution) -> Execution:
        if execution.device_id != observation.device_id:
            return execution
        return _judge(execution, observation, rollout.digest, now_s)

    return _update(rollout, judge, now_s)


def tick(rollout: Rollout, now_s: float) -> Step:
    """Lets time pass: devices that took too long have failed."""

    def expire(execution: Execution) -> Execution:
        waits = execution.state in (ExecutionState.WANTED, ExecutionState.UPDATING)
        if not waits or not _is_overdue(execution, rollout.plan, now_s):
            return execution
        detail = f"no success within {rollout.plan.timeout_s:g} s"
        return _move(execution, ExecutionState.TIMED_OUT, now_s, detail, has_failed=True)

    return _update(rollout, expire, now_s)


def drop(rollout: Rollout, device_id: str, now_s: float) -> Step:
    """Takes a revoked device out: nobody waits for it, and it counts as no failure."""

    def leave(execution: Execution) -> Execution:
        is_over = execution.state not in TOLD | UNSETTLED | {ExecutionState.REVERTING}
        if execution.device_id != device_id or is_over:
            return execution
        return _move(execution, ExecutionState.CANCELLED, now_s, "the device was revoked")

    return Step(rollout) if rollout.state.has_ended else _update(rollout, leave, now_s)


def _has(candidate: Candidate, digest: str) -> bool:
    # A device on its way to something else is told, even while it still runs this.
    return candidate.running_digest == digest == candidate.desired_digest


def _enlist(candidate: Candidate, waves: dict[str, int], digest: str, now_s: float) -> Execution:
    if not candidate.fits:
        state = ExecutionState.NO_ARTIFACT_FOR_HARDWARE
    elif _has(candidate, digest):
        state = ExecutionState.ALREADY_INSTALLED
    else:
        state = ExecutionState.QUEUED
    return Execution(
        candidate.device_id,
        waves.get(candidate.device_id, 0),
        state,
        candidate.from_digest,
        candidate.attempt,
        changed_timestamp_s=now_s,
    )


def _judge(execution: Execution, seen: Observation, digest: str, now_s: float) -> Execution:
    """The execution after a report that speaks of its order; others change nothing."""
    state = execution.state
    if seen.attempt != execution.attempt or (state not in TOLD | {ExecutionState.REVERTING}):
        return execution
    if state is ExecutionState.REVERTING:
        is_back = (
            seen.progress is not Progress.BUSY and seen.running_digest == execution.from_digest
        )
        return _move(execution, ExecutionState.REVERTED, now_s) if is_back else execution
    if seen.update_digest != digest:
        return execution
    if seen.progress is Progress.FAILED and state is not ExecutionState.FAILED:
        detail = seen.detail or "the device gave no reason"
        return _move(execution, ExecutionState.FAILED, now_s, detail, has_failed=True)
    if seen.progress is Progress.GOOD and state is not ExecutionState.SUCCEEDED:
        return _move(execution, ExecutionState.SUCCEEDED, now_s)
    if seen.progress is Progress.BUSY and state is ExecutionState.WANTED:
        return _move(execution, ExecutionState.UPDATING, now_s)
    return execution


def _move(
    execution: Execution,
    state: ExecutionState,
    now_s: float,
    detail: str | None = None,
    *,
    has_failed: bool = False,
) -> Execution:
    return replace(
        execution,
        state=state,
        detail=execution.detail if detail is None else detail,
        has_failed=execution.has_failed or has_failed,
        changed_timestamp_s=now_s,
    )


def _update(rollout: Rollout, change: Callable[[Execution], Execution], now_s: float) -> Step:
    executions = tuple(change(execution) for execution in rollout.executions)
    if executions == rollout.executions:
        step = _advance(rollout, now_s)
    else:
        step = _advance(replace(rollout, executions=executions), now_s)
    return _changed(rollout, step)


def _changed(before: Rollout, step: Step) -> Step:
    """Counts the revision up if anything is different."""
    if step.rollout == before:
        return Step(before)
    return replace(step, rollout=replace(step.rollout, revision=before.revision + 1))


def _advance(rollout: Rollout, now_s: float) -> Step:
    """Applies the laws until nothing more follows from them."""
    if rollout.state in (RolloutState.RUNNING, RolloutState.PAUSED):
        failures = rollout.failure_count
        if failures > rollout.plan.max_failures:
            return _roll_back(rollout, _reason(rollout), now_s)
        if rollout.state is RolloutState.RUNNING and _is_wave_over(rollout):
            return _next_wave(rollout, now_s)
    if rollout.state is RolloutState.ROLLING_BACK:
        return Step(_settle_roll_back(rollout, now_s))
    return Step(rollout)


def _reason(rollout: Rollout) -> str:
    failed = [item for item in rollout.executions if item.has_failed]
    last = max(failed, key=lambda item: item.changed_timestamp_s)
    most = rollout.plan.max_failures
    allowed = "1 failure is allowed" if most == 1 else f"{most or 'no'} failures are allowed"
    return f"{allowed}; {last.device_id}: {last.detail}"


def _is_wave_over(rollout: Rollout) -> bool:
    return not any(
        item.wave < rollout.waves_begun and item.state in UNSETTLED for item in rollout.executions
    )


def _next_wave(rollout: Rollout, now_s: float) -> Step:
    wave = rollout.waves_begun
    if wave >= rollout.wave_count:
        return _complete(rollout, now_s)
    told: list[Order] = []
    executions: list[Execution] = []
    for item in rollout.executions:
        if item.wave == wave and item.state is ExecutionState.QUEUED:
            moved = replace(
                _move(item, ExecutionState.WANTED, now_s),
                attempt=item.attempt + 1,
                told_timestamp_s=now_s,
            )
            told.append(
                Order(item.device_id, rollout.digest, moved.attempt, rollout.plan.is_rollback)
            )
            executions.append(moved)
        else:
            executions.append(item)
    begun = replace(rollout, executions=tuple(executions), waves_begun=wave + 1)
    # A wave whose devices have all left meanwhile is over at once.
    return Step(begun, tuple(told)) if told else _advance(begun, now_s)


def _complete(rollout: Rollout, now_s: float) -> Step:
    states = {item.state for item in rollout.executions}
    if rollout.failure_count and ExecutionState.SUCCEEDED not in states:
        return _roll_back(rollout, f"No device took it; {_reason(rollout)}", now_s)
    return Step(
        replace(
            rollout,
            state=RolloutState.COMPLETED,
            detail="" if ExecutionState.SUCCEEDED in states else _why_nobody(rollout),
            ended_timestamp_s=now_s,
        )
    )


def _why_nobody(rollout: Rollout) -> str:
    """Why a rollout is completed that no device took."""
    if not rollout.executions:
        return "the fleet has no devices; those that enrol get it"
    counts = Counter(item.state for item in rollout.executions)
    reasons = (
        (ExecutionState.ALREADY_INSTALLED, "had it already"),
        (ExecutionState.NO_ARTIFACT_FOR_HARDWARE, "have hardware that it was not made for"),
        (ExecutionState.CANCELLED, "left before they took it"),
    )
    count = len(rollout.executions)
    return ", ".join(
        f"{counts[state]} of {count} devices {words}" for state, words in reasons if counts[state]
    )


def _roll_back(rollout: Rollout, reason: str, now_s: float) -> Step:
    orders: list[Order] = []
    executions: list[Execution] = []
    for item in rollout.executions:
        if item.state is ExecutionState.QUEUED:
            executions.append(_move(item, ExecutionState.CANCELLED, now_s))
        elif item.state in TOLD:
            moved = replace(
                _move(item, ExecutionState.REVERTING, now_s),
                attempt=item.attempt + 1,
                told_timestamp_s=now_s,
            )
            orders.append(Order(item.device_id, item.from_digest, moved.attempt, is_rollback=True))
            executions.append(moved)
        else:
            executions.append(item)
    going_back = replace(
        rollout,
        state=RolloutState.ROLLING_BACK,
        executions=tuple(executions),
        detail=reason,
    )
    return Step(_settle_roll_back(going_back, now_s), tuple(orders))


def _settle_roll_back(rollout: Rollout, now_s: float) -> Rollout:
    missing = [item for item in rollout.executions if item.state is ExecutionState.REVERTING]
    if not all(_is_overdue(item, rollout.plan, now_s) for item in missing):
        return rollout
    detail = rollout.detail
    if missing:
        detail += f"; {len(missing)} not back yet, told to go back when they return"
    return replace(rollout, state=RolloutState.ABORTED, detail=detail, ended_timestamp_s=now_s)


def _is_overdue(execution: Execution, plan: Plan, now_s: float) -> bool:
    return now_s - execution.told_timestamp_s >= plan.timeout_s


def _demand(rollout: Rollout, verb: str, *states: RolloutState) -> None:
    if rollout.state not in states:
        raise Conflict(
            f"Rollout {rollout.rollout_id} is {rollout.state.value} and cannot be {verb}.",
            "it has ended: camctl deploy model begins another, --rollback if to an older version"
            if rollout.state.has_ended
            else "camctl rollout show says what it waits for",
        )
