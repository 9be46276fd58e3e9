"""Rollouts as values: a model on its way to a fleet, wave by wave."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from camsdk.errors import DeadlineExceeded


class Strategy(StrEnum):
    """How a model reaches a fleet."""

    UNKNOWN = "unknown"
    ALL_AT_ONCE = "all-at-once"
    CANARY = "canary"  # a few devices first, then the rest
    WAVES = "waves"  # a few devices first, then equal waves


class RolloutState(StrEnum):
    """Where a rollout stands."""

    UNKNOWN = "unknown"
    PENDING = "pending"  # waits for approval
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    COMPLETED = "completed"
    ABORTED = "aborted"  # and its devices are back on the old model

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self in (RolloutState.COMPLETED, RolloutState.ABORTED)


class ExecutionState(StrEnum):
    """Where one device of a rollout stands."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    WANTED = "wanted"  # the device has been told
    UPDATING = "updating"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    REVERTING = "reverting"
    REVERTED = "reverted"  # back on the old artifact
    ALREADY_INSTALLED = "already_installed"
    NO_ARTIFACT_FOR_HARDWARE = "no_artifact_for_hardware"
    CANCELLED = "cancelled"  # never told


class RolloutAction(StrEnum):
    """What an operator may do to a rollout."""

    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


DONE = frozenset({ExecutionState.SUCCEEDED, ExecutionState.ALREADY_INSTALLED})
"""States in which a device runs the new model."""


@dataclass(frozen=True)
class RolloutExecution:
    """One device of a rollout.

    Attributes:
        wave: From 0.
        from_digest: Artifact that the device ran before.
        detail: Why it failed, one sentence.
        has_failed: It failed, even if it has been reverted since.
    """

    device_id: str
    wave: int
    state: ExecutionState
    from_digest: str
    detail: str
    changed_timestamp_s: float
    has_failed: bool


@dataclass(frozen=True)
class RolloutStatus:
    """A rollout at one moment.

    Attributes:
        model_name: ``name:version``.
        current_wave: From 0.
        executions: One a device.
        detail: Why it stands where it stands, one sentence.
        max_failures: It aborts when more devices than this have failed.
        revision: Grows with every change.
    """

    rollout_id: str
    fleet: str
    model_name: str
    model_digest: str
    strategy: Strategy
    state: RolloutState
    current_wave: int
    wave_count: int
    executions: tuple[RolloutExecution, ...]
    detail: str
    created_timestamp_s: float
    ended_timestamp_s: float
    max_failures: int
    revision: int

    @property
    def waves(self) -> tuple[tuple[RolloutExecution, ...], ...]:
        """The executions by wave, in order; a wave may be empty."""
        count = max([self.wave_count, *(row.wave + 1 for row in self.executions)])
        return tuple(
            tuple(row for row in self.executions if row.wave == wave) for wave in range(count)
        )

    @property
    def count_by_state(self) -> Counter[ExecutionState]:
        """Number of devices in each state."""
        return Counter(row.state for row in self.executions)

    def ended(self) -> "RolloutStatus":
        """Itself, if nothing will change any more.

        Raises:
            DeadlineExceeded: It is still under way.
        """
        if not self.state.has_ended:
            raise DeadlineExceeded(
                f"rollout {self.rollout_id} is still {self.state.value}", "wait again, or abort it"
            )
        return self

    def __str__(self) -> str:
        done = sum(row.state in DONE for row in self.executions)
        failed = sum(row.has_failed for row in self.executions)
        place = f"wave {self.current_wave + 1} of {self.wave_count}" if self.wave_count else ""
        parts = [
            f"{self.model_name} to {self.fleet}: {self.state.replace('_', ' ')}",
            place,
            f"{done} of {len(self.executions)} devices done",
            f"{failed} failed" if failed else "",
            self.detail,
        ]
        return ", ".join(part for part in parts if part)
