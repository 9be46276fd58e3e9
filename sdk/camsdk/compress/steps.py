"""Progress over the phases of a run, and how long each took."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from camsdk.compress.clips import ClipSplit
from camsdk.compress.options import CompressOptions
from camsdk.compress.ptq.synthetic import Synthesis

OnProgress = Callable[[int, int], None]
"""Called with steps done and steps in all."""

_RESOLUTION: Final = 1000


class Steps:
    """One count over phases of different work, so that the time left can be told from it.

    Attributes:
        durations: Seconds of each phase that has ended.
        name: Of the phase that began last.

    Args:
        work: Of each phase, in any unit that is the same for all; estimates will do. A phase that
            is not named counts as none.
        on_progress: Called as things go on; the count never falls.
        on_phase: Called with the name of each phase that begins.
    """

    def __init__(
        self,
        work: Mapping[str, float],
        on_progress: OnProgress | None,
        on_phase: Callable[[str], None] | None = None,
    ) -> None:
        self.durations: dict[str, float] = {}
        self.name = ""
        self._work = dict(work)
        self._total = sum(work.values()) or 1.0
        self._on_progress, self._on_phase = on_progress, on_phase
        self._finished = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[OnProgress]:
        """A phase; call what is given with the steps done and in all of this phase."""
        self.name = name
        if self._on_phase is not None:
            self._on_phase(name)
        start, work = time.monotonic(), self._work.pop(name, 0.0)

        def tell(done: int, total: int) -> None:
            self._tell(self._finished + work * min(1.0, done / max(1, total)))

        yield tell
        self._finished += work
        self._tell(self._finished)
        self.durations[name] = self.durations.get(name, 0.0) + time.monotonic() - start

    def finish(self) -> None:
        """All is done, whatever was left out."""
        self._tell(self._total)

    def _tell(self, done: float) -> None:
        if self._on_progress is not None:
            self._on_progress(int(_RESOLUTION * min(1.0, done / self._total)), _RESOLUTION)


def work_of(options: CompressOptions, split: ClipSplit | None) -> dict[str, float]:
    """Of each phase, in inferences of the float model, as measured on NanoDet."""
    inputs = len(split.calibration) if split is not None else Synthesis().count
    frames = len(split.evaluation) if split is not None else 0
    work = {"optimise": 20.0, "quantize": 20.0 * inputs, "emit": 60.0, "measure": 140.0}
    if frames:
        work |= {"evaluate": 4.0 * frames, "draw": 50.0}
    if options.prune is not None:
        work["quantize"] *= 1.6
    if options.budget is not None:
        budget = options.budget
        work["share out"] = 400.0 * len(budget.bit_widths) * len(budget.sparsities)
    if options.train is not None:
        work["train"] = 25.0 * options.train.epochs * inputs
        choice = len(split.choice) if split is not None else 0
        work |= {"emit trained": 60.0}
        work |= {f"compare {way}": 4.0 * choice for way in ("rounding", "training")}
    return work
