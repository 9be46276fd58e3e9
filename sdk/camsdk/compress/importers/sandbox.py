"""Runs an importer in a process of its own, with a deadline and a limit of memory.

A model file from a stranger can be made to take any time and any memory, or to crash a library. So
the importer runs in a child without standard input, which can write to its working folder alone and
connect to nothing (``confinement``), and only a checked ONNX file comes back. This
module is both sides: ``python -m camsdk.compress.importers.sandbox`` is the child.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError

from camsdk.compress.importers.runnable import MAX_FILE_BYTES, read_limited
from camsdk.errors import (
    ERROR_BY_REASON,
    WIRE_ERRORS,
    CamError,
    DataCorrupted,
    DeadlineExceeded,
    ResourceExhausted,
    UnsupportedModel,
)

MODULE: Final = "camsdk.compress.importers.sandbox"
TIMEOUT_S: Final = 120.0
MEMORY_BYTES: Final = 4 << 30
"""Of address space, which is more than what is resident: onnxruntime alone maps half of a GiB."""

IMPORTERS: Final[dict[str, tuple[str, str]]] = {
    "onnx": ("onnx_file", "import_onnx_file"),
    "pytorch": ("pytorch", "import_pytorch"),
    "tensorflow": ("tensorflow", "import_frozen_graph"),
    "tfjs": ("tfjs", "import_graph_model"),
    "caffe": ("caffe", "import_caffe"),
    "mxnet": ("mxnet", "import_mxnet"),
    "tflite": ("tflite", "import_converted"),
}
"""Module and function by name; that of TensorFlow Lite takes what tf2onnx made of the file."""

_WAYS_OUT: Final[Mapping[type[CamError], str]] = {
    DataCorrupted: "the file may be truncated: fetch it again, or export the model again",
    ResourceExhausted: "models for cameras are smaller",
    UnsupportedModel: "export the model without it, or as ONNX",
    CamError: "see `camctl model import --help`",
}
"""What to do about an error that does not say it itself."""

_NO_MEMORY: Final = ("MemoryError", "bad_alloc", "failed to map segment", "allocate memory")
_LAST_CHARACTERS: Final = 300
_MESSAGE_BYTES: Final = 1 << 16
_MESSAGE_CHARACTERS: Final = 1000
_SPARE_FILE_BYTES: Final = 64 << 20
_THREADS: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"), "1"
) | {"ORT_DISABLE_TELEMETRY": "1"}


def run_importer(
    name: str,
    paths: Sequence[Path],
    options: Mapping[str, Any] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> onnx.ModelProto:
    """Run one of ``IMPORTERS`` in a child.

    Args:
        name: Key of ``IMPORTERS``.
        paths: Positional arguments of its function.
        options: Its keyword arguments: shapes by name, lists of names, and so on, as JSON has them;
            lists of integers arrive as tuples.
        timeout_s: Wall-clock deadline; the child and its children are killed then.
        memory_bytes: Limit of the child's address space (``RLIMIT_AS``).

    Returns:
        The model that it wrote, after ONNX's checker has seen it there.

    Raises:
        CamError: What the importer raised.
        DeadlineExceeded: Not finished in time.
        ResourceExhausted: It needed more memory.
        UnsupportedModel: It crashed.
    """
    with tempfile.TemporaryDirectory(prefix="camsdk-import-") as folder:
        target, failure = Path(folder) / "model.onnx", Path(folder) / "failure.json"
        task = {
            "name": name,
            "paths": [str(path.absolute()) for path in paths],
            "options": dict(options or {}),
            "target": str(target),
            "failure": str(failure),
        }
        command = [sys.executable, "-m", MODULE, json.dumps(task)]
        said = run_limited(command, timeout_s=timeout_s, memory_bytes=memory_bytes, cwd=folder)
        if failure.is_file():
            raise read_failure(failure)
        if said.code != 0 or not target.is_file():
            raise _died(said, name)
        return read_model(target)


def read_model(path: Path) -> onnx.ModelProto:
    """The model in a file that a child wrote.

    Raises:
        UnsupportedModel: It is no ONNX.
        ResourceExhausted: It is too large.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_limited(path))
    except DecodeError as error:
        raise UnsupportedModel(f"the importer wrote no ONNX: {error}") from error
    return model


