"""Enrolment against the real server: one token, one device, whatever the caller tries."""

import asyncio

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from camcloud.api.auth import identity_of
from camcloud.fleet import tokens
from camproto.v1 import api_pb2, device_pb2
from camsdk.wire.tokens import decode_token
from support.embedded_cloud import FLEET, HARDWARE, CloudHarness, make_csr, make_key


def request(secret: str, **changes: object) -> device_pb2.EnrollRequest:
    fields: dict[str, object] = {
        "token": secret,
        "csr_der": make_csr(make_key()[0]),
        "sealing_key": bytes(32),
        "hardware": HARDWARE,
    }
    return device_pb2.EnrollRequest(**{**fields, **changes})


async def test_a_device_gets_a_certificate_with_the_clouds_names(cloud: CloudHarness) -> None:
    device = await cloud.enrol("cam-7")
    identity = identity_of(x509.load_pem_x509_certificate(device.answer.certificate_chain_pem))
    assert (identity.device_id, identity.fleet) == ("cam-7", FLEET)
    assert device.answer.artifact_trust_keys == b"".join(cloud.cloud.control.trust_keys)
    shown = await cloud.api.GetDevice(api_pb2.GetDeviceRequest(device_id="cam-7"))
    assert shown.hardware == HARDWARE
    assert (shown.last_seen_timestamp_s, shown.is_connected) == (0.0, False), "it never connected"
    lifetime_s = shown.certificate_expires_timestamp_s - shown.enrolled_timestamp_s
    assert lifetime_s == pytest.approx(86_400, abs=10)


async def test_one_token_under_50_racers_makes_one_device(cloud: CloudHarness) -> None:
    secret = await cloud.bootstrap_secret()
    stubs = [cloud.enrolment() for _ in range(5)]
    csr = make_csr(make_key()[0])
    results = await asyncio.gather(
        *(
            stubs[n % 5].Enroll(request(secret, proposed_name=f"racer-{n}", csr_der=csr))
            for n in range(50)
        ),
        return_exceptions=True,
    )
    winners = [item for item in results if isinstance(item, device_pb2.EnrollResponse)]
    losers = [item for item in results if isinstance(item, grpc.aio.AioRpcError)]
    assert len(winners) == 1
    assert {item.code() for item in losers} == {grpc.StatusCode.UNAUTHENTICATED}
    assert len(losers) == 49
    devices = await cloud.api.ListDevices(api_pb2.ListDevicesRequest())
    assert [item.device_id for item in devices.devices] == [winners[0].device_id]


async def test_unknown_and_expired_tokens_are_refused(cloud: CloudHarness) -> None:
    await cloud.have_fleet()
    answer = await cloud.api.CreateBootstrapToken(
        api_pb2.CreateBootstrapTokenRequest(fleet=FLEET, lifetime_s=0.05)
    )
    await asyncio.sleep(0.1)
    for secret, words in (
        ("guess", "not known"),
        ("", "not known"),
        (decode_token(answer.tokens[0]).secret, "expired"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
            await cloud.enrolment().Enroll(request(secret))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_refused_request_leaves_the_token_good(cloud: CloudHarness) -> None:
    secret = await cloud.bootstrap_secret()
    await cloud.enrol("taken")
    stub = cloud.enrolment()
    rsa_key = rsa.generate_private_key(65_537, 2048)
    rsa_csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    der = rsa_csr.sign(rsa_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    csr = bytearray(make_csr(make_key()[0]))
    csr[-1] ^= 1
    for changes, code in (
        ({"proposed_name": "taken"}, grpc.StatusCode.ALREADY_EXISTS),
        ({"proposed_name": "../etc"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"sealing_key": bytes(31)}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"hardware": "CPU; DROP"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"labels": {"a b": "c"}}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"csr_der": b"nonsense"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"csr_der": bytes(csr)}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"csr_der": der}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"csr_der": bytes(17_000)}, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enroll(request(secret, **changes))
        assert caught.value.code() is code, changes
    answer = await stub.Enroll(request(secret))
    assert answer.device_id.startswith("cam-")


async def test_the_store_keeps_no_secret(cloud: CloudHarness) -> None:
    secret = await cloud.bootstrap_secret()
    folder = cloud.cloud.workspace.folder
    stored = b"".join(path.read_bytes() for path in folder.glob("store.db*"))
    assert secret.encode() not in stored
    assert cloud.admin_token.encode() not in stored
    assert tokens.API_PREFIX.encode() not in stored


async def test_oversize_requests_and_metadata_are_refused(cloud: CloudHarness) -> None:
    stub = cloud.enrolment()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Enroll(request("x", csr_der=bytes(100_000)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Enroll(request("x"), metadata=(("x-large", "y" * 40_000),))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
