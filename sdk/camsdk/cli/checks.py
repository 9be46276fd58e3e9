"""What ``camctl doctor`` looks at on this machine. Each check says how to mend what it finds."""

import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from camsdk.errors import AssetError

MIN_PYTHON = (3, 11)
LIGHT_PACKAGES = (
    "numpy", "grpcio", "protobuf", "pydantic", "cryptography", "zstandard", "PyYAML", "av",
    "opencv-python-headless", "onnxruntime", "lapx", "typer", "rich", "platformdirs", "psutil",
)  # fmt: skip
NATIVE_MODULES = ("cv2", "av", "onnxruntime", "lap", "grpc")
CLOUD_PACKAGES = ("sqlalchemy", "alembic", "faiss-cpu", "fsspec")
MIB = 1 << 20
FREE_WARNING_BYTES = 2048 * MIB
"""The model tarball, a day of events and some room."""
FREE_FAILED_BYTES = 256 * MIB
MIN_OPEN_FILES = 1024
"""A connected camera costs the cloud one file; the default of most systems."""


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"  # works, with a limit
    FAILED = "failed"  # something will not work
    SKIPPED = "skipped"  # could not be looked at


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        detail: What was found.
        hint: The way out; empty if all is well.
    """

    name: str
    verdict: Verdict
    detail: str
    hint: str = ""


def check_python() -> Check:
    """The interpreter is new enough."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= MIN_PYTHON:
        return Check("python", Verdict.OK, f"{found} at {sys.executable}")
    needed = ".".join(map(str, MIN_PYTHON))
    return Check("python", Verdict.FAILED, found, f"install Python {needed} or newer")


def _missing(names: tuple[str, ...]) -> list[str]:
    missing = []
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


def check_packages() -> Check:
    """Every package of the plain install is there, and the native ones load."""
    if missing := _missing(LIGHT_PACKAGES):
        return Check(
            "packages", Verdict.FAILED, f"missing: {', '.join(missing)}", "pip install camplatform"
        )
    for name in NATIVE_MODULES:
        try:
            import_module(name)
        except ImportError as error:
            return Check(
                "packages",
                Verdict.FAILED,
                f"{name} does not load: {error}",
                f"reinstall the package that has {name}; a system library may be missing",
            )
    detail = f"{len(LIGHT_PACKAGES)} present, {len(NATIVE_MODULES)} native modules load"
    return Check("packages", Verdict.OK, detail)


def check_cloud_packages() -> Check:
    """What ``camctl serve`` needs beyond the plain install."""
    if missing := _missing(CLOUD_PACKAGES):
        return Check(
            "cloud packages",
            Verdict.WARNING,
            f"missing: {', '.join(missing)}; `camctl serve` will not run here",
            "pip install 'camplatform[cloud]'",
        )
    return Check("cloud packages", Verdict.OK, "`camctl serve` can run here")


def check_disk(folder: Path) -> Check:
    """There is room where the data goes.

    Args:
        folder: Need not exist yet.
    """
    present = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(present).free
    detail = f"{free / (1024 * MIB):.1f} GiB free at {present}"
    if free >= FREE_WARNING_BYTES:
        return Check("disk", Verdict.OK, detail)
    verdict = Verdict.FAILED if free < FREE_FAILED_BYTES else Verdict.WARNING
    return Check("disk", verdict, detail, "free some space, or name another folder with --data")


def check_open_files() -> Check:
    """The process may hold a connection to every camera."""
    try:
        import resource
    except ImportError:  # not on Windows
        return Check("open files", Verdict.SKIPPED, "this system has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MIN_OPEN_FILES:
        return Check("open files", Verdict.OK, f"at most {soft}, one a connected camera")
    return Check(
        "open files",
        Verdict.WARNING,
        f"at most {soft} (hard limit {hard}), one a connected camera",
        f"ulimit -n {MIN_OPEN_FILES}, or LimitNOFILE= in the systemd unit",
    )


def check_video() -> Check:
    """A tiny clip, encoded here, decodes to the frames that went in."""
    try:
        import av
        import numpy as np
    except ImportError as error:
        return Check("video", Verdict.FAILED, f"PyAV does not load: {error}", "pip install av")
    wanted, size = 8, 64
    clip = io.BytesIO()
    try:
        with av.open(clip, "w", format="avi") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = size
            stream.pix_fmt = "yuv420p"
            for index in range(wanted):
                picture = np.full((size, size, 3), 16 + 16 * index, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        clip.seek(0)
        with av.open(clip, "r") as recording:
            count = len(list(recording.decode(video=0)))
    except av.error.FFmpegError as error:
        return Check("video", Verdict.FAILED, f"decoding failed: {error}", "reinstall PyAV")
    if count != wanted:
        return Check(
            "video", Verdict.FAILED, f"{count} of {wanted} frames came back", "reinstall PyAV"
        )
    return Check(
        "video", Verdict.OK, f"{count} frames encoded and decoded by PyAV {av.__version__}"
    )


def check_assets() -> Check:
    """The pinned models and clips are in the cache, undamaged."""
    from camsdk import assets

    known = assets.list_assets()
    present = [asset.name for asset in known if asset.is_present]
    for name in present:
        try:
            assets.verify(name)
        except AssetError as error:
            return Check("assets", Verdict.FAILED, error.message, error.hint)
    detail = f"{len(present)} of {len(known)} in the cache"
    if len(present) == len(known):
        return Check("assets", Verdict.OK, f"{detail}, undamaged")
    return Check("assets", Verdict.WARNING, detail, "camctl assets pull, before you are offline")


def local_checks(data_dir: Path) -> list[Callable[[], Check]]:
    """What can be looked at without a cloud."""
    return [
        check_python,
        check_packages,
        check_cloud_packages,
        lambda: check_disk(data_dir),
        check_open_files,
        check_video,
        check_assets,
    ]
