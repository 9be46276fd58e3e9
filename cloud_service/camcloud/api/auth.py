"""Who is calling: the device behind a client certificate, the person behind an API token.

A device's name comes from its certificate and from nowhere else: the subject alternative name
``spiffe://camplatform/fleet/<fleet>/device/<device_id>`` (SPIFFE ID, section 2 of the
specification), which this platform's certificate authority wrote at enrolment.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

from camsdk.errors import Unauthenticated

TRUST_DOMAIN = "camplatform"
NAME_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
"""Grammar of fleet and device names: a DNS label, so that it fits certificates and file names."""

_SPIFFE = re.compile(
    rf"spiffe://{TRUST_DOMAIN}/fleet/(?P<fleet>{NAME_PATTERN})/device/(?P<device_id>{NAME_PATTERN})"
)


class PeerContext(Protocol):
    """The part of ``grpc.aio.ServicerContext`` that names the peer."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Properties of the authenticated connection, empty without TLS."""
        ...


@dataclass(frozen=True)
class DeviceIdentity:
    """A device as its certificate names it.

    Attributes:
        device_id: Name of the device, unique in the cloud.
        fleet: Fleet that it enrolled into.
        serial: Serial number of the certificate, lower-case hexadecimal.
        expires_timestamp_s: End of the certificate's validity, seconds since the Unix epoch.
    """

    device_id: str
    fleet: str
    serial: str = ""
    expires_timestamp_s: float = float("inf")


def spiffe_uri(fleet: str, device_id: str) -> str:
    """The SPIFFE ID of a device."""
    return f"spiffe://{TRUST_DOMAIN}/fleet/{fleet}/device/{device_id}"


def device_of(context: PeerContext) -> DeviceIdentity:
    """The device on the other end of an mTLS connection.

    The TLS layer has already checked the chain, the dates and the extended key usage; whether the
    certificate has been revoked is the :class:`~camcloud.api.guard.DeviceGuard`'s question.

    Raises:
        Unauthenticated: No client certificate, or one that names no device.
    """
    pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    if pem is None:
        raise Unauthenticated(
            "The connection carries no device certificate.", "enrol the device first"
        )
    return identity_of(x509.load_pem_x509_certificate(pem))


def identity_of(certificate: x509.Certificate) -> DeviceIdentity:
    """The device that a certificate names.

    Raises:
        Unauthenticated: The certificate has not exactly one SPIFFE URI of this platform.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        uris = []
    else:
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    match = _SPIFFE.fullmatch(uris[0]) if len(uris) == 1 else None
    if match is None:
        raise Unauthenticated("The certificate names no device.", "enrol the device again")
    return DeviceIdentity(
        device_id=match["device_id"],
        fleet=match["fleet"],
        serial=f"{certificate.serial_number:x}",
        expires_timestamp_s=certificate.not_valid_after_utc.timestamp(),
    )
