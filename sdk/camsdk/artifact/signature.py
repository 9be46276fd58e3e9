"""The last 96 bytes of a bundle: who signed it (32) and the Ed25519 signature (64).

What is signed is ``CONTEXT`` and the SHA-256 of all bytes before the block, so a signature made for
anything else is worth nothing here. The block of a draft, which nobody has signed, is all zeros and
is always refused: an all-zero key would be a point of small order, under which forging is easy.
"""

from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from camsdk.artifact.keys import PUBLIC_KEY_BYTES, key_id, public_bytes
from camsdk.errors import ArtifactRefused

CONTEXT: Final = b"camplatform bundle signature v1\x00"
BLOCK_BYTES: Final = PUBLIC_KEY_BYTES + 64
DRAFT: Final = bytes(BLOCK_BYTES)


def sign(body_sha256: bytes, key: Ed25519PrivateKey) -> bytes:
    """The 96-byte block for a body with this SHA-256 (32 bytes)."""
    return public_bytes(key) + key.sign(CONTEXT + body_sha256)


def signer_of(block: bytes) -> bytes:
    """Whose block it claims to be: a public key of 32 bytes, or empty for a draft. Unverified."""
    return b"" if block == DRAFT else block[:PUBLIC_KEY_BYTES]


def verify(block: bytes, body_sha256: bytes, trust_keys: Sequence[bytes]) -> bytes:
    """Check a block against the keys that are trusted.

    Args:
        block: 96 bytes.
        body_sha256: Of all bytes before the block.
        trust_keys: Ed25519 public keys, 32 bytes each.

    Returns:
        The public key that signed.

    Raises:
        ArtifactRefused: A draft, an unknown signer or a wrong signature.
    """
    signer = signer_of(block)
    if not signer:
        raise ArtifactRefused("the artifact is not signed", "sign it with camctl model sign")
    if signer not in trust_keys:
        raise ArtifactRefused(
            f"the artifact is signed by {key_id(signer)}, which is not trusted",
            "sign it with a key that the fleet trusts",
        )
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(
            block[PUBLIC_KEY_BYTES:], CONTEXT + body_sha256
        )
    except (InvalidSignature, ValueError) as error:  # ValueError: not a point of the curve
        raise ArtifactRefused(
            f"the signature by {key_id(signer)} does not fit: the artifact was changed",
            "fetch it again",
        ) from error
    return signer
