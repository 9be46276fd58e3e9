"""Package archives made on the spot: .deb, npm tarballs and wheels with given members."""

import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Literal

import zstandard

from camsdk.assets import Asset, Package

Compression = Literal["xz", "zst", "gz", "none"]


def make_tar(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A tar archive of files, and of symbolic links to the named targets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_tgz(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """What ``npm pack`` writes."""
    return gzip.compress(make_tar(members, links), mtime=0)


def make_wheel(members: Mapping[str, bytes]) -> bytes:
    """What ``pip download`` writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def make_deb(members: Mapping[str, bytes], compression: Compression = "xz") -> bytes:
    """What ``apt-get download`` writes: an ar archive, see deb(5)."""
    tar = make_tar({f"./{name}": content for name, content in members.items()})
    compress = {
        "xz": lzma.compress,
        "zst": zstandard.ZstdCompressor().compress,
        "gz": gzip.compress,
        "none": bytes,
    }[compression]
    suffix = "" if compression == "none" else f".{compression}"
    control = gzip.compress(make_tar({"./control": b"Package: fake\n"}))
    rows = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": control + b"\n" * (1 - len(control) % 2),  # odd: a pad byte follows
        f"data.tar{suffix}": compress(tar),
    }
    data = b"!<arch>\n"
    for name, content in rows.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        data += header.encode() + content + b"\n" * (len(content) % 2)
    return data


def make_assets(
    archive: str, data: bytes, members: Mapping[str, bytes], client: str = "npm"
) -> dict[str, Asset]:
    """Pins of these members, called by the last part of their path, and of the archive."""
    package = Package(
        name="fake",
        client=client,  # type: ignore[arg-type] # one of the three
        package="fake",
        version="1.0",
        archive=archive,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return {
        path.rpartition("/")[2]: Asset(
            name=path.rpartition("/")[2],
            description="made for a test",
            package=package,
            member=path,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            licence="none",
            redistributable=True,
        )
        for path, content in members.items()
    }
