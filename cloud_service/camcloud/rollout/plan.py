"""The values of a rollout: its plan, its executions, and how devices are dealt into waves."""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from camsdk.errors import InvalidInput


class Strategy(enum.Enum):
    """In which order devices are told."""

    ALL_AT_ONCE = "all-at-once"
    CANARY = "canary"
    WAVES = "waves"


class RolloutState(enum.Enum):
    """Where a rollout stands. Names are those of the protocol."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling-back"
    COMPLETED = "completed"
    ABORTED = "aborted"

    @property
    def has_ended(self) -> bool:
        """Whether no order will be given any more."""
        return self in (RolloutState.COMPLETED, RolloutState.ABORTED)


class ExecutionState(enum.Enum):
    """Where one device stands within a rollout. Names are those of the protocol."""

    QUEUED = "queued"
    WANTED = "wanted"
    UPDATING = "updating"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    REVERTING = "reverting"
    REVERTED = "reverted"
    ALREADY_INSTALLED = "already-installed"
    NO_ARTIFACT_FOR_HARDWARE = "no-artifact-for-hardware"
    CANCELLED = "cancelled"


UNSETTLED = frozenset({ExecutionState.QUEUED, ExecutionState.WANTED, ExecutionState.UPDATING})
"""States that keep a wave from being over."""

TOLD = frozenset(
    {
        ExecutionState.WANTED,
        ExecutionState.UPDATING,
        ExecutionState.SUCCEEDED,
        ExecutionState.FAILED,
        ExecutionState.TIMED_OUT,
    }
)
"""States of a device that has been told to take the new artifact and not yet to go back."""

MAX_TIMEOUT_S = 30 * 86_400.0


@dataclass(frozen=True)
class Plan:
    """What the operator asked for.

    Attributes:
        strategy: Order in which devices are told.
        canary_count: Size of the first wave; 0 leaves it to ``canary_percent``.
        canary_percent: Size of the first wave in percent of the fleet, rounded up; with both 0 the
            canary is one device.
        wave_count: Equal waves after the canary, for ``WAVES``.
        max_failures: The rollout is aborted when more devices than this have failed.
        timeout_s: A device that has not succeeded this long after it was told has failed. Also how
            long an abort waits for devices to confirm that they are back.
        needs_approval: Wait for an approval before the first wave.
        is_rollback: An older version is meant.
    """

    strategy: Strategy = Strategy.ALL_AT_ONCE
    canary_count: int = 0
    canary_percent: float = 0.0
    wave_count: int = 3
    max_failures: int = 0
    timeout_s: float = 300.0
    needs_approval: bool = False
    is_rollback: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.canary_percent <= 100:
            raise InvalidInput(f"canary_percent is {self.canary_percent}, not 0 to 100")
        if self.canary_count and self.canary_percent:
            raise InvalidInput("Both canary_count and canary_percent are given.", "give one")
        if self.canary_count < 0 or self.max_failures < 0 or not 1 <= self.wave_count <= 1000:
            raise InvalidInput("Counts must not be negative, and waves number 1 to 1000.")
        if not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise InvalidInput(f"timeout_s is {self.timeout_s}, not 0 to {MAX_TIMEOUT_S:.0f}")


@dataclass(frozen=True)
class Candidate:
    """A device of the fleet as it is when the rollout is created.

    Attributes:
        device_id: Its name.
        fits: Whether the artifact was made for its hardware.
        running_digest: What it last said it runs, ``""`` for none.
        desired_digest: What it has been told to run.
        refused_digest: What it last refused or failed with, ``""`` once it has taken that.
        attempt: Number of the last order that it was given.
    """

    device_id: str
    fits: bool
    running_digest: str
    desired_digest: str
    refused_digest: str
    attempt: int

    @property
    def from_digest(self) -> str:
        """Where an abort sends it back to: what it was told to run, unless it cannot.

        What it runs may be an artifact of an aborted rollout, which it is about to leave.
        """
        is_refused = self.desired_digest == self.refused_digest
        return self.running_digest if is_refused else self.desired_digest


@dataclass(frozen=True)
class Execution:
    """One device within a rollout.

    Attributes:
        from_digest: What it ran before, ``""`` for none; where an abort sends it back to.
        attempt: Number of the last order that it was given; a report that echoes another number
            speaks of another order.
        has_failed: Whether it ever failed or timed out in this rollout.
        told_timestamp_s: When its last order was given, 0 before the first.
        changed_timestamp_s: When ``state`` last changed.
    """

    device_id: str
    wave: int
    state: ExecutionState
    from_digest: str
    attempt: int
    has_failed: bool = False
    detail: str = ""
    told_timestamp_s: float = 0.0
    changed_timestamp_s: float = 0.0


@dataclass(frozen=True)
class Rollout:
    """One artifact on its way to one fleet.

    Attributes:
        digest: The artifact.
        waves_begun: Waves 0 to ``waves_begun - 1`` have been told.
        detail: Why it was aborted, or completed though no device took it; one sentence, or "".
        revision: Grows with every change.
    """

    rollout_id: str
    fleet: str
    digest: str
    plan: Plan
    state: RolloutState
    created_timestamp_s: float
    executions: tuple[Execution, ...] = field(default=())
    waves_begun: int = 0
    detail: str = ""
    ended_timestamp_s: float = 0.0
    revision: int = 1

    @property
    def wave_count(self) -> int:
        """Waves that the plan made of this fleet."""
        return 1 + max((execution.wave for execution in self.executions), default=-1)

    @property
    def failure_count(self) -> int:
        """Devices that failed or timed out."""
        return sum(execution.has_failed for execution in self.executions)


def wave_sizes(plan: Plan, device_count: int) -> tuple[int, ...]:
    """How many devices each wave has; none is empty and they add up to ``device_count``.

    >>> wave_sizes(Plan(Strategy.CANARY, canary_percent=10), 25)
    (3, 22)
    >>> wave_sizes(Plan(Strategy.WAVES, wave_count=3), 11)
    (1, 4, 3, 3)
    """
    if device_count == 0:
        return ()
    if plan.strategy is Strategy.ALL_AT_ONCE:
        return (device_count,)
    percent_count = math.ceil(device_count * plan.canary_percent / 100)
    canary = min(plan.canary_count or percent_count or 1, device_count)
    rest = device_count - canary
    wave_count = 1 if plan.strategy is Strategy.CANARY else plan.wave_count
    share, larger = divmod(rest, wave_count)
    sizes = [canary] + [share + (number < larger) for number in range(wave_count)]
    return tuple(size for size in sizes if size)


def deal(plan: Plan, device_ids: Sequence[str]) -> dict[str, int]:
    """The wave of each device; devices are dealt in the order given."""
    waves: dict[str, int] = {}
    remaining = iter(device_ids)
    for wave, size in enumerate(wave_sizes(plan, len(device_ids))):
        for _ in range(size):
            waves[next(remaining)] = wave
    return waves
