"""Fetching a package's archive with its registry's own client: npm, pip or apt-get.

A client runs in a folder of ours and may not run any script of the package. Its progress is the
growth of that folder, since none of the three tells it in a form to rely on. The folder is kept
when a fetch is cut off, so that a client that can go on from a partial file does.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from camsdk.assets.archives import OnProgress
from camsdk.assets.catalog import Package
from camsdk.errors import AssetError

STALL_TIMEOUT_S: Final = 180.0
"""A client that writes nothing for so long is ended: slow registries need a minute at times."""

_POLL_S: Final = 0.2
_INSTALL: Final = {
    "npm": "install Node.js with npm (Debian, Ubuntu: apt-get install npm)",
    "pip": "install pip (python -m ensurepip, or Debian: apt-get install python3-pip)",
    "apt": "apt-get comes with Debian and Ubuntu: pull it there",
}


@dataclass(frozen=True)
class _Failed(Exception):
    """A client ended with an error."""

    command: str
    code: int
    tail: str


def fetch(package: Package, folder: Path, on_progress: OnProgress) -> Path:
    """Fetch a package's archive.

    Args:
        package: What to fetch.
        folder: For the archive and the client's own files; may hold an earlier try's.
        on_progress: Bytes written, and the archive's size.

    Returns:
        The archive, not yet checked.

    Raises:
        AssetError: The client is missing, failed or stalled; the hint says how to proceed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _RUNNERS[package.client]
    try:
        run(
            package,
            folder,
            lambda done: on_progress(min(done, package.size_bytes), package.size_bytes),
        )
    except _Failed as error:
        raise AssetError(
            f"{error.command} could not fetch {package.package} {package.version} "
            f"(exit code {error.code}): {error.tail}",
            _way_out(package, "check the network and try again"),
        ) from error
    archive = folder / package.archive
    if not archive.is_file():
        raise AssetError(
            f"the {package.client} client wrote no {package.archive}",
            _way_out(package, "it may serve another version"),
        )
    return archive


def _way_out(package: Package, first: str) -> str:
    return (
        f"{first}, or put {package.archive} into a folder and name that with --mirror "
        "or CAMCTL_ASSETS_MIRROR"
    )


OnBytes = Callable[[int], None]


def _npm(package: Package, folder: Path, on_bytes: OnBytes) -> None:
    command = [_program("npm", package), "pack", f"{package.package}@{package.version}"]
    # A cache of our own makes the progress visible and leaves the user's alone.
    own = ["--ignore-scripts", "--silent", f"--cache={folder / 'npm'}", "--fetch-retries=5"]
    _run([*command, *own, f"--pack-destination={folder}"], folder, on_bytes)


def _pip(package: Package, folder: Path, on_bytes: OnBytes) -> None:
    probe = [sys.executable, "-m", "pip", "--version"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        raise _missing("pip", package)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    own = ["--no-cache-dir", "--disable-pip-version-check", "--quiet", f"--dest={folder}"]
    _run([*command, *own, f"{package.package}=={package.version}"], folder, on_bytes)


def _apt(package: Package, folder: Path, on_bytes: OnBytes) -> None:
    program = _program("apt-get", package)
    wanted = f"{package.package}={package.version}"
    # As root, apt wants to drop its rights in the folder, which it may not enter.
    plain = [program, "-o", "APT::Sandbox::User=root", "-q"]
    try:
        _run([*plain, "download", wanted], folder, on_bytes)
    except _Failed:
        # The machine's package lists are missing or old: fetch lists of our own, no root needed.
        lists = folder / "apt"
        (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (lists / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        own = ["-o", f"Dir::State::Lists={lists / 'lists'}", "-o", f"Dir::Cache={lists}"]
        _run([*plain, *own, "update"], folder, lambda _: None)
        _run([*plain, *own, "download", wanted], folder, on_bytes)


_RUNNERS: Final = {"npm": _npm, "pip": _pip, "apt": _apt}


def _program(name: str, package: Package) -> str:
    path = shutil.which(name)
    if path is None:
        raise _missing(name, package)
    return path


def _missing(name: str, package: Package) -> AssetError:
    return AssetError(
        f"{name} is needed to fetch {package.package} {package.version}, but it is not installed",
        _way_out(package, _INSTALL[package.client]),
    )


def _run(command: Sequence[str], folder: Path, on_bytes: OnBytes) -> None:
    """Run a client in ``folder`` until it ends, reporting how much the folder has grown."""
    before = _size(folder)
    environment = {**os.environ, "LC_ALL": "C", "NO_COLOR": "1", "NO_UPDATE_NOTIFIER": "1"}
    log = folder / "client.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _watch(process, folder, before, on_bytes)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    name = Path(command[0]).name if "pip" not in command else "pip"
    if process.returncode:
        raise _Failed(name, process.returncode, _tail(log))


def _watch(process: subprocess.Popen[bytes], folder: Path, before: int, on_bytes: OnBytes) -> None:
    last, changed_s = before, time.monotonic()
    while process.poll() is None:
        time.sleep(_POLL_S)
        size = _size(folder)
        if size != last:
            last, changed_s = size, time.monotonic()
            on_bytes(max(size - before, 0))
        elif time.monotonic() - changed_s > STALL_TIMEOUT_S:
            raise AssetError(
                f"{Path(process.args[0]).name if isinstance(process.args, list) else 'the client'}"
                f" has written nothing for {STALL_TIMEOUT_S:.0f} s",
                "check the network and try again",
            )


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except FileNotFoundError:  # a temporary file, gone by now
                continue
    return total


def _tail(log: Path) -> str:
    """The client's last words, one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-2:])[-300:] or "no output"
