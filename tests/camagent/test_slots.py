"""The artifacts' folder: killed between any two writes, it still names one runnable artifact."""

import json
import os
from pathlib import Path

import pytest

from camagent.slots import Slot, Slots, SlotState
from camsdk.errors import DataCorrupted, InvalidInput

A, B, C = (Slot(letter * 64, "tiny", version) for version, letter in enumerate("abc", 1))


class Killed(Exception):
    """The device went dark."""


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


def download(slots: Slots, slot: Slot) -> None:
    slots.part_path(slot.digest).write_bytes(slot.digest.encode())


def install(slots: Slots, slot: Slot, attempt: int) -> None:
    download(slots, slot)
    slots.begin_trial(slot, attempt)
    slots.mark_good(slot, attempt)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_two_slots_and_no_more(slots: Slots, tmp_path: Path) -> None:
    for attempt, slot in enumerate((A, B, C), 1):
        install(slots, slot, attempt)
    assert slots.state == SlotState(good=C, previous=B, attempt=3, floors={"tiny": 3})
    assert files(tmp_path) == {"state.json", f"{B.digest}.sealed", f"{C.digest}.sealed"}
    assert Slots(tmp_path).state == slots.state
    assert slots.read(B.digest) == B.digest.encode()


def test_going_back_swaps_the_slots(slots: Slots) -> None:
    install(slots, A, 1)
    install(slots, B, 2)
    slots.begin_trial(A, 3)
    slots.mark_good(A, 3)
    assert (slots.state.good, slots.state.previous) == (A, B)
    assert slots.state.floors == {"tiny": 1}


def test_a_failed_trial_leaves_what_was(slots: Slots, tmp_path: Path) -> None:
    install(slots, A, 1)
    download(slots, B)
    slots.begin_trial(B, 2)
    slots.fail(B.digest, 2, "it failed")
    assert slots.state.good == A
    assert slots.state.trial is None
    assert slots.state.failure is not None
    assert files(tmp_path) == {"state.json", f"{A.digest}.sealed"}


def test_only_one_download_is_kept(slots: Slots, tmp_path: Path) -> None:
    download(slots, A)
    download(slots, B)
    assert files(tmp_path) == {f"{B.digest}.part"}


def test_a_damaged_state_counts_as_none(slots: Slots, tmp_path: Path) -> None:
    install(slots, A, 1)
    (tmp_path / "state.json").write_text('{"good": 1')
    again = Slots(tmp_path)
    assert again.state == SlotState()
    assert (tmp_path / "state.json.damaged").exists()


def test_artifacts_without_a_state_wait_for_the_next_order(
    slots: Slots, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(slots, A, 1)
    install(slots, B, 2)
    (tmp_path / "state.json").write_text("{")
    assert Slots(tmp_path).has(B.digest)
    assert "the least versions are forgotten" in caplog.text
    again = Slots(tmp_path)  # nor does the next start take them away
    assert again.has(A.digest)
    assert again.is_leftover(B.digest)
    again.fail(C.digest, 3, "another order failed")
    assert again.read(B.digest) == B.digest.encode()
    again.begin_trial(B, 4)
    again.mark_good(B, 4)
    assert files(tmp_path) == {"state.json", "state.json.damaged", f"{B.digest}.sealed"}
    assert not again.is_leftover(B.digest)


def test_a_leftover_that_is_no_good_goes(slots: Slots, tmp_path: Path) -> None:
    install(slots, A, 1)
    (tmp_path / "state.json").write_text("{")
    again = Slots(tmp_path)
    again.discard(A.digest)
    assert not again.has(A.digest)
    assert files(tmp_path) == {"state.json.damaged"}


@pytest.mark.parametrize(
    "change",
    [
        {"floors": 3},
        {"good": {"digest": 1, "name": "m", "version": 1}},
        {"good": {"digest": "../x", "name": "m", "version": 1}},
        {"trial": {"slot": None, "attempt": 1, "starts": 1}},
    ],
)
def test_a_state_with_other_values_counts_as_none(
    change: dict[str, object], slots: Slots, tmp_path: Path
) -> None:
    slots.fail("a" * 64, 1, "so that there is a state")
    path = tmp_path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert Slots(tmp_path).state == SlotState()


@pytest.mark.parametrize("digest", ["", "../x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_digests_become_paths(slots: Slots, digest: str) -> None:
    with pytest.raises(InvalidInput):
        slots.part_path(digest)


def test_what_is_not_there_cannot_be_read(slots: Slots) -> None:
    with pytest.raises(DataCorrupted):
        slots.read(A.digest)


@pytest.mark.parametrize("survived", range(12))  # more writes than there are
def test_killed_at_any_write_one_artifact_is_runnable(
    survived: int, slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(slots, A, 1)
    install(slots, B, 2)
    download(slots, C)
    left = survived

    def mortal(function):  # type: ignore[no-untyped-def] # wraps any file operation
        def call(*arguments, **named):  # type: ignore[no-untyped-def] # as above
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return function(*arguments, **named)

        return call

    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(Path, name, mortal(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", mortal(os.fsync))
    try:
        slots.begin_trial(C, 3)
        slots.mark_good(C, 3)
    except Killed:
        pass
    monkeypatch.undo()
    again = Slots(tmp_path)
    assert again.state.good in (B, C)
    assert again.state.good is not None
    assert again.read(again.state.good.digest) == again.state.good.digest.encode()
