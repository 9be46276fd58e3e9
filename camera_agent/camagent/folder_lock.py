"""A folder has one owner."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from camsdk.errors import Conflict

_LOCK_WAIT_S: Final = 2.0  # a process that was just killed may take a moment to be gone


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