class Said:
    """How a child ended: its exit code, negative for a signal, and the end of what it said."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = " ".join(text.split())[-_LAST_CHARACTERS:]


def run_limited(
    command: Sequence[str],
    *,
    timeout_s: float,
    memory_bytes: int,
    cwd: str,
    writable: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
) -> Said:
    """Run a program in a group of its own, without input, within limits.

    Args:
        command: A path and its arguments.
        timeout_s: Wall-clock deadline.
        memory_bytes: Of address space.
        cwd: The folder that it runs in and may write to.
        writable: Other folders that it may write to.
        environment: Variables besides those of this process.

    Raises:
        DeadlineExceeded: It was killed, with all that it started.
    """
    log_path = Path(cwd) / "said.txt"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            _limited([*_confined(cwd, writable), *command], memory_bytes, timeout_s),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=cwd,
            env={**os.environ, **_THREADS, "TMPDIR": cwd, **(environment or {})},
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(
                f"the import has not finished after {timeout_s:g} s", "is the model that large?"
            ) from error
        finally:
            _kill_group(process)
    data = log_path.read_bytes()[-_MESSAGE_BYTES:]
    return Said(code, data.decode(errors="replace"))


def _confined(cwd: str, writable: Sequence[Path]) -> list[str]:
    script = str(Path(__file__).with_name("confinement.py"))
    return [sys.executable, "-I", "-S", script, cwd, *map(str, writable), "--"]


def _limited(command: Sequence[str], memory_bytes: int, timeout_s: float) -> list[str]:
    """The command behind a shell that sets the limits: safe with threads, unlike ``preexec_fn``."""
    blocks = (MAX_FILE_BYTES + _SPARE_FILE_BYTES) >> 9
    script = (
        f"ulimit -v {memory_bytes >> 10}; ulimit -t {int(4 * timeout_s) + 1}; ulimit -c 0;"
        f" ulimit -f {blocks}"
    )
    return ["/bin/sh", "-c", f'{script}; exec "$@"', "sh", *command]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_failure(path: Path) -> CamError:
    """What ``write_failure`` wrote."""
    try:
        row = json.loads(path.read_bytes()[:_MESSAGE_BYTES])
        return ERROR_BY_REASON[row["reason"]](str(row["message"]), str(row["hint"]))
    except (ValueError, KeyError, TypeError) as error:
        return UnsupportedModel(f"what the importer said of the file is not understood: {error}")


def _died(said: Said, name: str) -> CamError:
    if lacks_memory(said.text) or said.code == -signal.SIGKILL:
        return ResourceExhausted(
            f"importing with {name!r} needs more memory than allowed", "give a smaller model"
        )
    if said.code == -signal.SIGXCPU:
        return DeadlineExceeded(f"importing with {name!r} used up its processor time")
    return UnsupportedModel(f"the importer {name!r} failed ({said.code}): {said.text}")


def lacks_memory(text: str) -> bool:
    """Whether a library says that memory could not be had."""
    return any(word in text for word in _NO_MEMORY)


def _frozen(value: Any) -> Any:
    """JSON's lists of integers are shapes, which are tuples."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def serve(task: Mapping[str, Any]) -> None:
    """The child: import, check, write the model or what is wrong."""
    from camsdk.compress.importers.runnable import runnable

    module_name, function = IMPORTERS[task["name"]]
    try:
        module = importlib.import_module(f"camsdk.compress.importers.{module_name}")
        paths = [Path(path) for path in task["paths"]]
        model = runnable(getattr(module, function)(*paths, **_frozen(task["options"])))
        content = model.SerializeToString()
    except MemoryError:
        write_failure(
            Path(task["failure"]), ResourceExhausted("importing needs more memory than allowed")
        )
        return
    except CamError as error:
        write_failure(Path(task["failure"]), error)
        return
    Path(task["target"]).write_bytes(content)


def write_failure(path: Path, error: CamError) -> None:
    """The child's error for its parent, with a way out."""
    classes = type(error).__mro__
    row = next(WIRE_ERRORS[cls] for cls in classes if cls in WIRE_ERRORS)
    hint = error.hint or next(_WAYS_OUT[cls] for cls in classes if cls in _WAYS_OUT)
    text = {"reason": row.reason, "message": _clipped(error.message), "hint": _clipped(hint)}
    path.write_text(json.dumps(text), encoding="utf-8")


def _clipped(text: str) -> str:
    """Some errors of Python's own repeat the whole file."""
    half = _MESSAGE_CHARACTERS // 2
    return text if len(text) <= 2 * half else f"{text[:half]} ... {text[-half:]}"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(json.loads(sys.argv[1]))
