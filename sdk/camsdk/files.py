"""Files that are whole or absent, whatever moment the process or the power fails.

One is written beside its place, forced to the disk and renamed, so that a kill leaves the previous
one or the new one, and beside it at most what had not been finished.
"""

import errno
import fcntl
import glob
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, *parts: bytes | memoryview, mode: int | None = 0o600) -> None:
    """Replace what is at ``path``, all or nothing; durable when it returns.

    Args:
        parts: The content, one after the other.
        mode: As of ``write_synced``.

    Raises:
        OSError: The disk is full or fails; ``path`` is what it was and nothing is left beside it.
    """
    while True:
        draft = draft_of(path)
        with _created(draft, mode) as file:
            _is_locked(file, is_patient=True)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # taken for what a killed write had left, before it was locked
            try:
                _fill(file, parts)
                draft.replace(path)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)
        return


def write_synced(path: Path, *parts: bytes | memoryview, mode: int | None) -> None:
    """Write a file that is not there yet; its content is on the disk when it returns.

    Args:
        mode: From its first moment and whatever the umask; None leaves it to the umask.

    Raises:
        OSError: It is there, or the disk is full or fails; an unfinished file may stay.
    """
    with _created(path, mode) as file:
        _fill(file, parts)


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder holds: a renamed file is safe only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def draft_of(path: Path) -> Path:
    """A new name beside ``path`` for what is to become it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")


def clear_drafts(path: Path) -> None:
    """Remove what killed writes of ``path`` left beside it, and not what is being written now."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.????????.new"):
        with suppress(FileNotFoundError), draft.open("rb") as file:
            if _is_locked(file, is_patient=False):
                draft.unlink()


def _created(path: Path, mode: int | None) -> BinaryIO:
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode
    )
    file = os.fdopen(descriptor, "wb")
    if mode is not None:
        os.fchmod(descriptor, mode)
    return file


def _fill(file: BinaryIO, parts: tuple[bytes | memoryview, ...]) -> None:
    for part in parts:
        file.write(part)
    file.flush()
    os.fsync(file.fileno())


def _is_locked(file: BinaryIO, *, is_patient: bool) -> bool:
    """Lock it; False where another process has it. Without locks on a file system, all is free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True
