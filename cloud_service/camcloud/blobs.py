"""Blobs: immutable bytes under strict keys, through fsspec.

Invariants:
- A key is a few plain segments (``crops/cam-1/7/12-340.jpg``): nothing in it can climb out of the
  root, hide, or mean something to a shell or a URL.
- A blob appears whole or not at all: it is written beside its place, synced and renamed.
- Putting the same bytes again is harmless, so a worker may repeat itself after a crash. The last
  put wins.

All calls block; from an event loop run them in a thread.
"""

import contextlib
import os
import re
import uuid
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

import fsspec
from fsspec import AbstractFileSystem

from camsdk.errors import InvalidInput, NotFound, Unavailable
from camsdk.files import sync_folder

MAX_KEY_LENGTH: Final = 255
MAX_SEGMENTS: Final = 8
_SEGMENT: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_KEY: Final = re.compile(rf"{_SEGMENT}(/{_SEGMENT}){{0,{MAX_SEGMENTS - 1}}}")
_TEMPORARY: Final = ".tmp"  # no key can start with a dot, so it never meets one


class Blobs(Protocol):
    """Where pictures and artifacts lie."""

    def put(self, key: str, data: bytes) -> None:
        """Stores ``data``; durable when it returns.

        Raises:
            InvalidInput: The key breaks the grammar.
            Unavailable: The store cannot be written now.
        """
        ...

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes ``offset`` to ``offset + length`` of a blob, or to its end.

        Raises:
            InvalidInput: The key breaks the grammar, or the range is negative.
            NotFound: No such blob.
            Unavailable: The store cannot be read now.
        """
        ...

    def size_bytes(self, key: str) -> int:
        """Size of a blob.

        Raises:
            InvalidInput: The key breaks the grammar.
            NotFound: No such blob.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether a blob has that key."""
        ...

    def delete(self, key: str) -> None:
        """Removes a blob; one that is not there is no error."""
        ...

    def delete_below(self, prefix: str) -> None:
        """Removes every blob whose key begins with ``prefix`` and a slash."""
        ...


def check_key(key: str) -> str:
    """Returns ``key`` if it follows the grammar.

    Raises:
        InvalidInput: It does not.
    """
    if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        raise InvalidInput(
            f"{key[:MAX_KEY_LENGTH]!r} is no blob key",
            "use up to 8 segments of letters, digits, '.', '_' and '-', joined by '/'",
        )
    return key


class FsspecBlobs:
    """Blobs below ``root`` of any fsspec file system that can rename.

    Args:
        filesystem: Where to store.
        root: Folder that holds all keys; made if missing.
    """

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        self._filesystem = filesystem
        self._root = PurePosixPath(root)
        filesystem.makedirs(str(self._root / _TEMPORARY), exist_ok=True)

    def put(self, key: str, data: bytes) -> None:
        """See :meth:`Blobs.put`."""
        place = self._place(key)
        draft = str(self._root / _TEMPORARY / uuid.uuid4().hex)
        try:
            self._make_folder(PurePosixPath(place).parent)
            self._write(draft, data)
            self._rename(draft, place)
        except OSError as error:
            self._give_up(draft)
            raise Unavailable(f"blob {key} cannot be written: {error.strerror}") from error

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Blobs.get`."""
        if offset < 0 or (length is not None and length < 0):
            raise InvalidInput("a blob's range starts and extends from 0 upwards")
        try:
            with self._filesystem.open(self._place(key), "rb") as file:
                file.seek(offset)
                data: bytes = file.read(-1 if length is None else length)
        except FileNotFoundError as error:
            raise NotFound(f"there is no blob {key}") from error
        except OSError as error:
            raise Unavailable(f"blob {key} cannot be read: {error.strerror}") from error
        return data

    def size_bytes(self, key: str) -> int:
        """See :meth:`Blobs.size_bytes`."""
        try:
            return int(self._filesystem.size(self._place(key)))
        except FileNotFoundError as error:
            raise NotFound(f"there is no blob {key}") from error

    def exists(self, key: str) -> bool:
        """See :meth:`Blobs.exists`."""
        return bool(self._filesystem.isfile(self._place(key)))

    def delete(self, key: str) -> None:
        """See :meth:`Blobs.delete`."""
        place = self._place(key)
        if self._filesystem.isfile(place):
            self._filesystem.rm_file(place)

    def delete_below(self, prefix: str) -> None:
        """See :meth:`Blobs.delete_below`."""
        place = self._place(prefix)
        if self._filesystem.isdir(place):
            self._filesystem.rm(place, recursive=True)

    def _place(self, key: str) -> str:
        return str(self._root / check_key(key))

    def _give_up(self, draft: str) -> None:
        # Whoever tries again on a full disk must not make it fuller.
        with contextlib.suppress(OSError):
            self._filesystem.rm_file(draft)

    def _make_folder(self, folder: PurePosixPath) -> None:
        self._filesystem.makedirs(str(folder), exist_ok=True)

    def _write(self, path: str, data: bytes) -> None:
        with self._filesystem.open(path, "wb") as file:
            file.write(data)

    def _rename(self, draft: str, place: str) -> None:
        self._filesystem.mv(draft, place)


class LocalBlobs(FsspecBlobs):
    """Blobs in a local folder, synced to the disk before they appear.

    Args:
        folder: Made if missing. Drafts that a crash left behind are removed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(fsspec.filesystem("file"), folder.resolve().as_posix())
        for draft in (folder / _TEMPORARY).iterdir():
            draft.unlink(missing_ok=True)

    def _write(self, path: str, data: bytes) -> None:
        with self._filesystem.open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _rename(self, draft: str, place: str) -> None:
        Path(draft).replace(place)
        sync_folder(Path(place).parent)

    def _make_folder(self, folder: PurePosixPath) -> None:
        path = Path(folder)
        if path.is_dir():
            return
        self._make_folder(folder.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


class MemoryBlobs(FsspecBlobs):
    """Blobs in memory (tests), apart from those of any other instance."""

    def __init__(self) -> None:
        super().__init__(fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}")
