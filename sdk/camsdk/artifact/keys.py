"""Keys of artifacts: Ed25519 to sign (held by who releases), X25519 to seal (held by a device).

Private keys are PKCS #8 PEM files of mode 0600; one that others can read is refused, as ssh does.
A public key travels as its 32 raw bytes and is a SubjectPublicKeyInfo PEM on disk.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from camsdk.errors import AlreadyExists, DataCorrupted, InvalidInput, NotFound, PermissionDenied
from camsdk.files import draft_of, sync_folder, write_synced

PUBLIC_KEY_BYTES: Final = 32
_MAX_KEY_FILE_BYTES: Final = 1 << 16
_OTHERS: Final = 0o077


def generate_signing_key() -> Ed25519PrivateKey:
    """A new key to sign artifacts with."""
    return Ed25519PrivateKey.generate()


def generate_sealing_key() -> X25519PrivateKey:
    """A new key that a device's artifacts are encrypted to."""
    return X25519PrivateKey.generate()


def public_bytes(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def key_id(public_key: bytes) -> str:
    """How people tell keys apart: the first 16 hex digits of the SHA-256 of the 32 bytes."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def split_trust_keys(joined: bytes) -> tuple[bytes, ...]:
    """Trust keys as they come with an enrolment: 32 bytes each, concatenated.

    Raises:
        DataCorrupted: Not a whole number of keys, or none.
    """
    if not joined or len(joined) % PUBLIC_KEY_BYTES:
        raise DataCorrupted(f"trust keys have {len(joined)} bytes, not a multiple of 32")
    return tuple(
        joined[start : start + PUBLIC_KEY_BYTES]
        for start in range(0, len(joined), PUBLIC_KEY_BYTES)
    )


def save_private_key(key: Ed25519PrivateKey | X25519PrivateKey, path: Path) -> None:
    """Write a private key, mode 0600, durable, whole or not at all.

    Raises:
        AlreadyExists: There is a file; a key is never overwritten.
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_new(path, pem, 0o600)


def save_public_key(public_key: bytes, path: Path) -> None:
    """Write an Ed25519 public key, mode 0644.

    Raises:
        AlreadyExists: There is a file.
        InvalidInput: Not 32 bytes.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise InvalidInput(f"a public key has 32 bytes, not {len(public_key)}")
    pem = Ed25519PublicKey.from_public_bytes(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(path, pem, 0o644)


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read what ``save_private_key`` wrote.

    Raises:
        NotFound: No such file.
        PermissionDenied: Others may read it.
        DataCorrupted: Not an Ed25519 private key.
    """
    key = _load_private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise DataCorrupted(f"{path} is not an Ed25519 key", "give the key that signs artifacts")
    return key


def load_sealing_key(path: Path) -> X25519PrivateKey:
    """Read what ``save_private_key`` wrote; errors as ``load_signing_key``."""
    key = _load_private(path)
    if not isinstance(key, X25519PrivateKey):
        raise DataCorrupted(f"{path} is not an X25519 key", "give the device's sealing key")
    return key


def load_trust_keys(paths: Sequence[Path]) -> tuple[bytes, ...]:
    """Public keys from PEM files, 32 bytes each.

    Raises:
        NotFound: No such file.
        DataCorrupted: Not an Ed25519 public key.
    """
    keys = []
    for path in paths:
        try:
            key = serialization.load_pem_public_key(_read(path))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise DataCorrupted(f"{path} holds no public key in PEM form") from error
        if not isinstance(key, Ed25519PublicKey):
            raise DataCorrupted(f"{path} is not an Ed25519 key")
        keys.append(key.public_bytes_raw())
    return tuple(keys)


def _load_private(path: Path) -> object:
    data = _read(path)
    if os.name == "posix" and path.stat().st_mode & _OTHERS:
        raise PermissionDenied(f"others may read the private key {path}", f"chmod 600 {path}")
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise DataCorrupted(f"{path} holds no private key in PEM form without password") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise NotFound(f"the key {path} cannot be read: {error.strerror}") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write beside, sync, then link: the name appears with its whole content, or was taken."""
    draft = draft_of(path)
    try:
        write_synced(draft, data, mode=mode)
        path.hardlink_to(draft)
    except FileExistsError as error:
        raise AlreadyExists(f"{path} exists; a key is never overwritten") from error
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
