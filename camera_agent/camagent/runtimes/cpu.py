"""The ``cpu`` runtime: onnxruntime in a process of its own, so that no model can hurt the agent.

A model that loops, eats memory or crashes the runtime costs its process, never the agent: the call
raises ``RuntimeFailure``, and the next one starts a fresh process. The model goes to it through a
socket and is never on disk in the clear; tensors go through shared memory. What the process is kept
from is told in ``camagent.runtimes.cpu_worker``.
"""

import json
import logging
import math
import mmap
import os
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from camagent.runtimes.base import Tensor
from camagent.runtimes.channel import DTYPES, make_shared_memory
from camagent.runtimes.child import Child
from camagent.runtimes.cpu_worker import WorkerSettings
from camsdk.artifact.onnx_check import DETECTOR_OPERATORS
from camsdk.errors import CamError, DataCorrupted, InvalidInput, RuntimeFailure

log = logging.getLogger(__name__)

_MIB: Final = 1 << 20
_MAX_OUTPUTS: Final = 64
_MAX_DIMENSIONS: Final = 8
_ORT_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


@dataclass(frozen=True)
class CpuSettings:
    """Bounds of one model.

    Attributes:
        threads: That compute one inference; 1 leaves the other cores to the cameras.
        load_deadline_s: Starting the process and optimising the graph; slow boards need seconds.
        infer_deadline_s: One inference, restart not included.
        memory_limit_mib: Address space of the process, MiB; about 300 is taken before any model.
        tensor_limit_mib: Largest input, and largest sum of outputs, MiB. Costs when used.
        model_limit_mib: Largest model file, MiB.
        operators: Allowed, of ONNX's own domain.
    """

    threads: int = 1
    load_deadline_s: float = 20.0
    infer_deadline_s: float = 2.0
    memory_limit_mib: int = 1024
    tensor_limit_mib: int = 32
    model_limit_mib: int = 512
    operators: frozenset[str] = DETECTOR_OPERATORS


