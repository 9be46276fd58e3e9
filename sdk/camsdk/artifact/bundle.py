"""The bundle, a ``.cam`` file: one manifest, the members that it lists, one signature.

    offset  size  content
    0       8     magic ``CAMBNDL1``
    8       4     n, size of the manifest, little endian
    12      n     manifest, canonical JSON
    12 + n  ...   contents of the members, in the manifest's order, nothing between them
    end-96  96    signature block over all before it (camsdk.artifact.signature)

There is no table of contents beside the manifest: names, sizes and hashes stand there and nowhere
else, so nothing can be listed twice, hidden, or point outside. The sizes must fill the file
exactly.

``open_bundle`` checks in this order, and nothing unsigned is parsed: sizes, signature, manifest,
hashes of the members, hardware. The *digest* of a bundle is the SHA-256 of the whole file with its
signature; it names the artifact everywhere else. Any change of any byte is refused.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from camsdk.artifact import signature
from camsdk.artifact.manifest import (
    MAX_MANIFEST_BYTES,
    NAME_PATTERN,
    Manifest,
    ModelFile,
)
from camsdk.errors import ArtifactRefused, DataCorrupted, InvalidInput

MAGIC: Final = b"CAMBNDL1"
MAX_BUNDLE_BYTES: Final = 1 << 30
SUFFIX: Final = ".cam"
FORMATS: Final = MappingProxyType({"onnx": "onnx", "camq": "packed", "npz": "npz"})
"""Format of a member by the suffix of its name."""
_PREFIX: Final = struct.Struct("<8sI")


@dataclass(frozen=True, eq=False)
class Contents:
    """What a bundle holds. Of unknown origin, unless it is a ``Bundle``.

    Attributes:
        members: Content by name, exactly those of the manifest.
        digest: SHA-256 of the whole file, hex.
        signer: Ed25519 public key that the file names, 32 bytes, or empty for a draft.
    """

    manifest: Manifest
    members: Mapping[str, bytes]
    digest: str
    signer: bytes

    @property
    def model(self) -> bytes:
        """Content of the model's file: ONNX, or packed (``camsdk.artifact.packed``)."""
        return self.members[self.manifest.model.path]


@dataclass(frozen=True, eq=False)
class Bundle(Contents):
    """Contents whose signature by a trusted key has been verified. Made by ``open_bundle`` only."""


def list_members(members: Mapping[str, bytes]) -> tuple[ModelFile, ...]:
    """What the manifest says of these files; the format is taken from the suffix.

    Raises:
        InvalidInput: A suffix is none of ``.onnx``, ``.camq`` and ``.npz``, or a name is not
            allowed.
    """
    files = []
    for path, content in sorted(members.items()):
        form = FORMATS.get(path.rpartition(".")[2])
        if form is None:
            raise InvalidInput(f"{path!r} is neither .onnx nor .camq nor .npz")
        digest = hashlib.sha256(content).hexdigest()
        try:
            # form is one of the literals; the model itself checks it again
            files.append(
                ModelFile.model_validate(
                    {"path": path, "format": form, "size_bytes": len(content), "sha256": digest}
                )
            )
        except ValueError as error:
            raise InvalidInput(
                f"{path!r} cannot be a member", f"its name must match {NAME_PATTERN}"
            ) from error
    return tuple(files)


def pack(
    manifest: Manifest, members: Mapping[str, bytes], signing_key: Ed25519PrivateKey | None
) -> bytes:
    """The bundle's bytes. The same input gives the same bytes.

    Args:
        manifest: Lists exactly these members (see ``list_members``).
        members: Content by name.
        signing_key: None makes a draft, which every device refuses until ``sign``.

    Raises:
        InvalidInput: Members and manifest do not fit, or it is too big.
    """
    if set(members) != {file.path for file in manifest.members}:
        raise InvalidInput("the members are not those that the manifest lists")
    for file in manifest.members:
        if problem := _mismatch(file, members[file.path]):
            raise InvalidInput(problem)
    header = manifest.to_bytes()
    if len(header) > MAX_MANIFEST_BYTES:
        raise InvalidInput(f"the manifest has {len(header)} bytes, over {MAX_MANIFEST_BYTES}")
    contents = (members[file.path] for file in manifest.members)
    body = b"".join((_PREFIX.pack(MAGIC, len(header)), header, *contents))
    if len(body) + signature.BLOCK_BYTES > MAX_BUNDLE_BYTES:
        raise InvalidInput(f"the bundle has {len(body)} bytes, over {MAX_BUNDLE_BYTES}")
    return body + (signature.DRAFT if signing_key is None else _block(body, signing_key))


