"""Writes the data folder's small files: whole or not at all, private when they must be."""

import os
import secrets
from pathlib import Path

from camsdk.errors import Unavailable


def write_file(path: Path, data: bytes, *, is_private: bool) -> None:
    """Replaces ``path``; durable when it returns.

    Args:
        path: Its folder is made if missing, for the owner alone.
        data: The whole content.
        is_private: Mode 0600 from its first moment, else 0644.

    Raises:
        Unavailable: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    mode = 0o600 if is_private else 0o644
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123 - the mode must hold from the first moment
            os.fchmod(file.fileno(), mode)  # whatever the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written: {error.strerror}", "check the folder's owner and space"
        ) from error


def sync_folder(folder: Path) -> None:
    """Makes durable which names a folder holds: a renamed file is safe only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
