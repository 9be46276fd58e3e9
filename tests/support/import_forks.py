"""The child process of an import without its start: a fork of one process that has loaded all.

A start costs half a second of processor time, a fork some milliseconds, and the matrix of hostile
files needs hundreds. A fork has the limits, the working directory and the standard streams that
``sandbox.run_limited`` gives its child, and it runs the same function. What it used is measured.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from camsdk.compress.importers.sandbox import IMPORTERS, Said, serve
from camsdk.errors import DeadlineExceeded

_POLL_S = 0.002
_FILE_BYTES = 576 << 20


class Forks:
    """The server, and what the last of its forks used.

    Attributes:
        seconds: Of processor time.
        memory_bytes: Most that was resident, over what was when it started.
    """

    def __init__(self) -> None:
        self.seconds, self.memory_bytes = 0.0, 0
        paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "support.import_forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads, "PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *of_error: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(10)

    def run_limited(
        self,
        command: Sequence[str],
        *,
        timeout_s: float,
        memory_bytes: int,
        cwd: str,
    ) -> Said:
        """Stands for ``sandbox.run_limited``, for the command of an import."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        row = {"task": command[-1], "timeout_s": timeout_s, "memory_bytes": memory_bytes}
        self._server.stdin.write(json.dumps(row | {"cwd": cwd}).encode() + b"\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        self.seconds, self.memory_bytes = answer["seconds"], answer["memory_bytes"]
        if answer["is_late"]:
            raise DeadlineExceeded(f"the import has not finished after {timeout_s:g} s")
        return Said(answer["code"], (Path(cwd) / "said.txt").read_text(errors="replace"))


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    pid = os.fork()
    if pid == 0:
        _be_child(row)
    deadline_s = time.monotonic() + row["timeout_s"]
    is_late, done, status, used = False, 0, 0, None
    while not done:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if not done and not is_late and time.monotonic() > deadline_s:
            is_late = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0 if done else _POLL_S)
    assert used is not None
    return {
        "code": os.waitstatus_to_exitcode(status),
        "is_late": is_late,
        "seconds": used.ru_utime + used.ru_stime,
        "memory_bytes": max(0, used.ru_maxrss * 1024 - _resident_bytes()),
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _be_child(row: Mapping[str, Any]) -> None:
    os.chdir(row["cwd"])
    for stream, name in ((0, os.devnull), (1, "said.txt"), (2, "said.txt")):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, stream)
    limits = {
        resource.RLIMIT_AS: row["memory_bytes"],
        resource.RLIMIT_CPU: int(4 * row["timeout_s"]) + 1,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    code = 1
    try:
        serve(json.loads(row["task"]))
        code = 0
    finally:
        if code:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(code)


def _load_all() -> None:
    import importlib

    for name, _ in IMPORTERS.values():
        importlib.import_module(f"camsdk.compress.importers.{name}")


if __name__ == "__main__":
    _load_all()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()
