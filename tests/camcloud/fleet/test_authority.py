"""What the authority signs, and how many certificates of a device are in force."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from camcloud.fleet import certificates
from camcloud.fleet.authority import CertificateAuthority, DeviceCertificate
from camsdk.errors import InvalidInput
from support.embedded_cloud import make_csr, make_key
from support.store_rows import add_device, add_fleet, open_store


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.generate("test CA")


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.ExtensionType:
    return certificate.extensions.get_extension_for_class(kind).value


def test_the_authority_signs_leaves_only(authority: CertificateAuthority) -> None:
    certificate = x509.load_pem_x509_certificate(authority.ca_pem)
    assert extension(certificate, x509.BasicConstraints).path_length == 0
    usage = extension(certificate, x509.KeyUsage)
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)


def test_a_device_certificate_has_the_clouds_names_and_one_purpose(
    authority: CertificateAuthority,
) -> None:
    key, _ = make_key()
    made = authority.issue_device(make_csr(key, "admin"), fleet="park-a", device_id="cam-1")
    certificate = x509.load_pem_x509_certificate(made.pem)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=cam-1"
    names = extension(certificate, x509.SubjectAlternativeName)
    assert list(names) == [
        x509.UniformResourceIdentifier("spiffe://camplatform/fleet/park-a/device/cam-1")
    ]
    assert list(extension(certificate, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extension(certificate, x509.BasicConstraints).ca
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc
    assert certificate.not_valid_after_utc - now <= datetime.timedelta(hours=24)


def test_the_clouds_certificate_serves_and_nothing_else(authority: CertificateAuthority) -> None:
    certificate = authority.issue_server(["127.0.0.1", "cloud.example"]).certificate
    names = extension(certificate, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["cloud.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert list(extension(certificate, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_weak_curve_is_refused(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP192R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    der = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    with pytest.raises(InvalidInput, match="of another kind"):
        authority.issue_device(der, fleet="park-a", device_id="cam-1")


def test_the_newest_certificates_of_a_device_are_in_force() -> None:
    database = open_store()
    # Serials fall, so that nothing is in the right order by chance.
    made = [DeviceCertificate(b"", f"{99 - n:x}", 1_000.0 + n) for n in range(20)]

    def fill(connection: object) -> dict[str, str]:
        add_fleet(connection, "park-a")
        for name in ("cam-1", "cam-2"):
            add_device(connection, name, "park-a")
        other = DeviceCertificate(b"", "ff", 2_000.0)
        certificates.record(connection, "cam-2", other, 0.0)
        for number, certificate in enumerate(made):
            certificates.record(connection, "cam-1", certificate, float(number))
        return certificates.in_force(connection, [item.serial for item in made] + ["ff", "ee"])

    newest = {item.serial: "cam-1" for item in made[-certificates.MAX_IN_FORCE :]}
    assert database.run(fill) == {**newest, "ff": "cam-2"}

    def renew_later(connection: object) -> dict[str, str]:
        later = DeviceCertificate(b"", "aa", 3_000.0)
        certificates.record(connection, "cam-1", later, 1_018.5)
        return certificates.in_force(connection, [item.serial for item in made] + ["aa"])

    assert database.run(renew_later) == {made[-1].serial: "cam-1", "aa": "cam-1"}
    database.close()
