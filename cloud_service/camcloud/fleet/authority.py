"""The certificate authority of one cloud: it names servers and devices.

Invariants:
- Only the public key of a signing request is used; every name in a certificate is the cloud's.
- A leaf is never a CA, serves one purpose (server or client) and carries its purpose's extended key
  usage alone, so a device cannot pose as the cloud and the cloud's certificate opens no device RPC.
- The CA's path length is 0: nothing that it signed can sign.

Certificates follow RFC 5280; keys are ECDSA P-256, which gRPC's TLS accepts everywhere.
"""

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from camcloud.api.auth import spiffe_uri
from camcloud.fleet.files import write_file
from camsdk.errors import DataCorrupted, InvalidInput

CA_LIFETIME = datetime.timedelta(days=3650)
SERVER_LIFETIME = datetime.timedelta(days=30)
DEVICE_LIFETIME = datetime.timedelta(hours=24)
CLOCK_SKEW = datetime.timedelta(minutes=5)
"""A certificate is valid from this long before it was made, for clocks that are behind."""

MAX_CSR_BYTES = 16_384
_CURVES = (ec.SECP256R1, ec.SECP384R1)


@dataclass(frozen=True)
class DeviceCertificate:
    """A certificate made for a device.

    Attributes:
        pem: The certificate; no intermediate exists.
        serial: Lower-case hexadecimal.
        expires_timestamp_s: End of its validity, seconds since the Unix epoch.
    """

    pem: bytes
    serial: str
    expires_timestamp_s: float


@dataclass(frozen=True)
class ServerCertificate:
    """A server's key and certificate, PEM."""

    key_pem: bytes
    chain_pem: bytes

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return x509.load_pem_x509_certificate(self.chain_pem)


class CertificateAuthority:
    """Signs for one cloud."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self.ca_pem = certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def generate(
        cls, name: str, lifetime: datetime.timedelta = CA_LIFETIME
    ) -> "CertificateAuthority":
        """A new authority with a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _common_name(name)
        builder = (
            _builder(subject, subject, key.public_key(), lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load_or_create(cls, folder: Path) -> "CertificateAuthority":
        """The authority whose ``ca.key`` and ``ca.pem`` lie in ``folder``; made if there is none.

        Raises:
            DataCorrupted: The files do not belong together or do not decode.
            Unavailable: They cannot be written.
        """
        key_path, certificate_path = folder / "ca.key", folder / "ca.pem"
        if certificate_path.is_file():
            return cls._load(key_path, certificate_path)
        authority = cls.generate("camplatform CA")
        # The certificate goes last: a folder without it is made anew.
        write_file(key_path, _private_pem(authority._key), is_private=True)
        write_file(certificate_path, authority.ca_pem, is_private=False)
        return authority

    @classmethod
    def _load(cls, key_path: Path, certificate_path: Path) -> "CertificateAuthority":
        hint = "restore the pki folder from a backup, or move it away to begin anew"
        try:
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise DataCorrupted(f"The CA in {key_path.parent} cannot be read.", hint) from error
        is_pair = (
            isinstance(key, ec.EllipticCurvePrivateKey)
            and key.public_key() == certificate.public_key()
        )
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_pair:
            raise DataCorrupted(f"{key_path} is not the key of {certificate_path}.", hint)
        return cls(key, certificate)

    def issue_server(
        self, hosts: Iterable[str], lifetime: datetime.timedelta = SERVER_LIFETIME
    ) -> ServerCertificate:
        """A new key and a certificate for servers under these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = sorted(set(hosts))
        builder = (
            _builder(_common_name(names[0]), self._certificate.subject, key.public_key(), lifetime)
            .add_extension(
                x509.SubjectAlternativeName([_host_name(name) for name in names]), critical=False
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        certificate = self._sign_leaf(builder)
        return ServerCertificate(
            _private_pem(key), certificate.public_bytes(serialization.Encoding.PEM)
        )

    def issue_device(
        self,
        csr_der: bytes,
        *,
        fleet: str,
        device_id: str,
        lifetime: datetime.timedelta = DEVICE_LIFETIME,
    ) -> DeviceCertificate:
        """A certificate for the key that signed the request.

        Args:
            csr_der: PKCS #10; proves that who asks holds the key. Its subject is ignored.

        Raises:
            InvalidInput: Not a request, not signed by its own key, or of another kind of key.
        """
        public_key = _requested_key(csr_der)
        uri = x509.UniformResourceIdentifier(spiffe_uri(fleet, device_id))
        builder = (
            _builder(_common_name(device_id), self._certificate.subject, public_key, lifetime)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )
        certificate = self._sign_leaf(builder)
        return DeviceCertificate(
            certificate.public_bytes(serialization.Encoding.PEM),
            f"{certificate.serial_number:x}",
            certificate.not_valid_after_utc.timestamp(),
        )

    def _sign_leaf(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        issuer_key = self._key.public_key()
        return (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


def _requested_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    hint = "make the request with an ECDSA P-256 key"
    if len(csr_der) > MAX_CSR_BYTES:
        raise InvalidInput(f"The signing request has {len(csr_der)} bytes.", hint)
    try:
        request = x509.load_der_x509_csr(csr_der)
        is_proven = request.is_signature_valid
        key = request.public_key()
    except ValueError as error:
        raise InvalidInput("The signing request does not decode.", hint) from error
    if not is_proven:
        raise InvalidInput("The signing request is not signed by its own key.", hint)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise InvalidInput("The signing request's key is of another kind.", hint)
    return key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lifetime) - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
