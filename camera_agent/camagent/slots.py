"""``Slots``: which artifacts are on the device, durable: a good one, the one before, one on trial.

    artifacts/state.json         what is what, replaced by one rename
    artifacts/DIGEST.sealed      encrypted for this device, as it came; never in the clear
    artifacts/DIGEST.part        a download, until its trial begins

Laws: ``good`` changes only to an artifact whose file is complete; a file is removed only after the
state that needs it no more is durable. So a kill at any moment leaves one runnable artifact.

Files without a readable state are leftovers: none runs until the cloud's next order names it, and
they go at the latest once something is good. What a damaged state knew of least versions is lost.
"""

import json
import logging
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from camsdk.errors import DataCorrupted, InvalidInput, ResourceExhausted
from camsdk.files import sync_folder, write_atomic

_log = logging.getLogger(__name__)

_STATE: Final = "state.json"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Slot:
    """An artifact on the device."""

    digest: str
    name: str
    version: int

    @property
    def reference(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class Trial:
    """An artifact that runs but has not earned its place.

    Attributes:
        slot: The artifact.
        attempt: Order that brought it.
        starts: How often the agent has begun this trial: each kill in it counts.
    """

    slot: Slot
    attempt: int
    starts: int = 1


@dataclass(frozen=True)
class Failure:
    """An order that was refused or failed; not tried again under the same attempt."""

    digest: str
    attempt: int
    detail: str


@dataclass(frozen=True)
class SlotState:
    """All that is remembered.

    Attributes:
        good: Runs, or is started when the agent starts.
        previous: What ``good`` replaced, kept for a quick way back.
        trial: On its way to become good.
        failure: The last order that did not.
        attempt: Of the order that led to ``good``.
        floors: By model name the version below which nothing is taken unless a rollback says so.
    """

    good: Slot | None = None
    previous: Slot | None = None
    trial: Trial | None = None
    failure: Failure | None = None
    attempt: int = 0
    floors: dict[str, int] = field(default_factory=dict)


class Slots:
    """The artifacts' folder, made if missing. Used by one thread, read by others.

    Raises:
        ResourceExhausted: the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._leftovers: frozenset[str] = frozenset()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.state = self._load()
            self._tidy()
        except OSError as error:
            raise _disk_error(error) from error

    def _load(self) -> SlotState:
        """A state that cannot be read counts as none: the cloud will say what to run."""
        path = self._folder / _STATE
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
            return _state(values)
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged = path.with_name(f"{_STATE}.damaged")
            path.rename(damaged)
            _log.error(
                "what the artifacts are cannot be read, see %s: they wait for the cloud's next"
                " order, and the least versions are forgotten",
                damaged,
            )
        self._leftovers = frozenset(file.stem for file in self._folder.glob("*.sealed"))
        return SlotState()

    def sealed_path(self, digest: str) -> Path:
        """File of an artifact, whether it exists or not.

        Raises:
            InvalidInput: not a digest; nothing else may become part of a path.
        """
        if not _DIGEST.fullmatch(digest):
            raise InvalidInput(f"{digest[:80]!r} is not the digest of an artifact")
        return self._folder / f"{digest}.sealed"

    def part_path(self, digest: str) -> Path:
        """File of an artifact's download; downloads of other artifacts are given up.

        Raises:
            InvalidInput: not a digest.
        """
        path = self.sealed_path(digest).with_suffix(".part")
        for other in self._folder.glob("*.part"):
            if other != path:
                other.unlink(missing_ok=True)
        return path

    def has(self, digest: str) -> bool:
        """Whether the artifact is in a slot."""
        return digest in self._needed() and self.sealed_path(digest).exists()

    def is_leftover(self, digest: str) -> bool:
        """Whether its file is here but no state says that it was ever complete and good."""
        return digest in self._leftovers

    def read(self, digest: str) -> bytes:
        """The sealed artifact, from its slot or from its finished download.

        Raises:
            DataCorrupted: it is not there or cannot be read.
        """
        path = self.sealed_path(digest)
        try:
            return (path if path.exists() else path.with_suffix(".part")).read_bytes()
        except OSError as error:
            raise DataCorrupted(f"the artifact {digest[:12]} is not on the device") from error

    def begin_trial(self, slot: Slot, attempt: int) -> int:
        """Notes that an artifact is about to run on live frames; returns how often by now."""
        path = self.sealed_path(slot.digest)
        try:
            if not path.exists():
                path.with_suffix(".part").rename(path)
                sync_folder(self._folder)
        except OSError as error:
            raise _disk_error(error) from error
        trial, starts = self.state.trial, 1
        if trial is not None and (trial.slot, trial.attempt) == (slot, attempt):
            starts += trial.starts
        self._save(replace(self.state, trial=Trial(slot, attempt, starts)))
        return starts

    def end_trial(self) -> None:
        """Notes that a trial was ended on purpose: it counts for nothing, the download is kept."""
        trial = self.state.trial
        if trial is None:
            return
        path = self.sealed_path(trial.slot.digest)
        try:
            if trial.slot not in (self.state.good, self.state.previous):
                path.rename(path.with_suffix(".part"))
        except OSError as error:
            raise _disk_error(error) from error
        self._save(replace(self.state, trial=None))

    def mark_good(self, slot: Slot, attempt: int) -> None:
        """The artifact has earned its place; the one before stays in the other slot."""
        self._leftovers = frozenset()
        old = self.state
        previous = old.previous if old.good and old.good.digest == slot.digest else old.good
        self._save(
            SlotState(
                good=slot,
                previous=previous,
                attempt=attempt,
                floors=old.floors | {slot.name: slot.version},
            )
        )

    def fail(self, digest: str, attempt: int, detail: str) -> None:
        """An order was refused or failed; what was good stays."""
        failure = Failure(digest, attempt, detail)
        self._save(replace(self.state, trial=None, failure=failure))

    def clear(self, attempt: int) -> None:
        """Nothing is to run; what ran stays in the other slot."""
        old = self.state
        self._save(SlotState(previous=old.good or old.previous, attempt=attempt, floors=old.floors))

    def discard(self, digest: str) -> None:
        """Gives up an artifact's download or leftover, if there can be one under that name."""
        if self.is_leftover(digest):
            self._leftovers -= {digest}
            self.forget(digest)
        if _DIGEST.fullmatch(digest):
            self.sealed_path(digest).with_suffix(".part").unlink(missing_ok=True)

    def forget(self, digest: str) -> None:
        """Removes the file of an artifact that turned out to be damaged; it can be fetched anew."""
        self.sealed_path(digest).unlink(missing_ok=True)

    def _save(self, state: SlotState) -> None:
        try:
            write_atomic(self._folder / _STATE, json.dumps(asdict(state), indent=1).encode())
            self.state = state
            self._tidy()
        except OSError as error:
            raise _disk_error(error) from error

    def _needed(self) -> set[str]:
        state = self.state
        slots = (state.good, state.previous, state.trial.slot if state.trial else None)
        return {slot.digest for slot in slots if slot} | self._leftovers

    def _tidy(self) -> None:
        """Removes complete files that no slot needs; downloads under way stay."""
        needed = self._needed()
        stale = [path for path in self._folder.glob("*.sealed") if path.stem not in needed]
        for path in stale:
            path.unlink(missing_ok=True)
        if stale:
            sync_folder(self._folder)


def _state(values: dict[str, Any]) -> SlotState:
    def slot(value: dict[str, Any] | None) -> Slot | None:
        if not value:
            return None
        if not _DIGEST.fullmatch(value["digest"]):
            raise ValueError("a slot without a digest")
        return Slot(value["digest"], str(value["name"]), int(value["version"]))

    trial = values["trial"]
    failure = values["failure"]
    return SlotState(
        good=slot(values["good"]),
        previous=slot(values["previous"]),
        trial=_trial(slot(trial["slot"]), trial) if trial else None,
        failure=Failure(**failure) if failure else None,
        attempt=int(values["attempt"]),
        floors={str(name): int(version) for name, version in values["floors"].items()},
    )


def _trial(slot: Slot | None, values: dict[str, Any]) -> Trial:
    if slot is None:
        raise ValueError("a trial of nothing")
    return Trial(slot, int(values["attempt"]), int(values["starts"]))


def _disk_error(error: OSError) -> ResourceExhausted:
    return ResourceExhausted(
        f"the artifacts' folder cannot be written: {error.strerror}", "free or repair the disk"
    )
