"""Files that are whole or absent (``camsdk.files``) and say whether they are damaged.

What one holds stands behind its sha256: damage shows before it is decoded.
"""

import errno
import hashlib
from pathlib import Path

from camsdk.errors import CamError, DataCorrupted, InvalidInput, ResourceExhausted
from camsdk.files import clear_drafts, write_atomic


def write_whole(path: Path, magic: bytes, content: bytes | memoryview) -> None:
    """Replace what is at ``path``, all or nothing.

    Args:
        magic: What files of this kind start with.

    Raises:
        OSError: The disk is full or fails; nothing is left beside ``path``.
    """
    write_atomic(path, magic + hashlib.sha256(content).digest(), content, mode=None)


def read_whole(path: Path, magic: bytes, kind: str) -> bytes | None:
    """What ``write_whole`` wrote there; None where there is nothing.

    A write that was killed before its end is cleared away.

    Args:
        kind: Of file, in words.

    Raises:
        DataCorrupted: It starts otherwise, or its sha256 is another.
        OSError: It cannot be read.
    """
    clear_drafts(path)
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
    return InvalidInput(
        message, "name another folder to work in (--work), one that can be written to"
    )
