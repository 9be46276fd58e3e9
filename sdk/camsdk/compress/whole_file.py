"""Files that are whole or absent, whatever moment the process or the power fails.

One is written beside its place, forced to the disk and renamed, so that a kill leaves the previous
one or the new one. What it holds stands behind its sha256: damage shows before it is decoded.
"""

import errno
import hashlib
import os
from pathlib import Path

from camsdk.errors import CamError, DataCorrupted, InvalidInput, ResourceExhausted


def write_whole(path: Path, magic: bytes, content: bytes | memoryview) -> None:
    """Replace what is at ``path``, all or nothing.

    Args:
        magic: What files of this kind start with.

    Raises:
        OSError: The disk is full or fails; nothing is left beside ``path``.
    """
    unfinished = _beside(path)
    try:
        with unfinished.open("wb") as file:
            file.write(magic + hashlib.sha256(content).digest())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_whole(path: Path, magic: bytes, kind: str) -> bytes | None:
    """What ``write_whole`` wrote there; None where there is nothing.

    A write that was killed before its end is cleared away.

    Args:
        kind: Of file, in words.

    Raises:
        DataCorrupted: It starts otherwise, or its sha256 is another.
        OSError: It cannot be read.
    """
    _beside(path).unlink(missing_ok=True)
    if not path.exists():
        return None
    with path.open("rb") as file:
        head = file.read(len(magic) + hashlib.sha256().digest_size)
        if not head.startswith(magic) or (
            hashlib.file_digest(file, "sha256").digest() != head[len(magic) :]
        ):
            raise damaged(path, kind)
        file.seek(len(head))
        return file.read()


def damaged(path: Path, kind: str) -> DataCorrupted:
    """To be raised where a file does not decode."""
    return DataCorrupted(
        f"{path} is no {kind}, or is damaged", "delete it; what it holds is then done anew"
    )


def unusable(path: Path, error: OSError) -> CamError:
    """To be raised where a place cannot be written to or read from."""
    message = f"{path} cannot be used: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(message, "make room there, then repeat the command to go on")
    return InvalidInput(message, "name another folder to work in, one that can be written to")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".unfinished")
