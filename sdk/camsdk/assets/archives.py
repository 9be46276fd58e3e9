"""Taking single pinned files out of package archives, without any archive tool.

Kinds: ``.tgz`` (npm), ``.whl`` (pip) and ``.deb`` (apt: an ar archive with a compressed tar in it).

Safety: an archive is read as a stream and never unpacked. Only regular files whose exact path was
asked for are looked at, at most as many bytes of each as its pin says, and they are written under
names of ours. Links, other members and their paths have no effect. What does not hash to its pin is
never moved into place.
"""

import gzip
import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

import zstandard

from camsdk.assets.catalog import Asset
from camsdk.errors import AssetError

OnProgress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

_CHUNK: Final = 1 << 20
_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER: Final = 60
_MAX_STREAM_BYTES: Final = 8 << 30
"""Bound on what an archive may decompress to before the wanted member is found."""


def extract(
    archive: Path, assets: Sequence[Asset], folder: Path, on_progress: OnProgress
) -> dict[str, Path]:
    """Write the wanted members of an archive into ``folder``.

    Args:
        archive: The package's file.
        assets: Of that package.
        folder: Gets one file per asset, called ``NAME.part``.
        on_progress: Bytes of the archive read, and its size.

    Returns:
        Path by asset name, each with the pinned size and sha256.

    Raises:
        AssetError: Not an archive of its kind, truncated, a member missing or not as pinned.
    """
    wanted = {asset.member: asset for asset in assets}
    written: dict[str, Path] = {}
    try:
        with _members(archive, on_progress) as members:
            for path, open_member in members:
                asset = wanted.pop(path, None)
                if asset is not None:
                    with open_member() as stream:
                        written[asset.name] = _write(stream, asset, folder)
                if not wanted:
                    break
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zstandard.ZstdError) as error:
        raise _damaged(archive, str(error)) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(archive, str(error)) from error
    except RuntimeError as error:  # zipfile's for what is encrypted or of an unknown form
        raise _damaged(archive, str(error)) from error
    if wanted:
        raise AssetError(f"{archive.name} has no member {', '.join(wanted)}")
    return written


def _damaged(archive: Path, reason: str) -> AssetError:
    return AssetError(f"{archive.name} is damaged: {reason}", "pull it again")


def _write(stream: IO[bytes], asset: Asset, folder: Path) -> Path:
    """Copy one member, at most its pinned size, and check it."""
    path = folder / f"{asset.name}.part"
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as target:
        while chunk := stream.read(min(_CHUNK, asset.size_bytes + 1 - size)):
            digest.update(chunk)
            target.write(chunk)
            size += len(chunk)
    if size != asset.size_bytes or digest.hexdigest() != asset.sha256:
        path.unlink()
        raise AssetError(
            f"{asset.member!r} in {asset.package.archive} is not the pinned file "
            f"(sha256 {digest.hexdigest()[:16]}…, wanted {asset.sha256[:16]}…)"
        )
    return path


Member = tuple[str, Callable[[], IO[bytes]]]


@contextmanager
def _members(archive: Path, on_progress: OnProgress) -> Iterator[Iterator[Member]]:
    """Paths of an archive's regular files, each with a function that opens it."""
    with ExitStack() as stack:
        source = stack.enter_context(archive.open("rb"))
        counted = _Counted(source, archive.stat().st_size, on_progress)
        if archive.suffix == ".whl":
            yield _zip_members(stack.enter_context(zipfile.ZipFile(cast(BinaryIO, counted))))
            return
        if archive.suffix == ".deb":
            inner = _deb_data(counted, archive)
            stack.callback(inner.close)
        else:
            inner = cast(IO[bytes], stack.enter_context(gzip.open(cast(BinaryIO, counted))))
        bounded = cast(BinaryIO, _Bounded(inner, archive))
        yield _tar_members(stack.enter_context(tarfile.open(fileobj=bounded, mode="r|")))


def _tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    for info in tar:
        stream = tar.extractfile(info) if info.isreg() else None
        if stream is not None:
            yield info.name.removeprefix("./"), lambda stream=stream: stream  # type: ignore[misc] # bound now


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if not info.is_dir():
            yield info.filename, lambda info=info: archive.open(info)  # type: ignore[misc] # bound now


def _deb_data(source: "_Counted", archive: Path) -> IO[bytes]:
    """The decompressed ``data.tar`` of a .deb, see deb(5) and ar(5)."""
    if source.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise _damaged(archive, "it is no ar archive")
    while True:
        header = source.read(_AR_HEADER)
        if len(header) < _AR_HEADER or header[58:] != b"`\n":
            raise _damaged(archive, "it has no data.tar")
        name = header[:16].decode("ascii", "replace").rstrip(" /")
        digits = header[48:58].strip()
        if not digits.isdigit():
            raise _damaged(archive, f"member {name!r} has no size")
        if name.startswith("data.tar"):
            return _decompressed(_Bounded(source, archive, int(digits)), name, archive)
        source.skip(int(digits) + int(digits) % 2)  # members start at even offsets


def _decompressed(source: "_Bounded", name: str, archive: Path) -> IO[bytes]:
    stream = cast(BinaryIO, source)
    match name.removeprefix("data.tar"):
        case ".xz":
            return lzma.open(stream)
        case ".zst":
            return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(stream))
        case ".gz":
            return cast(IO[bytes], gzip.open(stream))
        case "":
            return stream
    raise AssetError(f"{archive.name} holds {name!r}, a compression that is not known here")


class _Counted:
    """A file that reports how much of it was read."""

    def __init__(self, source: BinaryIO, size: int, on_progress: OnProgress) -> None:
        self._source, self._size, self._on_progress = source, size, on_progress

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._on_progress(min(self._source.tell(), self._size), self._size)
        return data

    def skip(self, size: int) -> None:
        self._source.seek(size, 1)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset < 0:
            raise zipfile.BadZipFile("it points before its own start")
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def seekable(self) -> bool:
        return True


class _Bounded:
    """A stream that ends after ``limit`` bytes; without a limit it must not reach the bound."""

    def __init__(
        self, source: "IO[bytes] | _Counted", archive: Path, limit: int | None = None
    ) -> None:
        self._source, self._archive = source, archive
        self._is_bomb_guard = limit is None
        self._left = _MAX_STREAM_BYTES if limit is None else limit

    def read(self, size: int = -1) -> bytes:
        if self._is_bomb_guard and self._left <= 0:
            raise _damaged(self._archive, f"it decompresses to over {_MAX_STREAM_BYTES} bytes")
        data = self._source.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        """The owner of the source closes it."""
