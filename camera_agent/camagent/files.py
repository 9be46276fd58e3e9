"""Files that are whole or absent, whatever moment the power fails; and one owner of a folder."""

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import Final

from camsdk.errors import Conflict

_LOCK_WAIT_S: Final = 2.0  # a process that was just killed may take a moment to be gone


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes beside ``path``, syncs, renames, syncs the folder.

    Raises:
        OSError: the disk is full or fails; ``path`` is what it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """A folder that only one process uses; the kernel lets go of it however the process ends.

    Raises:
        Conflict: another process has it.
    """

    def __init__(self, folder: Path, wait_s: float = _LOCK_WAIT_S) -> None:
        self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        end_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end_s:
                    time.sleep(0.05)
                    continue
                os.close(self._descriptor)
                raise Conflict(
                    f"another agent runs with {folder}", "end it, or give this one a data_dir"
                ) from None
            return

    def release(self) -> None:
        """Lets the next process have it."""
        os.close(self._descriptor)
