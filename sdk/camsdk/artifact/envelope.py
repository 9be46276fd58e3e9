"""The envelope: a bundle encrypted for one device, under its digest.

    offset  size       content
    0       8          magic ``CAMSEAL1``
    8       8          size of the bundle, little endian
    16      80         the file key, sealed to the device with HPKE
    96      n + 16 k   the bundle in k chunks of 1 MiB (the last may be shorter), AES-256-GCM each

- The file key is fresh and random. HPKE (RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256),
  HKDF-SHA256, AES-256-GCM) seals it; its ``info`` binds header, device and digest, so an envelope
  for another device or artifact does not open, even with the right private key.
- The chunks follow STREAM (Hoang, Reyhanitabar, Rogaway, Vizar: "Online Authenticated-Encryption
  and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015): the nonce is the chunk's number and whether
  it is the last, so chunks cannot be moved, repeated, dropped or cut at the end.
- What comes out must have the SHA-256 that the digest says.

Encryption keeps a model secret; it proves nothing about who made it. ``bundle.open_bundle`` does.
"""

import hashlib
import re
import struct
from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from camsdk.artifact.bundle import MAX_BUNDLE_BYTES
from camsdk.errors import ArtifactRefused, DataCorrupted, InvalidInput

MAGIC: Final = b"CAMSEAL1"
CHUNK_BYTES: Final = 1 << 20
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = 32
_WRAPPED_BYTES: Final = 32 + _KEY_BYTES + _TAG_BYTES  # ephemeral public key, file key, tag
_HEADER: Final = struct.Struct("<8sQ")
_CONTEXT: Final = b"camplatform artifact envelope v1\x00"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def seal(bundle: bytes, recipient: bytes, *, device_id: str, digest: str) -> bytes:
    """Encrypt a bundle for one device.

    Args:
        bundle: Of at least one byte. That it has this digest is checked where it is opened.
        recipient: The device's X25519 public key, 32 bytes.
        device_id, digest: Of whom and what; the device must state the same to open it.

    Raises:
        InvalidInput: An argument has the wrong form.
    """
    if not 0 < len(bundle) <= MAX_BUNDLE_BYTES:
        raise InvalidInput(f"a bundle of {len(bundle)} bytes cannot be sealed")
    header = _HEADER.pack(MAGIC, len(bundle))
    info = _info(header, device_id, digest)
    file_key = AESGCM.generate_key(256)
    try:
        wrapped = _SUITE.encrypt(file_key, X25519PublicKey.from_public_bytes(recipient), info)
    except ValueError as error:  # wrong length, or a point of small order
        raise InvalidInput("the recipient is not an X25519 public key of 32 bytes") from error
    sealed = bytearray(sealed_size(len(bundle)))
    start = _HEADER.size + _WRAPPED_BYTES
    sealed[:start] = header + wrapped
    cipher, clear, target = AESGCM(file_key), memoryview(bundle), memoryview(sealed)[start:]
    for nonce, at, sealed_at in _chunks(len(bundle)):
        cipher.encrypt_into(nonce, clear[at], None, target[sealed_at])
    return bytes(sealed)


def unseal(sealed: bytes, private_key: X25519PrivateKey, *, device_id: str, digest: str) -> bytes:
    """Decrypt what ``seal`` made.

    Args:
        sealed: The whole envelope.
        private_key: The device's.
        device_id, digest: Who this device is and what it asked for.

    Raises:
        DataCorrupted: Not an envelope, or its size does not fit.
        ArtifactRefused: Changed, or not for this device, key or digest.
        InvalidInput: ``device_id`` or ``digest`` has the wrong form.
    """
    start = _HEADER.size + _WRAPPED_BYTES
    if len(sealed) <= start or not sealed.startswith(MAGIC):
        raise DataCorrupted("this is not a sealed artifact", "fetch it again")
    header = sealed[: _HEADER.size]
    _, size = _HEADER.unpack(header)
    if not 0 < size <= MAX_BUNDLE_BYTES or len(sealed) != sealed_size(size):
        raise DataCorrupted(f"the sealed artifact has {len(sealed)} bytes, which does not fit")
    bundle = bytearray(size)
    try:
        file_key = _SUITE.decrypt(
            sealed[_HEADER.size : start], private_key, _info(header, device_id, digest)
        )
        cipher, source, target = AESGCM(file_key), memoryview(sealed)[start:], memoryview(bundle)
        for nonce, at, sealed_at in _chunks(size):
            cipher.decrypt_into(nonce, source[sealed_at], None, target[at])
    except (InvalidTag, ValueError) as error:  # ValueError: the file key has a wrong length
        raise ArtifactRefused(
            f"the artifact does not open: it was changed or is not for {device_id}",
            "fetch it again",
        ) from error
    if hashlib.sha256(bundle).hexdigest() != digest:
        raise ArtifactRefused("the sealed artifact is not the one that was asked for")
    return bytes(bundle)


def sealed_size(bundle_size: int) -> int:
    """Bytes of the envelope of a bundle with this many bytes."""
    chunks = -(-bundle_size // CHUNK_BYTES)
    return _HEADER.size + _WRAPPED_BYTES + bundle_size + chunks * _TAG_BYTES


def _chunks(size: int) -> Iterator[tuple[bytes, slice, slice]]:
    """For each chunk its nonce, its place in the bundle and its place after the file key.

    The nonce is the chunk's number in 11 bytes, then 1 for the last chunk, else 0.
    """
    for index, start in enumerate(range(0, size, CHUNK_BYTES)):
        end = min(start + CHUNK_BYTES, size)
        nonce = index.to_bytes(11, "big") + bytes([end == size])
        tags = index * _TAG_BYTES
        yield nonce, slice(start, end), slice(start + tags, end + tags + _TAG_BYTES)


def _info(header: bytes, device_id: str, digest: str) -> bytes:
    device = device_id.encode()
    if not 0 < len(device) < 256:
        raise InvalidInput("a device id has 1 to 255 bytes")
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"{digest!r} is not a sha256 in hex")
    return b"".join((_CONTEXT, header, bytes([len(device)]), device, bytes.fromhex(digest)))
