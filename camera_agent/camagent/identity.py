"""Who this device is: keys, certificate, and what it trusts; one private file, always consistent.

Key and certificate change together (renewal makes a new key), so all of an identity stands in one
JSON file of mode 0600 that is replaced by one rename: a kill leaves the old or the new, never a key
without its certificate. The private keys never leave the device; a request carries only the public
halves.
"""

import base64
import json
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from camsdk.errors import (
    DataCorrupted,
    InvalidInput,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from camsdk.files import write_atomic

FILE_NAME: Final = "identity.json"
_OTHERS: Final = 0o077
# Renewal falls at a random point between: a fleet that enrolled at once does not renew at once, and
# a third of the life is left for outages (design: security, promise 2).
_RENEW_FROM: Final = 0.50
_RENEW_UNTIL: Final = 0.66


@dataclass(frozen=True)
class Identity:
    """An enrolled device.

    Attributes:
        device_id, fleet: As the cloud named them; the certificate says the same.
        hardware: Runtime and machine that artifacts must be made for, e.g. ``cpu-x86_64``.
        endpoint: ``host:port`` of the cloud's device gateway.
        key_pem: Private key of the certificate, PKCS #8.
        chain_pem: Certificate chain, the device's own first.
        ca_pem: What the cloud's certificate must chain to.
        sealing_key: X25519 private key, 32 bytes: artifacts are encrypted to its public half.
        trust_keys: Ed25519 public keys, 32 bytes each, of which one must have signed an artifact.
    """

    device_id: str
    fleet: str
    hardware: str
    endpoint: str
    key_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    ca_pem: bytes = field(repr=False)
    sealing_key: bytes = field(repr=False)
    trust_keys: tuple[bytes, ...] = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The device's own certificate."""
        return x509.load_pem_x509_certificate(self.chain_pem)

    @property
    def not_after_s(self) -> float:
        """End of the certificate's life, seconds since the Unix epoch."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def unsealing_key(self) -> X25519PrivateKey:
        """Opens what was sealed to this device."""
        return X25519PrivateKey.from_private_bytes(self.sealing_key)

    def has_expired(self, now_s: float) -> bool:
        """Whether the certificate itself is the reason that the cloud refuses the connection.

        A refused handshake shows only "socket closed", so an agent cannot tell expiry from an
        outage except by its own certificate.
        """
        return now_s >= self.not_after_s

    def renewal_due_s(self) -> float:
        """When to renew, seconds since the Unix epoch: 50 to 66% of life, fixed per certificate."""
        certificate = self.certificate
        start_s = certificate.not_valid_before_utc.timestamp()
        jitter = random.Random(certificate.serial_number)  # noqa: S311 # spreads load, no secret
        part = jitter.uniform(_RENEW_FROM, _RENEW_UNTIL)
        return start_s + part * (self.not_after_s - start_s)

    def renewed(self, key_pem: bytes, chain_pem: bytes, ca_pem: bytes) -> "Identity":
        """This device under its next certificate.

        Raises:
            DataCorrupted: the certificate does not belong to the key, or names another device.
        """
        following = replace(
            self, key_pem=key_pem, chain_pem=chain_pem, ca_pem=ca_pem or self.ca_pem
        )
        check_certificate(following)
        return following


def new_key() -> bytes:
    """A fresh ECDSA P-256 private key, PKCS #8 PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signing_request(key_pem: bytes, name: str) -> bytes:
    """A PKCS #10 request, DER. The cloud takes only its public key; ``name`` is decoration."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or "camera")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(_load_key(key_pem), hashes.SHA256()).public_bytes(Encoding.DER)


def check_certificate(identity: Identity) -> None:
    """Refuses an answer of the cloud that would lock the device out.

    Raises:
        DataCorrupted: certificate and key do not belong together, or it names another device.
    """
    try:
        certificate = identity.certificate
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        is_ours = certificate.public_key() == _load_key(identity.key_pem).public_key()
    except ValueError as error:
        raise DataCorrupted("the cloud's certificate for this device does not parse") from error
    if not is_ours or [name.value for name in names] != [identity.device_id]:
        raise DataCorrupted("the cloud's certificate is for another key or device")


def load_identity(data_dir: Path) -> Identity:
    """Reads the identity that enrolment left.

    Raises:
        NotFound: this device is not enrolled.
        PermissionDenied: others may read its private keys.
        DataCorrupted: the file is damaged.
    """
    path = data_dir / FILE_NAME
    try:
        text = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise NotFound(
            f"this device is not enrolled: {path} cannot be read",
            "run camctl agent enroll --token TOKEN with the same data folder",
        ) from error
    if mode & _OTHERS:
        raise PermissionDenied(f"others may read the private keys in {path}", f"chmod 600 {path}")
    try:
        values: dict[str, Any] = json.loads(text)
        identity = Identity(
            device_id=str(values["device_id"]),
            fleet=str(values["fleet"]),
            hardware=str(values["hardware"]),
            endpoint=str(values["endpoint"]),
            key_pem=values["key_pem"].encode(),
            chain_pem=values["chain_pem"].encode(),
            ca_pem=values["ca_pem"].encode(),
            sealing_key=base64.b64decode(values["sealing_key"], validate=True),
            trust_keys=tuple(base64.b64decode(key, validate=True) for key in values["trust_keys"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataCorrupted(
            f"the identity {path} is damaged",
            "enrol this device again: camctl agent enroll --replace --token TOKEN",
        ) from error
    check_certificate(identity)
    return identity


def prepare_folder(data_dir: Path) -> None:
    """Makes the folder of an identity, mode 0700, and proves that a file can be kept in it.

    Called before a token is spent: it works once, and what it bought must find its place.

    Raises:
        InvalidInput: nothing can be written there.
    """
    probe = data_dir / f".{FILE_NAME}.probe"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(probe, b"{}")
        probe.unlink()
    except OSError as error:
        raise InvalidInput(
            f"no identity can be kept in {data_dir}: {error.strerror}",
            "name a folder that can be written with --data; the token has not been used",
        ) from error


def save_identity(identity: Identity, data_dir: Path) -> None:
    """Replaces the identity, whole or not at all; mode 0600.

    Raises:
        ResourceExhausted: the disk is full or fails; the identity there is what it was.
    """
    values = {
        "device_id": identity.device_id,
        "fleet": identity.fleet,
        "hardware": identity.hardware,
        "endpoint": identity.endpoint,
        "key_pem": identity.key_pem.decode(),
        "chain_pem": identity.chain_pem.decode(),
        "ca_pem": identity.ca_pem.decode(),
        "sealing_key": base64.b64encode(identity.sealing_key).decode(),
        "trust_keys": [base64.b64encode(key).decode() for key in identity.trust_keys],
    }
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(data_dir / FILE_NAME, json.dumps(values, indent=1).encode())
    except OSError as error:
        raise ResourceExhausted(
            f"the identity cannot be kept in {data_dir}: {error.strerror}",
            "free or repair the device's disk",
        ) from error


def expiry_text(identity: Identity) -> str:
    """End of the certificate's life for people."""
    return datetime.fromtimestamp(identity.not_after_s, UTC).isoformat(timespec="seconds")


def _load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DataCorrupted("the device's key is not an elliptic-curve key")
    return key
