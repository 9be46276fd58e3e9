"""The engine's laws: in every interleaving of a small fleet, and at random in larger ones.

The exhaustive search takes every action that is possible in every state that can be reached, so it
proves the laws for its fleets. Timestamps are left out of a state's key: they decide nothing but
timeouts, and the action that lets time pass makes everything overdue that waits.
"""

from collections import deque
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from camcloud.rollout import engine, store
from camcloud.rollout.engine import Step
from camcloud.rollout.plan import Plan, Rollout, RolloutState, Strategy
from camcloud.store.database import Database
from camsdk.errors import Conflict
from support.rollout_fleet import FLEET, NEW, SimulatedFleet
from support.store_rows import add_device, add_fleet, add_model, open_store

VERBS: tuple[Callable[[Rollout, float], Step], ...] = (
    engine.approve,
    engine.pause,
    engine.resume,
    lambda rollout, now_s: engine.abort(rollout, "by hand", now_s),
)


def _key(fleet: SimulatedFleet) -> tuple[object, ...]:
    rollout = fleet.rollout
    executions = tuple((item.state, item.attempt, item.has_failed) for item in rollout.executions)
    devices = tuple(
        (item.running, item.desired, item.attempt, item.seen_attempt, item.progress)
        for item in fleet.devices.values()
    )
    return rollout.state, rollout.waves_begun, executions, devices


def _successors(fleet: SimulatedFleet) -> Iterator[SimulatedFleet]:
    for verb in VERBS:
        other = fleet.clone()
        try:
            other.apply(verb(other.rollout, other.now_s))
        except Conflict:
            continue
        yield other
    other = fleet.clone()
    other.pass_time(other.rollout.plan.timeout_s)
    yield other
    for name in fleet.devices:
        for act in (
            lambda it: it.devices[name].take_order(),  # noqa: B023 - called within this turn
            lambda it: it.report(name),  # noqa: B023 - called within this turn
            lambda it: it.devices[name].finish(is_good=True),  # noqa: B023 - called within this turn
            lambda it: it.devices[name].finish(is_good=False),  # noqa: B023 - called within this turn
        ):
            other = fleet.clone()
            act(other)
            yield other


def _explore(start: SimulatedFleet) -> tuple[int, set[RolloutState]]:
    """Checks the laws in every reachable state, and that each can still reach an end."""
    seen = {_key(start): start}
    before: dict[tuple[object, ...], list[tuple[object, ...]]] = {}
    queue = deque([_key(start)])
    while queue:
        key = queue.popleft()
        seen[key].check_laws()
        for other in _successors(seen[key]):
            after = _key(other)
            before.setdefault(after, []).append(key)
            if after not in seen:
                seen[after] = other
                queue.append(after)
    ends = [key for key, fleet in seen.items() if fleet.rollout.state.has_ended]
    reaching = set(ends)
    queue = deque(ends)
    while queue:
        for key in before.get(queue.popleft(), ()):
            if key not in reaching:
                reaching.add(key)
                queue.append(key)
    assert reaching == set(seen), "a state without a way to an end"
    return len(seen), {fleet.rollout.state for fleet in seen.values()}


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(Strategy.CANARY),
        Plan(Strategy.CANARY, max_failures=1),
        Plan(max_failures=2, needs_approval=True),
    ],
    ids=["all-at-once", "canary", "canary-1-failure", "approval-2-failures"],
)
def test_the_laws_hold_in_every_interleaving_of_two_devices(plan: Plan) -> None:
    count, states = _explore(SimulatedFleet(2, plan))
    assert count > 100
    assert {RolloutState.COMPLETED, RolloutState.ABORTED, RolloutState.ROLLING_BACK} <= states


@pytest.mark.parametrize("max_failures", [0, 1])
def test_the_laws_hold_in_every_interleaving_of_three_waves(max_failures: int) -> None:
    plan = Plan(Strategy.WAVES, wave_count=2, max_failures=max_failures)
    count, _ = _explore(SimulatedFleet(3, plan))
    assert count > 500


