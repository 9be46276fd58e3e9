"""Time of an inference, measured by engine: every model in turn, again and again, on one thread.

CPU time and not the clock: it is steadier on a machine that does other things too, and on one
thread it is what an idle machine's clock would say. Predictions are another matter (``latency``).
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol

import numpy as np
import onnxruntime

from camsdk.compress.sessions import Array, Session
from camsdk.errors import RuntimeFailure

Engine = Literal["onnxruntime", "OpenVINO", "MNN"]

MODULE_OF: Final[Mapping[Engine, str]] = {
    "onnxruntime": "onnxruntime",
    "OpenVINO": "openvino",
    "MNN": "MNN",
}
"""What is imported, by engine."""
NOT_INSTALLED: Final = "not installed"
_LEAST_RUNS: Final = 3
_MOST_CHARACTERS: Final = 200
_TIMEOUT_S: Final = 120.0
"""Of one process that times a model, from its start to its end."""


@dataclass(frozen=True)
class Entry:
    """A model to time in an engine.

    Attributes:
        variant: Which of the models it is, such as ``float``.
        content: The serialized model in the engine's format, None where there is none.
        reason: Why, then.
    """

    engine: Engine
    variant: str
    content: bytes | None
    reason: str = ""


@dataclass(frozen=True)
class Timing:
    """How long a model took in an engine.

    Attributes:
        engine, variant: As in ``Entry``.
        version: Of the engine.
        median_ms: CPU milliseconds of one inference on one thread, None where it was not measured.
        low_ms, high_ms: The quartiles.
        runs: How many the median is of.
        reason: Why it was not measured.
    """

    engine: Engine
    variant: str
    version: str = ""
    median_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    runs: int = 0
    reason: str = ""


def is_installed(engine: Engine) -> bool:
    """Whether it can be imported."""
    return find_spec(MODULE_OF[engine]) is not None


def time_engines(
    entries: Sequence[Entry], tensor: Array, *, runs: int = 15, budget_s: float = 10.0
) -> tuple[Timing, ...]:
    """Time all models on one input.

    Args:
        entries: In the order of the result.
        tensor: Of the models' input.
        runs: Rounds in which each model runs once.
        budget_s: After so many seconds of the clock no more rounds are begun, but three are run.
    """
    with ExitStack() as stack:
        runners: list[_Runner | str] = [_start(entry, tensor, stack) for entry in entries]
        times: list[list[float]] = [[] for _ in entries]
        deadline_s = time.monotonic() + budget_s
        for number in range(runs):
            if number >= _LEAST_RUNS and time.monotonic() > deadline_s:
                break
            for index, runner in enumerate(runners):
                if not isinstance(runner, str):
                    try:
                        times[index].append(runner.run())
                    except RuntimeFailure as error:
                        runners[index] = str(error)
        return tuple(
            _timing(entry, runner, spent)
            for entry, runner, spent in zip(entries, runners, times, strict=True)
        )


def _timing(entry: Entry, runner: "_Runner | str", spent_ms: Sequence[float]) -> Timing:
    if isinstance(runner, str):
        return Timing(entry.engine, entry.variant, reason=runner)
    low, median, high = (float(value) for value in np.percentile(spent_ms, (25, 50, 75)))
    return Timing(entry.engine, entry.variant, runner.version, median, low, high, len(spent_ms))


class _Runner(Protocol):
    version: str

    def run(self) -> float:
        """One inference, in milliseconds."""


def _start(entry: Entry, tensor: Array, stack: ExitStack) -> "_Runner | str":
    """A runner that has run once, or why there is none."""
    if not is_installed(entry.engine):
        return NOT_INSTALLED
    if entry.content is None:
        return entry.reason
    try:
        if entry.engine == "onnxruntime":
            return _InProcess(entry.content, tensor)
        return stack.enter_context(_Child(entry.engine, entry.content, tensor))
    except RuntimeFailure as error:
        return str(error)


class _InProcess:
    """onnxruntime, whose sessions of one thread compute in the calling thread."""

    version: str = onnxruntime.__version__

    def __init__(self, content: bytes, tensor: Array) -> None:
        self._session, self._tensor = Session(content), tensor
        self.run()

    def run(self) -> float:
        start_ns = time.thread_time_ns()
        self._session.infer(self._tensor)
        return (time.thread_time_ns() - start_ns) / 1e6


class _Child:
    """Another engine, in a process of its own that is ended after two minutes at the latest."""

    def __init__(self, engine: Engine, content: bytes, tensor: Array) -> None:
        self._engine = engine
        self._folder = tempfile.TemporaryDirectory(prefix="camsdk-timing-")
        folder = Path(self._folder.name)
        (folder / "model").write_bytes(content)
        np.save(folder / "input.npy", tensor, allow_pickle=False)
        self._errors = (folder / "errors").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "camsdk.compress.timing_child", MODULE_OF[engine]),
                *(str(folder / "model"), str(folder / "input.npy")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
        )
        self._timer = threading.Timer(_TIMEOUT_S, self._process.kill)
        self._timer.daemon = True  # the end of this process does not wait for it
        try:
            self._timer.start()
            self.version = self._read()
        except BaseException:  # Ctrl-C, too: an engine may take seconds to start
            self._close()
            raise

    def run(self) -> float:
        """One inference, in milliseconds.

        Raises:
            RuntimeFailure: The process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
        except OSError as error:
            raise RuntimeFailure(f"{self._engine} failed: {self._said()}") from error
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeFailure(f"{self._engine} failed: {self._said()}")
        return line

    def _said(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return last[:_MOST_CHARACTERS] or f"its process ended with {code}"

    def _close(self) -> None:
        self._timer.cancel()
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was to be written has no reader any more
                continue
        self._process.wait()
        self._errors.close()
        self._folder.cleanup()

    def __enter__(self) -> "_Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
