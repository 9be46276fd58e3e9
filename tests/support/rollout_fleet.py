"""A simulated fleet: devices that obey orders, fail, sleep and come back, one small step at a time.

It keeps what a real cloud would keep in rows (the rollout and each device's desired state) apart
from what lives in devices, so that a test can throw the cloud's memory away at any point.
"""

import copy
from dataclasses import dataclass, replace

from camcloud.rollout import engine
from camcloud.rollout.engine import Observation, Order, Progress, Step
from camcloud.rollout.plan import UNSETTLED, Candidate, Plan, Rollout, RolloutState

OLD = "a" * 64
NEW = "b" * 64
FLEET = "park-a"


@dataclass
class SimulatedDevice:
    """A device and the row that the cloud keeps for it."""

    device_id: str
    running: str = OLD
    fits: bool = True
    # The cloud's row.
    desired: str = OLD
    attempt: int = 3
    is_rollback: bool = False
    orders: tuple[Order, ...] = ()
    # The device itself: the last order that it saw, and how far it is with it.
    seen_attempt: int = 3
    seen_digest: str = OLD
    progress: Progress = Progress.IDLE

    def take_order(self) -> None:
        """The device reads its desired state; an order about what it runs is done at once."""
        if self.attempt == self.seen_attempt:
            return
        self.seen_attempt, self.seen_digest = self.attempt, self.desired
        self.progress = Progress.GOOD if self.desired == self.running else Progress.BUSY

    def finish(self, *, is_good: bool) -> None:
        """The update under way ends; going back to what ran before always works."""
        if self.progress is not Progress.BUSY:
            return
        if is_good or self.seen_digest != NEW:
            self.running, self.progress = self.seen_digest, Progress.GOOD
        else:
            self.progress = Progress.FAILED

    def observation(self) -> Observation:
        """What it reports now."""
        return Observation(
            self.device_id,
            self.seen_attempt,
            self.progress,
            self.seen_digest,
            self.running,
            "canary inference differs" if self.progress is Progress.FAILED else "",
        )


class SimulatedFleet:
    """Devices and one rollout over them.

    Args:
        count: Devices; ``cam-00`` is the first.
        plan: Of the rollout, which is created at once.
        running: What devices run at the beginning, by index; others run ``OLD``.
        misfits: Indexes of devices for whose hardware the artifact was not made.
    """

    def __init__(
        self,
        count: int,
        plan: Plan,
        *,
        running: dict[int, str] | None = None,
        misfits: frozenset[int] = frozenset(),
    ) -> None:
        self.now_s = 1000.0
        self.devices = {f"cam-{n:02}": SimulatedDevice(f"cam-{n:02}") for n in range(count)}
        for index, device in enumerate(self.devices.values()):
            digest = (running or {}).get(index, OLD)
            device.running = device.desired = device.seen_digest = digest
            device.fits = index not in misfits
        candidates = [
            Candidate(item.device_id, item.fits, item.running, item.desired, "", item.attempt)
            for item in self.devices.values()
        ]
        self.before = {item.device_id: item.running for item in self.devices.values()}
        self.rollout: Rollout = self.apply(
            engine.create("r1", FLEET, NEW, plan, candidates, self.now_s)
        )

    def apply(self, step: Step) -> Rollout:
        """Keeps a step as the cloud does: the rollout and its orders together."""
        for order in step.orders:
            device = self.devices[order.device_id]
            assert order.attempt == device.attempt + 1, "orders are numbered without a gap"
            device.desired, device.attempt = order.digest, order.attempt
            device.is_rollback = order.is_rollback
            device.orders += (order,)
        self.rollout = step.rollout
        return step.rollout

    def report(self, device_id: str) -> None:
        """The device reports and the engine hears of it."""
        seen = self.devices[device_id].observation()
        self.apply(engine.observe(self.rollout, seen, self.now_s))

    def run_device(self, device_id: str, *, is_good: bool = True) -> None:
        """The device does all that it has been told, reporting on the way."""
        device = self.devices[device_id]
        device.take_order()
        self.report(device_id)
        device.finish(is_good=is_good)
        self.report(device_id)

    def pass_time(self, seconds: float) -> None:
        """Time passes and the engine ticks."""
        self.now_s += seconds
        self.apply(engine.tick(self.rollout, self.now_s))

    def clone(self) -> "SimulatedFleet":
        """The same fleet, to go on from in another way."""
        other = copy.copy(self)
        other.devices = {name: replace(device) for name, device in self.devices.items()}
        return other

    def states(self) -> dict[str, str]:
        """State of each execution by device."""
        return {item.device_id: item.state.value for item in self.rollout.executions}

    def is_told(self, device_id: str) -> bool:
        """Whether the device ever got an order."""
        return bool(self.devices[device_id].orders)

    def check_laws(self) -> None:
        """What must hold at any moment; see the laws of ``camcloud.rollout.engine``."""
        rollout = self.rollout
        is_going_back = rollout.state in (RolloutState.ROLLING_BACK, RolloutState.ABORTED)
        for item in rollout.executions:
            device = self.devices[item.device_id]
            before = self.before[item.device_id]
            wanted = [(order.digest, order.is_rollback) for order in device.orders]
            assert wanted in ([], [(NEW, False)], [(NEW, False), (before, True)])
            if wanted:
                assert item.wave < rollout.waves_begun, "told before its wave began"
                assert item.attempt == device.attempt
                assert is_going_back == (len(wanted) == 2), "sent back if and only if aborted"
            else:
                assert device.running == device.desired == before, "changed without an order"
        if rollout.state in (RolloutState.RUNNING, RolloutState.PAUSED):
            assert rollout.failure_count <= rollout.plan.max_failures
        if rollout.state is RolloutState.COMPLETED:
            assert not UNSETTLED & {item.state for item in rollout.executions}
