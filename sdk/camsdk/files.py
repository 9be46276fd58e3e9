"""Files that are whole or absent, whatever moment the process or the power fails.

One is written beside its place, forced to the disk and renamed, so that a kill leaves the previous
one or the new one, and beside it at most what had not been finished.
"""

import glob
import os
import secrets
from pathlib import Path


def write_atomic(path: Path, *parts: bytes | memoryview, mode: int | None = 0o600) -> None:
    """Replace what is at ``path``, all or nothing; durable when it returns.

    Args:
        parts: The content, one after the other.
        mode: As of ``write_synced``.

    Raises:
        OSError: The disk is full or fails; ``path`` is what it was and nothing is left beside it.
    """
    draft = draft_of(path)
    try:
        write_synced(draft, *parts, mode=mode)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(path: Path, *parts: bytes | memoryview, mode: int | None) -> None:
    """Write a file that is not there yet; its content is on the disk when it returns.

    Args:
        mode: From its first moment and whatever the umask; None leaves it to the umask.

    Raises:
        OSError: It is there, or the disk is full or fails; an unfinished file may stay.
    """
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode
    )
    with os.fdopen(descriptor, "wb") as file:
        if mode is not None:
            os.fchmod(descriptor, mode)
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(descriptor)


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
    """Remove what killed writes of ``path`` left beside it. Nothing may be writing it."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.????????.new"):
        draft.unlink(missing_ok=True)
