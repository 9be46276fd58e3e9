"""Child processes of the demo: started from this interpreter, logged to a file, always ended."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

from camsdk.errors import DeadlineExceeded, Unavailable

_LOG_TAIL_LINES: Final = 5


class CamctlProcess:
    """One ``camctl`` command in a process of its own.

    Args:
        name: For messages, such as ``cloud``.
        arguments: Of camctl.
        log_path: Takes its standard error.
    """

    def __init__(self, name: str, arguments: Sequence[str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "camsdk.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._watched = psutil.Process(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def read_ready_line(self) -> Mapping[str, Any]:
        """Waits for the one JSON line that a server prints once it serves.

        Raises:
            Unavailable: It ended before, or said why it cannot serve.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise Unavailable(f"the {self.name} ended at its start: {self.log_tail()}")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            self.stop()
            error = answer["error"]
            raise Unavailable(f"the {self.name} did not start: {error['message']}", error["hint"])
        return answer

    def check_running(self) -> None:
        """Raises :class:`Unavailable` with the end of its log if it has ended with an error."""
        code = self._process.poll()
        if code not in (None, 0):
            raise Unavailable(f"the {self.name} ended with code {code}: {self.log_tail()}")

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself, well."""
        self.check_running()
        return self._process.poll() == 0

    def wait(self, timeout_s: float) -> None:
        """Waits until it ends by itself, well.

        Raises:
            DeadlineExceeded: It still runs.
            Unavailable: It ended with an error.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(
                f"the {self.name} has not finished after {timeout_s:.0f} s",
                f"its log is {self.log_path}",
            ) from error
        self.check_running()

    def rss_bytes(self) -> dict[str, int]:
        """Resident memory now, of ``process`` and of its ``children`` together; 0 once ended.

        Pages that both share count twice, so the sum errs on the high side.
        """
        try:
            own = self._watched.memory_info().rss
            descendants = self._watched.children(recursive=True)
        except psutil.NoSuchProcess:
            return {"process": 0, "children": 0}
        children = 0
        for child in descendants:
            try:
                children += child.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return {"process": own, "children": children}

    def log_tail(self) -> str:
        """The last lines of its log."""
        lines = self.log_path.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-_LOG_TAIL_LINES:]) or "it logged nothing"

    def stop(self, timeout_s: float = 15.0) -> None:
        """Asks it to end, then ends it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def wait_until(
    condition: Callable[[], bool], timeout_s: float, what: str, interval_s: float = 0.1
) -> None:
    """Polls ``condition()`` until it is true.

    Raises:
        DeadlineExceeded: It was not within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(interval_s)