class CpuRuntime:
    """See the module, and ``camagent.runtimes.base.Runtime`` for the interface."""

    def __init__(self, model: bytes, settings: CpuSettings) -> None:
        """Use ``start``."""
        if len(model) > settings.model_limit_mib * _MIB:
            raise RuntimeFailure(
                f"the model has {len(model)} bytes, over {settings.model_limit_mib} MiB"
            )
        self._model = model
        self._settings = settings
        self._lock = threading.Lock()
        self._limit = settings.tensor_limit_mib * _MIB
        self._memory_fd = make_shared_memory(2 * self._limit)
        self._memory = mmap.mmap(self._memory_fd, 2 * self._limit)
        self._child: Child | None = None
        self._input_dtype = ""
        self._input_shape: tuple[int, ...] = ()
        self._past_cpu_s = 0.0
        self._start_count = 0
        self._is_closed = False

    @classmethod
    def start(
        cls,
        model: bytes,
        *,
        threads: int = 1,
        load_deadline_s: float = 20.0,
        infer_deadline_s: float = 2.0,
        memory_limit_mib: int = 1024,
        operators: frozenset[str] = DETECTOR_OPERATORS,
    ) -> Self:
        """Load a model; arguments as in ``CpuSettings``.

        Raises:
            RuntimeFailure: It is refused, does not load, or not in time or memory.
        """
        settings = CpuSettings(
            threads=threads,
            load_deadline_s=load_deadline_s,
            infer_deadline_s=infer_deadline_s,
            memory_limit_mib=memory_limit_mib,
            operators=operators,
        )
        runtime = cls(model, settings)
        try:
            runtime._living_child()
        except BaseException:
            runtime.close()
            raise
        return runtime

    def infer(self, tensor: Tensor) -> dict[str, Tensor]:
        """As ``Runtime.infer``; a dead process is started again once, before the inference."""
        with self._lock:
            if self._is_closed:
                raise RuntimeFailure("the runtime is closed")
            reply = self._run(tensor)
            try:
                return self._read_outputs(reply)
            except (DataCorrupted, LookupError, TypeError, ValueError) as error:
                self._drop_child()
                raise RuntimeFailure("the model's process gave a reply without sense") from error

    @property
    def cpu_time_s(self) -> float:
        """CPU seconds of all processes of this model so far, as of their last reply."""
        child = self._child
        return self._past_cpu_s + (child.cpu_s if child is not None else 0.0)

    @property
    def rss_bytes(self) -> int:
        """Of the model's process; 0 between a failure and the next call."""
        child = self._child
        return child.rss_bytes if child is not None else 0

    @property
    def pid(self) -> int:
        """Of the model's process; 0 between a failure and the next call."""
        child = self._child
        return child.pid if child is not None else 0

    @property
    def restarts(self) -> int:
        """How often the process had to be started again."""
        return max(0, self._start_count - 1)

    def close(self) -> None:
        """End the process and free the shared memory; waits for a call that is under way."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._drop_child()
            self._memory.close()
            os.close(self._memory_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, tensor: Tensor) -> dict[str, Any]:
        starts = self._start_count
        child = self._living_child()
        request = self._write_input(tensor)
        try:
            return self._ask(child, request, self._settings.infer_deadline_s)
        except RuntimeFailure:
            # It was dead before this call, only not yet reaped: not this input's fault.
            if not child.has_left_unread or self._start_count > starts:
                raise
        return self._ask(self._living_child(), request, self._settings.infer_deadline_s)

    def _living_child(self) -> Child:
        if self._child is not None and self._child.is_alive:
            return self._child
        if self._child is not None:
            log.warning("the model's process has died: %s", self._child.last_words())
            self._drop_child()
        self._start_count += 1
        try:
            self._child = Child(self._worker_settings())
            reply = self._ask(self._child, self._model, self._settings.load_deadline_s)
            kind, shape = reply["input"]["type"], reply["input"]["shape"]
            self._input_shape = tuple(int(size) for size in shape)
            self._input_dtype = _ORT_DTYPES.get(kind, str(kind))
            if reply.get("warning"):
                log.warning("the model's process: %.200s", reply["warning"])
        except (CamError, LookupError, OverflowError, TypeError, ValueError) as error:
            self._drop_child()
            if isinstance(error, RuntimeFailure):
                raise
            raise RuntimeFailure(f"the model's process does not start: {error}") from error
        return self._child

    def _worker_settings(self) -> WorkerSettings:
        settings = self._settings
        return WorkerSettings(
            socket_fd=-1,  # the child's own, set where the socket pair is made
            memory_fd=self._memory_fd,
            tensor_limit_bytes=self._limit,
            model_limit_bytes=settings.model_limit_mib * _MIB,
            memory_limit_bytes=settings.memory_limit_mib * _MIB,
            threads=settings.threads,
            load_deadline_s=settings.load_deadline_s,
            infer_deadline_s=settings.infer_deadline_s,
            operators=tuple(sorted(settings.operators)),
        )

    def _ask(self, child: Child, request: bytes, timeout_s: float) -> dict[str, Any]:
        """One exchange; whatever goes wrong in it costs the process, except a stated error."""
        try:
            reply = child.ask(request, timeout_s)
        except CamError as error:
            self._drop_child()
            raise RuntimeFailure(f"the model failed: {error.message}", error.hint) from error
        if "error" in reply:
            raise RuntimeFailure(f"the model failed: {reply['error']}")
        return reply

    def _drop_child(self) -> None:
        # Gone, then counted: another thread may miss its cost for a moment, never see it twice.
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            self._past_cpu_s += child.cpu_s

    def _write_input(self, tensor: Tensor) -> bytes:
        expected = self._input_shape
        fits = len(expected) == tensor.ndim and all(
            size in (-1, actual) for size, actual in zip(expected, tensor.shape, strict=True)
        )
        if tensor.dtype.name != self._input_dtype or not fits:
            raise InvalidInput(
                f"the input is {tensor.dtype.name} {tensor.shape}, "
                f"not {self._input_dtype} {expected}",
                "make it as the manifest's input says",
            )
        if tensor.nbytes > self._limit:
            raise InvalidInput(f"the input has {tensor.nbytes} bytes, over {self._limit}")
        np.ndarray(tensor.shape, tensor.dtype, self._memory)[...] = tensor
        return json.dumps({"dtype": tensor.dtype.name, "shape": tensor.shape}).encode()

    def _read_outputs(self, reply: dict[str, Any]) -> dict[str, Tensor]:
        """Copies: the process may write the shared memory at any time."""
        outputs: dict[str, Tensor] = {}
        for row in reply["outputs"][:_MAX_OUTPUTS]:
            dtype, offset = row["dtype"], row["offset"]
            shape = tuple(row["shape"])
            if (
                dtype not in DTYPES
                or len(shape) > _MAX_DIMENSIONS
                or not _are_sizes(*shape, offset)
            ):
                raise DataCorrupted("an output is described wrongly")
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if offset < self._limit or offset + size > 2 * self._limit:
                raise DataCorrupted("an output lies outside of its memory")
            outputs[str(row["name"])] = np.ndarray(shape, dtype, self._memory, offset).copy()
        return outputs


def _are_sizes(*values: object) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 40 for value in values)
