"""One count over phases: it never falls, and a phase takes its share of it."""

from camsdk.compress.steps import Steps


def test_phases_take_the_share_of_their_work() -> None:
    told: list[tuple[int, int]] = []
    steps = Steps({"short": 1.0, "long": 3.0}, lambda done, total: told.append((done, total)))
    with steps.phase("short") as tell:
        tell(1, 2)
    with steps.phase("long") as tell:
        tell(0, 10)
        tell(5, 10)
        tell(20, 10)  # more than was said is no more than all
    assert [done for done, _ in told] == [125, 250, 250, 625, 1000, 1000]
    assert {total for _, total in told} == {1000}
    assert set(steps.durations) == {"short", "long"}


def test_a_phase_that_is_repeated_or_unknown_adds_time_but_no_work() -> None:
    told, begun = list[int](), list[str]()
    steps = Steps({"once": 1.0, "never": 1.0}, lambda done, _: told.append(done), begun.append)
    for name in ("once", "once", "other"):
        with steps.phase(name) as tell:
            tell(1, 1)
    assert told == [500] * 6
    assert begun == ["once", "once", "other"]
    steps.finish()
    assert told[-1] == 1000
    assert set(steps.durations) == {"once", "other"}


def test_nobody_need_listen() -> None:
    steps = Steps({"one": 1.0}, None)
    with steps.phase("one") as tell:
        tell(1, 1)
    steps.finish()
    assert steps.durations["one"] >= 0
