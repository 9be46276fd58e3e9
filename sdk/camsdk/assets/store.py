"""The folder of pulled assets: found by name, checked by sha256, filled from a mirror or a client.

Layout: ``FOLDER/NAME`` for each asset, ``FOLDER/.work/PACKAGE`` for what is under way. A file
appears under its name only when it is whole and checked (written beside, then renamed). Processes
that pull the same package wait for each other.
"""

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from camsdk.assets.archives import OnProgress, extract
from camsdk.assets.catalog import Asset, Package, catalog, find
from camsdk.assets.clients import fetch
from camsdk.assets.folders import FOLDER_VARIABLE, default_folder, default_mirror
from camsdk.errors import AssetError

log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 20
_REPLACE: Final = "replace it, or pull it again"


class AssetStore:
    """One folder of assets.

    Args:
        folder: Made when it is needed.
        mirror: A folder that may hold assets or the archives that they are in, under their own
            names; asked before any registry.
        known: What can be pulled, by name.
    """

    def __init__(self, folder: Path, mirror: Path | None, known: Mapping[str, Asset]) -> None:
        self._folder = folder
        self._mirror = mirror
        self._known = known

    def pull(self, name: str, on_progress: OnProgress) -> Path:
        """See ``pull`` of the module."""
        asset = find(name, self._known)
        path = self._folder / asset.name
        try:
            if not self._is_whole(asset):
                with self._lock(asset.package):
                    if not self._is_whole(asset):  # another process may have been faster
                        self._obtain(asset, on_progress)
        except OSError as error:
            raise AssetError(
                f"{name} cannot be stored in {self._folder}: {error.strerror or error}",
                f"free space there, or name another folder with {FOLDER_VARIABLE}",
            ) from error
        on_progress(asset.size_bytes, asset.size_bytes)
        return path

    def verify(self, name: str) -> Path:
        """See ``verify`` of the module."""
        asset = find(name, self._known)
        path = self._folder / asset.name
        if not path.is_file():
            raise AssetError(f"{name} has not been pulled", f"run camctl assets pull {name}")
        _check(path, asset.size_bytes, asset.sha256)
        return path

    def _is_whole(self, asset: Asset) -> bool:
        try:
            self.verify(asset.name)
        except AssetError as error:
            if (self._folder / asset.name).is_file():
                log.warning("%s; fetching it anew", error.message)
            return False
        return True

    def _obtain(self, asset: Asset, on_progress: OnProgress) -> None:
        work = self._folder / ".work" / asset.package.name
        work.mkdir(parents=True, exist_ok=True)
        if self._mirror is not None and (self._mirror / asset.name).is_file():
            part = work / f"{asset.name}.part"
            _copy(self._mirror / asset.name, part, on_progress)
            _check(part, asset.size_bytes, asset.sha256)
            part.replace(self._folder / asset.name)
            return
        archive = self._archive(asset.package, work, on_progress)
        # One pass over the archive serves all that is in it, then it can go.
        siblings = [row for row in self._known.values() if row.package == asset.package]
        for name, part in extract(archive, siblings, work, on_progress).items():
            part.replace(self._folder / name)
            log.info("pulled %s from %s", name, asset.package.archive)
        shutil.rmtree(work)

    def _archive(self, package: Package, work: Path, on_progress: OnProgress) -> Path:
        """The package's archive, checked: from the mirror, an earlier try, or the registry."""
        held = self._mirror / package.archive if self._mirror is not None else None
        if held is not None and held.is_file():
            _check(held, package.size_bytes, package.sha256)
            return held
        archive = work / package.archive
        # One of the right size is whole, from a try that was cut off while unpacking.
        if not archive.is_file() or archive.stat().st_size != package.size_bytes:
            archive = fetch(package, work, on_progress)
        try:
            _check(archive, package.size_bytes, package.sha256)
        except AssetError:
            archive.unlink()
            raise
        return archive

    @contextmanager
    def _lock(self, package: Package) -> Iterator[None]:
        """One process at a time per package; released by the kernel when the process ends."""
        (self._folder / ".work").mkdir(parents=True, exist_ok=True)
        with (self._folder / ".work" / f"{package.name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def list_assets() -> tuple[Asset, ...]:
    """All assets, in the manifest's order."""
    return tuple(catalog().values())


def pull(
    name: str,
    *,
    mirror: Path | None = None,
    folder: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Make sure that an asset is there, whole and as pinned.

    What is there already is checked and kept; a damaged file is fetched anew. Other assets in the
    same archive are stored along with it.

    Args:
        name: Of the asset.
        mirror: A folder with the asset or the archive that it is in, under their own names; no
            registry is asked for what it holds. By default ``CAMCTL_ASSETS_MIRROR``.
        folder: Where assets are kept; by default ``CAMCTL_ASSETS`` or the user's cache.
        on_progress: Called with bytes done and bytes in all, from this thread; starts over for
            each step (fetch, then unpack) and ends with the asset's size twice.

    Returns:
        Path of the file; it must not be changed.

    Raises:
        NotFound: There is no asset of that name.
        AssetError: It cannot be had, or is not what was pinned; the hint says how to proceed.
    """
    store = AssetStore(folder or default_folder(), mirror or default_mirror(), catalog())
    return store.pull(name, on_progress or _silent)


def verify(name: str, *, folder: Path | None = None) -> Path:
    """Check a pulled asset against its pin.

    Returns:
        Its path.

    Raises:
        NotFound: There is no asset of that name.
        AssetError: It was not pulled, or its size or sha256 differ.
    """
    return AssetStore(folder or default_folder(), None, catalog()).verify(name)


def _silent(done: int, total: int) -> None:
    """No progress is wanted."""


def _check(path: Path, size_bytes: int, sha256: str) -> None:
    """Raise ``AssetError`` when a file is not the pinned one."""
    size = path.stat().st_size
    if size != size_bytes:
        raise AssetError(f"{path} has {size} bytes, its pin says {size_bytes}", _REPLACE)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256:
        raise AssetError(f"{path} has sha256 {digest}, its pin says {sha256}", _REPLACE)


def _copy(source: Path, target: Path, on_progress: OnProgress) -> None:
    total, done = source.stat().st_size, 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
            done += len(chunk)
            on_progress(done, total)