def sign(data: bytes, signing_key: Ed25519PrivateKey) -> bytes:
    """The same bundle signed by this key instead of whoever signed it before.

    Raises:
        DataCorrupted: Not a bundle.
    """
    read_unverified(data)
    body = data[: -signature.BLOCK_BYTES]
    return body + _block(body, signing_key)


def open_bundle(data: bytes, trust_keys: Sequence[bytes], *, hardware: str | None = None) -> Bundle:
    """Verify and read a bundle.

    Args:
        data: The whole file.
        trust_keys: Ed25519 public keys, 32 bytes each, of which one must have signed.
        hardware: What it must have been made for, or None on a machine that does not run it.

    Raises:
        DataCorrupted: Not a bundle, cut, or with bytes too many.
        ArtifactRefused: Changed, unsigned, signed by an unknown key, or for other hardware.
    """
    body, block = _split(data)
    body_hash = hashlib.sha256(body)
    signer = signature.verify(block, body_hash.digest(), trust_keys)
    body_hash.update(block)
    manifest, members = _parse(body)
    if hardware is not None and hardware not in manifest.hardware:
        raise ArtifactRefused(
            f"{manifest.reference} was made for {', '.join(manifest.hardware)}, not {hardware}",
            f"compress the model for {hardware}",
        )
    return Bundle(manifest, members, body_hash.hexdigest(), signer)


def read_unverified(data: bytes) -> Contents:
    """Read a bundle of unknown origin, to look at it. Never run what it holds.

    Raises:
        DataCorrupted: Not a bundle, cut, with bytes too many, or a member does not fit its hash.
    """
    body, block = _split(data)
    manifest, members = _parse(body)
    return Contents(
        manifest, members, hashlib.sha256(data).hexdigest(), signature.signer_of(bytes(block))
    )


def _block(body: bytes, key: Ed25519PrivateKey) -> bytes:
    return signature.sign(hashlib.sha256(body).digest(), key)


def _split(data: bytes) -> tuple[memoryview, bytes]:
    """Body and signature block, bounds and magic checked."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise DataCorrupted(f"the bundle has {len(data)} bytes, over {MAX_BUNDLE_BYTES}")
    if len(data) < _PREFIX.size + signature.BLOCK_BYTES or not data.startswith(MAGIC):
        raise DataCorrupted("this is not a model bundle", "give a .cam file")
    cut = len(data) - signature.BLOCK_BYTES
    return memoryview(data)[:cut], data[cut:]


def _parse(body: memoryview) -> tuple[Manifest, Mapping[str, bytes]]:
    _, manifest_size = _PREFIX.unpack_from(body)
    start = _PREFIX.size + manifest_size
    if manifest_size > MAX_MANIFEST_BYTES or start > len(body):
        raise DataCorrupted(f"the manifest's size, {manifest_size} bytes, is out of bounds")
    manifest = Manifest.from_bytes(bytes(body[_PREFIX.size : start]))
    expected = start + sum(file.size_bytes for file in manifest.members)
    if expected != len(body):
        raise DataCorrupted(
            f"the bundle has {len(body)} bytes before its signature, not {expected}"
        )
    members = {}
    for file in manifest.members:
        content = bytes(body[start : start + file.size_bytes])
        if problem := _mismatch(file, content):
            raise DataCorrupted(problem)
        members[file.path] = content
        start += file.size_bytes
    return manifest, MappingProxyType(members)


def _mismatch(file: ModelFile, content: bytes) -> str:
    """Why this content is not the file, or empty."""
    if len(content) != file.size_bytes:
        return f"{file.path} has {len(content)} bytes, not {file.size_bytes}"
    if hashlib.sha256(content).hexdigest() != file.sha256:
        return f"{file.path} does not have the sha256 that the manifest states"
    return ""