class RolloutMachine(RuleBasedStateMachine):
    """Larger fleets at random; the cloud's memory is thrown away again and again."""

    fleet: SimulatedFleet
    database: Database
    saved: Rollout

    @initialize(
        count=st.integers(1, 8),
        strategy=st.sampled_from(Strategy),
        canary_count=st.integers(0, 3),
        wave_count=st.integers(1, 4),
        max_failures=st.integers(0, 3),
        needs_approval=st.booleans(),
        installed=st.sets(st.integers(0, 7), max_size=2),
        misfits=st.frozensets(st.integers(0, 7), max_size=2),
    )
    def begin(
        self,
        count: int,
        strategy: Strategy,
        canary_count: int,
        wave_count: int,
        max_failures: int,
        needs_approval: bool,
        installed: set[int],
        misfits: frozenset[int],
    ) -> None:
        plan = Plan(
            strategy,
            canary_count=canary_count,
            wave_count=wave_count,
            max_failures=max_failures,
            needs_approval=needs_approval,
            timeout_s=60,
        )
        running = dict.fromkeys(installed, NEW)
        self.fleet = SimulatedFleet(count, plan, running=running, misfits=misfits)
        self.database = open_store()
        self.database.run(self._save_first)
        self.saved = self.fleet.rollout

    def _save_first(self, connection: object) -> None:
        add_fleet(connection, FLEET)
        add_model(connection, NEW)
        for name in self.fleet.devices:
            add_device(connection, name, FLEET)
        store.save(connection, None, self.fleet.rollout)

    def _act(self, act: Callable[[], object]) -> None:
        act()
        after = self.fleet.rollout
        self.database.run(lambda connection: store.save(connection, self.saved, after))
        self.saved = after

    def _pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.fleet.devices)))

    @rule(data=st.data())
    def take_order(self, data: st.DataObject) -> None:
        self.fleet.devices[self._pick(data)].take_order()

    @rule(data=st.data(), is_good=st.booleans())
    def finish(self, data: st.DataObject, is_good: bool) -> None:
        self.fleet.devices[self._pick(data)].finish(is_good=is_good)

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        name = self._pick(data)
        self._act(lambda: self.fleet.report(name))

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self._act(lambda: self.fleet.pass_time(seconds))

    @rule(verb=st.sampled_from(VERBS))
    def operate(self, verb: Callable[[Rollout, float], Step]) -> None:
        try:
            step = verb(self.fleet.rollout, self.fleet.now_s)
        except Conflict:
            return
        self._act(lambda: self.fleet.apply(step))

    @rule()
    def restart(self) -> None:
        """The process dies: what the rows hold is all there is, and it is the same value."""
        loaded = self.database.run(lambda connection: store.load(connection, "r1"))
        assert loaded == self.fleet.rollout
        self.fleet.rollout = self.saved = loaded

    @precondition(lambda self: hasattr(self, "fleet"))
    @invariant()
    def laws_hold(self) -> None:
        self.fleet.check_laws()

    def teardown(self) -> None:
        """At the end every device does as it is told: then the rollout ends, and all is settled."""
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        if fleet.rollout.state is RolloutState.PENDING:
            self._act(lambda: fleet.apply(engine.approve(fleet.rollout, fleet.now_s)))
        if fleet.rollout.state is RolloutState.PAUSED:
            self._act(lambda: fleet.apply(engine.resume(fleet.rollout, fleet.now_s)))
        for _ in range(2 * fleet.rollout.wave_count + 2):
            for name in fleet.devices:
                self._act(lambda name=name: fleet.run_device(name))
        fleet.check_laws()
        assert fleet.rollout.state.has_ended
        is_done = fleet.rollout.state is RolloutState.COMPLETED
        for name, device in fleet.devices.items():
            if fleet.is_told(name) and not (is_done and fleet.states()[name] == "failed"):
                assert device.running == device.desired
        self.database.close()


RolloutMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestRolloutMachine = RolloutMachine.TestCase
