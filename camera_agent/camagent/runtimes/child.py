"""The agent's handle on a model's process: start it, ask it with a deadline, kill it, reap it."""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any, Final

import psutil

from camagent.runtimes.channel import MAX_REPLY_BYTES, Channel
from camagent.runtimes.cpu_worker import WorkerSettings
from camsdk.errors import DataCorrupted, DeadlineExceeded, Unavailable

log = logging.getLogger(__name__)

WORKER_MODULE: Final = "camagent.runtimes.cpu_worker"

_LAST_WORDS_BYTES: Final = 2000
_REAP_S: Final = 5.0
_LAST_BREATH_S: Final = 0.5  # between the end of the channel and the end of the process
_POLL_S: Final = 0.002
_KEPT_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TZ")
_ENVIRONMENT: Final = {
    # Thread pools of numpy's libraries would only cost memory: onnxruntime has its own.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # One heap for all threads keeps fragmentation, and so resident memory, low.
    "MALLOC_ARENA_MAX": "1",
    # onnxruntime >= 1.29 sends usage data, with hashes of graph and weights, unless told not to.
    "ORT_DISABLE_TELEMETRY": "1",
}


class Child:
    """One process. Not safe for use by two threads at once; properties are."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Start it.

        Args:
            settings: ``socket_fd`` is set here; ``memory_fd`` is inherited.

        Raises:
            Unavailable: No process can be started.
        """
        # Standard error goes to memory: bounded by the process' own limits, read when it has died.
        self._errors_fd = os.memfd_create("camagent-errors", os.MFD_CLOEXEC)
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours, MAX_REPLY_BYTES)
        self._cpu_s = 0.0
        settings = replace(settings, socket_fd=theirs.fileno())
        try:
            self._process = _start(settings, self._errors_fd)
        except OSError as error:
            self._channel.close()
            os.close(self._errors_fd)
            raise Unavailable(f"no process can be started: {error.strerror}") from error
        finally:
            theirs.close()
        log.debug("model process %d started", self._process.pid)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def has_left_unread(self) -> bool:
        """Whether it died before it had read its last request, so that nothing came of it."""
        return self._channel.has_left_unread

    @property
    def cpu_s(self) -> float:
        """CPU seconds as of its last reply, or in all once it has been killed."""
        return self._cpu_s

    @property
    def rss_bytes(self) -> int:
        """Resident memory, shared pages included; 0 when it is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def ask(self, request: bytes, timeout_s: float) -> dict[str, Any]:
        """Send a frame and wait for the reply, a JSON object.

        Raises:
            DeadlineExceeded: No reply in time.
            Unavailable: It has died; says how.
            DataCorrupted: The reply is no JSON object.
        """
        try:
            self._channel.send(request, timeout_s)
            data = self._channel.receive(timeout_s)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s") from error
        except Unavailable as error:
            self._reap(_LAST_BREATH_S)
            raise Unavailable(f"its process died, {self.last_words()}") from error
        try:
            reply = json.loads(data)
            cpu_s = float(reply["cpu_s"])
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            raise DataCorrupted("the reply does not decode") from error
        if math.isfinite(cpu_s):
            self._cpu_s = max(self._cpu_s, cpu_s)
        return dict(reply)

    def last_words(self) -> str:
        """How a dead process ended, and the last line it wrote to standard error."""
        code = self._process.returncode
        if code is None:
            how = "without a status"
        elif code < 0:
            how = f"by signal {_signal_name(-code)}"
        else:
            how = f"with status {code}"
        size = os.fstat(self._errors_fd).st_size
        tail = os.pread(self._errors_fd, _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES))
        lines = tail.decode(errors="replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {words}" if words else how

    def kill(self) -> None:
        """End it at once, reap it and free what it held. To be called exactly once."""
        self._channel.close()
        self._process.kill()
        self._reap(_REAP_S)
        os.close(self._errors_fd)

    def _reap(self, timeout_s: float) -> None:
        """Wait for its end, killing it when the time is up, and note what it cost."""
        give_up = time.monotonic() + timeout_s
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        try:
            # A zombie still tells its CPU time, so it is looked at before it is reaped.
            while os.waitid(os.P_PID, self.pid, options) is None and time.monotonic() < give_up:
                time.sleep(_POLL_S)
            times = psutil.Process(self.pid).cpu_times()
            self._cpu_s = max(self._cpu_s, times.user + times.system)
        except (ChildProcessError, psutil.Error):
            log.debug("model process %d was reaped before", self.pid)
        self._process.kill()
        self._process.wait()


def _start(settings: WorkerSettings, errors_fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", WORKER_MODULE, settings.to_json()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors_fd,
        pass_fds=(settings.socket_fd, settings.memory_fd),
        env=_environment(),
        start_new_session=True,  # Ctrl-C goes to the agent, which then ends this
    )


def _environment() -> dict[str, str]:
    """Of the process: enough to find the interpreter's modules, no secret of the agent's."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return kept | _ENVIRONMENT


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
