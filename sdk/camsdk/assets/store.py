"""The folder of pulled assets: found by name, checked by sha256, filled from a mirror or a client.

Layout: ``FOLDER/NAME`` for each asset, ``FOLDER/.work/PACKAGE`` for what is under way. A file
appears under its name only when it is whole and checked (written beside, then renamed). Processes
that pull the same package wait for each other.
"""

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterator
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


def list_assets() -> tuple[Asset, ...]:
    """All assets, in the manifest's order."""
    return tuple(catalog().values())


def verify(name: str, *, folder: Path | None = None) -> Path:
    """Check a pulled asset against its pin.

    Returns:
        Its path.

    Raises:
        NotFound: There is no asset of that name.
        AssetError: It was not pulled, or its size or sha256 differ.
    """
    asset = find(name)
    path = (folder or default_folder()) / asset.name
    if not path.is_file():
        raise AssetError(f"{name} has not been pulled", f"run camctl assets pull {name}")
    _check(path, asset.size_bytes, asset.sha256)
    return path


def pull(
    name: str,
    *,
    mirror: Path | None = None,
    folder: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Make sure that an asset is there, whole and as pinned.

    What is there already is checked and kept; a damaged file is fetched anew. A mirror folder may
    hold the asset itself or the archive that it is in, under their own names; when it is given, no
    registry is asked for what it holds. Other assets in the same archive are stored along with it.

    Args:
        name: Of the asset.
        mirror: A folder of files; by default ``CAMCTL_ASSETS_MIRROR``.
        folder: Where assets are kept; by default ``CAMCTL_ASSETS`` or the user's cache.
        on_progress: Called with bytes done and bytes in all, from this thread; starts over for
            each step (fetch, then unpack).

    Returns:
        Path of the file; it must not be changed.

    Raises:
        NotFound: There is no asset of that name.
        AssetError: It cannot be had, or is not what was pinned; the hint says how to proceed.
    """
    asset = find(name)
    folder = folder or default_folder()
    mirror = mirror or default_mirror()
    report = on_progress or _silent
    path = folder / asset.name
    if _is_whole(path, asset):
        report(asset.size_bytes, asset.size_bytes)
        return path
    try:
        with _lock(folder, asset.package):
            if not _is_whole(path, asset):  # another process may have been faster
                _obtain(asset, folder, mirror, report)
    except OSError as error:
        raise AssetError(
            f"{name} cannot be stored in {folder}: {error.strerror or error}",
            f"free space there, or name another folder with {FOLDER_VARIABLE}",
        ) from error
    return path


def _silent(done: int, total: int) -> None:
    """No progress is wanted."""


def _obtain(asset: Asset, folder: Path, mirror: Path | None, report: OnProgress) -> None:
    work = folder / ".work" / asset.package.name
    work.mkdir(parents=True, exist_ok=True)
    if mirror is not None and (mirror / asset.name).is_file():
        part = work / f"{asset.name}.part"
        _copy(mirror / asset.name, part, report)
        _check(part, asset.size_bytes, asset.sha256)
        part.replace(folder / asset.name)
        return
    archive = _archive(asset.package, work, mirror, report)
    siblings = [row for row in list_assets() if row.package == asset.package]
    for name, part in extract(archive, siblings, work, report).items():
        part.replace(folder / name)
        log.info("pulled %s from %s", name, asset.package.archive)
    shutil.rmtree(work)


def _archive(package: Package, work: Path, mirror: Path | None, report: OnProgress) -> Path:
    """The package's archive, checked: from an earlier try, the mirror or the registry."""
    held = mirror / package.archive if mirror is not None else None
    for candidate in (held, work / package.archive):
        if candidate is not None and candidate.is_file():
            try:
                _check(candidate, package.size_bytes, package.sha256)
            except AssetError:
                if candidate is held:
                    raise
                continue  # a partial file of an earlier try: the client goes on from it or anew
            return candidate
    archive = fetch(package, work, report)
    try:
        _check(archive, package.size_bytes, package.sha256)
    except AssetError:
        archive.unlink()
        raise
    return archive


def _is_whole(path: Path, asset: Asset) -> bool:
    try:
        _check(path, asset.size_bytes, asset.sha256)
    except FileNotFoundError:
        return False
    except AssetError as error:
        log.warning("%s; fetching it anew", error.message)
        return False
    return True


def _check(path: Path, size_bytes: int, sha256: str) -> None:
    """Raise ``AssetError`` when a file is not the pinned one."""
    size = path.stat().st_size
    if size != size_bytes:
        raise AssetError(f"{path} has {size} bytes, its pin says {size_bytes}", "pull it again")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256:
        raise AssetError(f"{path} has sha256 {digest}, its pin says {sha256}", "pull it again")


def _copy(source: Path, target: Path, report: OnProgress) -> None:
    total, done = source.stat().st_size, 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
            done += len(chunk)
            report(done, total)


@contextmanager
def _lock(folder: Path, package: Package) -> Iterator[None]:
    """One process at a time per package; released by the kernel when the process ends."""
    (folder / ".work").mkdir(parents=True, exist_ok=True)
    with (folder / ".work" / f"{package.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
