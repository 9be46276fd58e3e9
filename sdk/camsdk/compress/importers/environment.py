"""TensorFlow in a virtual environment of the tool's own, made when it is first needed.

TensorFlow is never a dependency of ours: it is 1.6 GB and pins what others need. So it lives in the
user's cache folder, installed by pip at fixed versions, and is only ever run as a child process
with a deadline, a limit of memory and no standard input. A new environment is built beside its
place and renamed into it: one that was interrupted is never used and is removed the next time.
"""

import fcntl
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import platformdirs

from camsdk.compress.importers.sandbox import Said, run_limited
from camsdk.errors import (
    DataCorrupted,
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
    UnsupportedModel,
)

REQUIREMENTS: Final = (
    "tensorflow-cpu==2.21.0" if platform.machine() == "x86_64" else "tensorflow==2.21.0",
    "tf2onnx==1.17.0",
    "keras==3.15.1",
    "numpy==2.4.6",
    "onnx==1.23.2",
    "protobuf==7.36.2",
    "flatbuffers==25.12.19",
)
"""They install together on Python 3.11 and convert what the tests hold."""

FREE_BYTES: Final = 4 << 30
"""What pip needs at most while it installs them."""

INSTALL_TIMEOUT_S: Final = 1800.0
LOCK_TIMEOUT_S: Final = 1900.0
RUN_TIMEOUT_S: Final = 300.0
RUN_MEMORY_BYTES: Final = 16 << 30
"""Of address space; TensorFlow maps several GiB that it never touches."""

CHILD: Final = Path(__file__).with_name("environment_child.py")
_POLL_S: Final = 0.5
_LAST_CHARACTERS: Final = 300
_QUIET: Final = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": ""}

Progress = Callable[[str], None]


def freeze(folder: Path, target: Path, *, on_progress: Progress | None = None) -> tuple[str, ...]:
    """Freeze a SavedModel's serving signature into a ``GraphDef``; the names of its outputs.

    Raises:
        Unavailable, DeadlineExceeded, ResourceExhausted: The environment cannot be had, or
            TensorFlow ran into a limit.
        UnsupportedModel: TensorFlow cannot load or freeze it.
    """
    with tempfile.TemporaryDirectory(prefix="camsdk-freeze-") as work:
        facts = Path(work) / "facts.json"
        arguments = ["freeze", str(folder.absolute()), str(target), str(facts)]
        said = run(arguments, work, target.parent, on_progress)
        if said.code != 0 or not target.is_file() or not facts.is_file():
            raise UnsupportedModel(
                f"TensorFlow cannot freeze {folder}: {said.text}",
                "export the model for serving: model.export(folder)",
            )
        try:
            return tuple(map(str, json.loads(facts.read_bytes())["outputs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataCorrupted(f"what TensorFlow said of {folder} is not understood") from error


def convert_tflite(path: Path, target: Path, *, on_progress: Progress | None = None) -> None:
    """Convert a TensorFlow Lite file with tf2onnx; what it writes is not checked yet.

    Raises:
        As ``freeze``.
    """
    with tempfile.TemporaryDirectory(prefix="camsdk-tflite-") as work:
        arguments = ["tflite", str(path.absolute()), str(target)]
        said = run(arguments, work, target.parent, on_progress)
        if said.code != 0 or not target.is_file():
            raise UnsupportedModel(
                f"tf2onnx cannot convert {path}: {said.text}",
                "give the model that it was made from, as a SavedModel or ONNX file",
            )


def run(
    arguments: Sequence[str], work: str, results: Path, on_progress: Progress | None = None
) -> Said:
    """Run ``environment_child.py`` in the environment, which is made if it is not there.

    Args:
        work: Folder that it runs in.
        results: Folder of what it writes; both alone may be written to.
    """
    python = ensure(on_progress=on_progress)
    (on_progress or _silent)("converting with TensorFlow")
    return run_limited(
        [str(python), "-I", str(CHILD), *arguments],
        timeout_s=RUN_TIMEOUT_S,
        memory_bytes=RUN_MEMORY_BYTES,
        cwd=work,
        writable=[results],
        environment=_QUIET,
    )


def location(root: Path | None = None) -> Path:
    """Where the environment of these requirements and this Python lies, or will.

    Args:
        root: Instead of the user's cache folder.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256("\n".join((version, *REQUIREMENTS)).encode()).hexdigest()[:16]
    base = root or Path(platformdirs.user_cache_dir("camplatform")) / "environments"
    return base / f"tensorflow-{key}"


def ensure(*, root: Path | None = None, on_progress: Progress | None = None) -> Path:
    """The environment's Python; makes the environment if it is not there.

    Safe to call from several processes at once: one makes it, the others wait.

    Raises:
        Unavailable: pip cannot install it; says why.
        DeadlineExceeded: pip, or the other process that makes it, has not finished in time.
        ResourceExhausted: The disk has too little space.
    """
    place = location(root)
    python = place / "bin" / "python"
    if python.exists():
        return python
    tell = on_progress or _silent
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_suffix(".lock"), tell):
            if not python.exists():
                _make(place, tell)
    except OSError as error:
        raise Unavailable(
            f"no environment can be made in {place.parent}: {error.strerror}",
            "the user's cache folder must be writable",
        ) from error
    return python


def _make(place: Path, tell: Progress) -> None:
    part = place.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    if shutil.disk_usage(place.parent).free < FREE_BYTES:
        raise ResourceExhausted(
            f"{place.parent} has less than {FREE_BYTES >> 30} GiB free", "free some space"
        )
    tell("making an environment for TensorFlow (1.6 GB, once)")
    _run([sys.executable, "-m", "venv", str(part)])
    tell(f"installing {', '.join(REQUIREMENTS[:2])}")
    pip = [str(part / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", "--no-input", "--only-binary=:all:", *REQUIREMENTS])
    part.rename(place)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(
            f"pip has not finished after {INSTALL_TIMEOUT_S:g} s", "is the network slow?"
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = " ".join(lines or done.stderr.splitlines())[-_LAST_CHARACTERS:]
        raise Unavailable(
            f"TensorFlow cannot be installed: {said or done.returncode}",
            "pip needs a package index that has it; or freeze and convert the model elsewhere "
            "and import the .pb or .onnx file",
        )


@contextmanager
def _locked(path: Path, tell: Progress) -> Iterator[None]:
    """Holds a lock that the system lets go of when the process dies."""
    with path.open("ab") as file:
        deadline, has_told = time.monotonic() + LOCK_TIMEOUT_S, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(
                        "another process still makes the TensorFlow environment",
                        f"end it, or wait; it holds {path}",
                    ) from None
                if not has_told:
                    tell("waiting for another process that makes the environment")
                    has_told = True
                time.sleep(_POLL_S)
        yield


def _silent(text: str) -> None:
    """Nobody listens."""
