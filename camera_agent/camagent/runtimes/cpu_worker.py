"""The process that holds one model: onnxruntime and numpy, nothing else, nothing but limits.

Started by ``camagent.runtimes.cpu`` as ``python -m camagent.runtimes.cpu_worker SETTINGS``. It
answers frames (``camagent.runtimes.channel``): the first is the model, each further one names the
dtype and shape of an input that lies in the shared memory. Answers are JSON: what was done, or
``error``; and ``cpu_s``, the CPU time of this process so far.

A model is hostile until proven otherwise, so before it is seen this process gives up resources and
system calls (``camagent.runtimes.confine``), unpacks it if it is packed
(``camsdk.artifact.packed``) and checks it (``camsdk.artifact.onnx_check``); around loading and each
inference a timer is armed whose signal kills this process, whatever code holds the interpreter.
When the agent dies, the socket ends and so does this process.
"""

import contextlib
import ctypes
import gc
import json
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from camagent.runtimes.channel import DTYPES, Channel
from camagent.runtimes.confine import deny_system_calls, limit_resources
from camsdk.artifact.onnx_check import check_model
from camsdk.errors import CamError, UnsupportedModel

PACKED_MAGIC: Final = b"CAMQMDL1"
"""As in ``camsdk.artifact.packed``, which would bring numpy for models that are refused."""
_ALIGNMENT: Final = 64
_GRACE_S: Final = 1.0  # the agent's deadline comes first and is the better error
_MAX_ERROR_CHARACTERS: Final = 400


@dataclass(frozen=True)
class WorkerSettings:
    """What the agent tells the process, as JSON in its one argument.

    Attributes:
        socket_fd, memory_fd: Inherited descriptors of the channel and the shared memory.
        tensor_limit_bytes: Room for the input, and again for all outputs.
        model_limit_bytes: Largest model.
        memory_limit_bytes: Of address space, libraries and shared memory included.
        threads: That compute one inference.
        load_deadline_s, infer_deadline_s: After which this process kills itself, plus a grace.
        operators: Allowed, of ONNX's own domain.
    """

    socket_fd: int
    memory_fd: int
    tensor_limit_bytes: int
    model_limit_bytes: int
    memory_limit_bytes: int
    threads: int
    load_deadline_s: float
    infer_deadline_s: float
    operators: tuple[str, ...]

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def main() -> None:
    """Serve one model until the agent closes the channel."""
    settings = WorkerSettings(**json.loads(sys.argv[1]))
    warning = _confine(settings)
    channel = Channel(socket.socket(fileno=settings.socket_fd), settings.model_limit_bytes)
    with contextlib.suppress(CamError):  # the channel has ended: so has the work
        model = channel.receive()
        with _deadline(settings.load_deadline_s):
            worker, reply = _try_load(settings, model)
        del model
        _release_unused_memory()
        _reply(channel, reply | {"warning": warning})
        while worker is not None:
            request = channel.receive()
            with _deadline(settings.infer_deadline_s):
                reply = worker.answer(request)
            _reply(channel, reply)


def _confine(settings: WorkerSettings) -> str:
    """Give up what is not needed; what could not be given up, or empty."""
    os.chdir("/")
    limit_resources(settings.memory_limit_bytes)
    problem = deny_system_calls()
    # The default action kills in the kernel; a Python handler would wait for the interpreter.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    return f"system calls are not filtered: {problem}" if problem else ""


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _reply(channel: Channel, reply: dict[str, Any]) -> None:
    reply["cpu_s"] = time.process_time()
    channel.send(json.dumps(reply).encode())


def _error(error: Exception) -> dict[str, Any]:
    text = " ".join(str(error).split()) or type(error).__name__
    return {"error": text[:_MAX_ERROR_CHARACTERS]}


def _try_load(settings: WorkerSettings, model: bytes) -> "tuple[Worker | None, dict[str, Any]]":
    try:
        worker = Worker(settings, model)
    except Exception as error:  # noqa: BLE001 - outermost loop; onnxruntime's errors share no base
        return None, _error(error)
    return worker, worker.description


def _release_unused_memory() -> None:
    """Give back what only loading needed; glibc would keep it: 30 MiB for a model of 15 MiB."""
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
    if trim is not None:
        trim(0)


class Worker:
    """One loaded model over the shared memory."""

    def __init__(self, settings: WorkerSettings, model: bytes) -> None:
        if model.startswith(PACKED_MAGIC):
            from camsdk.artifact.packed import unpack

            model = unpack(model, max_bytes=settings.model_limit_bytes)
        check_model(model, frozenset(settings.operators))
        # Here, not above: nothing of the model's runtime is loaded for a model that is refused.
        import numpy as np
        import onnxruntime as ort

        self._np = np
        self._limit = settings.tensor_limit_bytes
        self._memory = mmap.mmap(settings.memory_fd, 2 * self._limit)
        os.close(settings.memory_fd)  # mmap holds its own
        self._session = ort.InferenceSession(
            model, sess_options=_session_options(ort, settings), providers=["CPUExecutionProvider"]
        )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1:
            raise UnsupportedModel(f"the model has {len(inputs)} inputs, not 1")
        self._input = inputs[0].name
        self._outputs = [output.name for output in outputs]
        self.description: dict[str, Any] = {
            "input": {
                "type": inputs[0].type,
                "shape": [size if isinstance(size, int) else -1 for size in inputs[0].shape],
            }
        }

    def answer(self, request: bytes) -> dict[str, Any]:
        """Run on the input that lies in the shared memory; the outputs go there too."""
        try:
            header = json.loads(request)
            tensor: Any = self._np.ndarray(header["shape"], header["dtype"], self._memory)
            results = self._session.run(self._outputs, {self._input: tensor})
            return {"outputs": self._place(results)}
        except Exception as error:  # noqa: BLE001 - outermost loop; onnxruntime's errors share no base
            return _error(error)

    def _place(self, results: list[Any]) -> list[dict[str, Any]]:
        """Copy the outputs one after the other into their half; where each of them lies."""
        placed = []
        offset = self._limit
        for name, value in zip(self._outputs, results, strict=True):
            if not isinstance(value, self._np.ndarray) or value.dtype.name not in DTYPES:
                raise UnsupportedModel(f"the output {name} is not a tensor of numbers")
            if offset + value.nbytes > 2 * self._limit:
                raise UnsupportedModel(f"the outputs have more than {self._limit} bytes")
            target: Any = self._np.ndarray(value.shape, value.dtype, self._memory, offset)
            target[...] = value
            placed.append(
                {"dtype": value.dtype.name, "shape": list(value.shape), "offset": offset}
                | {"name": name}
            )
            offset += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
        return placed


def _session_options(ort: Any, settings: WorkerSettings) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads sleep: a camera has other work for the core between two frames.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Else bytes that also look like onnxruntime's own format would be read as that, unchecked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


if __name__ == "__main__":
    main()
