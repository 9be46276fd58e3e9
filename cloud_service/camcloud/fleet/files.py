"""Writes the data folder's small files: whole or not at all, private when they must be."""

from pathlib import Path

from camsdk.errors import Unavailable
from camsdk.files import write_atomic


def write_file(path: Path, data: bytes, *, is_private: bool) -> None:
    """Replaces ``path``; durable when it returns.

    Args:
        path: Its folder is made if missing, for the owner alone.
        data: The whole content.
        is_private: Mode 0600 from its first moment, else 0644.

    Raises:
        Unavailable: It cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, data, mode=0o600 if is_private else 0o644)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written: {error.strerror}", "check the folder's owner and space"
        ) from error
