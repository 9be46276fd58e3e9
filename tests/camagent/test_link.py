"""Enrolment, renewal, and telling an expired certificate from an outage."""

import dataclasses
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from camagent.enrolment import enroll
from camagent.identity import Identity, load_identity, save_identity
from camagent.link import Backoff, CloudLink
from camproto.v1 import device_pb2
from camsdk.errors import DataCorrupted, InvalidInput, Unauthenticated, Unavailable
from camsdk.wire.tokens import decode_token, encode_token
from support.fake_cloud import FakeCloud


def sync_once(link: CloudLink) -> device_pb2.DesiredState:
    for desired in link.gateway().Sync(iter([device_pb2.DeviceReport()]), timeout=5):
        return desired
    raise AssertionError("no answer")


def test_enrolment_gives_a_working_identity(cloud: FakeCloud, link: CloudLink) -> None:
    assert link.identity.device_id == "gate-1"
    assert link.identity.fleet == "park-a"
    assert sync_once(link).version == 0
    (request,) = cloud.enrolments
    assert len(request.sealing_key) == 32
    assert x509.load_der_x509_csr(request.csr_der).is_signature_valid
    assert request.hardware == "cpu-x86_64"


def test_a_token_serves_once(cloud: FakeCloud) -> None:
    token = decode_token(cloud.token)
    enroll(token, hardware="cpu-x86_64")
    with pytest.raises(Unauthenticated) as caught:
        enroll(token, hardware="cpu-x86_64")
    assert caught.value.message == "this token is not valid"
    assert caught.value.hint == "make a new one"


def test_another_cloud_with_the_same_name_is_not_believed(cloud: FakeCloud) -> None:
    real = decode_token(cloud.token)
    impostor = FakeCloud()
    try:
        text = encode_token(
            f"127.0.0.1:{impostor.enrolment_port}", real.secret, real.fleet, real.ca_pem
        )
        with pytest.raises(Unavailable):
            enroll(decode_token(text), hardware="cpu-x86_64", timeout_s=3)
        assert impostor.enrolments == []
    finally:
        impostor.close()


def test_a_damaged_token_is_refused() -> None:
    with pytest.raises(InvalidInput):
        decode_token("camtok1_abc")


def test_renewal_changes_the_key_and_keeps_the_device(
    cloud: FakeCloud, link: CloudLink, tmp_path: Path
) -> None:
    before = link.identity
    link.renew()
    assert link.generation == 2
    assert link.identity.key_pem != before.key_pem
    assert link.identity.certificate.serial_number != before.certificate.serial_number
    assert load_identity(tmp_path) == link.identity
    assert sync_once(link).version == 0


def test_renewal_waits_for_its_time(cloud: FakeCloud, identity: Identity, tmp_path: Path) -> None:
    now_s = identity.renewal_due_s() - 1
    link = CloudLink(identity, tmp_path, clock=lambda: now_s)
    assert not link.renew_if_due()
    now_s += 2
    cloud.faults.is_refusing = True
    assert not link.renew_if_due()
    cloud.faults.is_refusing = False
    assert not link.renew_if_due()  # not again within the minute
    now_s += 60
    assert link.renew_if_due()
    assert cloud.renewals == 1
    link.close()


def test_a_clock_that_was_ahead_for_a_while_does_not_hold_renewal_up(
    cloud: FakeCloud, identity: Identity, tmp_path: Path
) -> None:
    due_s = identity.renewal_due_s()
    now_s = due_s + 5 * 3600
    link = CloudLink(identity, tmp_path, clock=lambda: now_s)
    cloud.faults.is_refusing = True
    assert not link.renew_if_due()
    cloud.faults.is_refusing = False
    now_s = due_s + 1
    assert link.renew_if_due()
    link.close()


def test_a_full_disk_costs_the_renewal_not_the_agent(
    identity: Identity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "agent"
    folder.write_text("a file where the data folder should be: nothing can be kept")
    now_s = identity.renewal_due_s() + 1
    link = CloudLink(identity, folder, clock=lambda: now_s)
    assert not link.renew_if_due()
    assert "cannot be kept" in caplog.text
    assert (link.identity, link.generation) == (identity, 1)
    folder.unlink()
    now_s += 60
    assert link.renew_if_due()
    link.close()


def test_a_certificate_for_another_device_is_not_taken(link: CloudLink) -> None:
    with pytest.raises(DataCorrupted):
        link.identity.renewed(b"", b"nonsense", b"")
    assert link.generation == 1


def test_expiry_is_told_from_an_outage(
    cloud: FakeCloud, identity: Identity, tmp_path: Path
) -> None:
    key = identity.certificate.public_key()
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier("spiffe://x")]
    chain = cloud.authority.issue(key, "gate-1", names, is_server=False, age_s=100, life_s=50)
    expired = CloudLink(dataclasses.replace(identity, chain_pem=chain), tmp_path)
    with pytest.raises(grpc.RpcError) as caught:
        sync_once(expired)
    explained = expired.explain(caught.value)
    assert isinstance(explained, Unauthenticated)
    assert "expired at" in explained.message
    assert "token" in explained.hint
    expired.close()

    cloud.stop_gateway()
    link = CloudLink(identity, tmp_path)
    with pytest.raises(grpc.RpcError) as caught:
        sync_once(link)
    explained = link.explain(caught.value)
    assert isinstance(explained, Unavailable)
    assert explained.message == f"the cloud at {identity.endpoint} cannot be reached"
    link.close()


def test_a_new_enrolment_ends_an_expiry_without_a_restart(
    cloud: FakeCloud, identity: Identity, tmp_path: Path
) -> None:
    now_s = identity.not_after_s - 1
    link = CloudLink(identity, tmp_path, clock=lambda: now_s)
    now_s += 2
    assert not link.renew_if_due()
    assert cloud.renewals == 0
    cloud.faults.certificate_life_s = 2 * 86_400.0
    again = enroll(decode_token(cloud.token), hardware="cpu-x86_64", name="gate-1")
    save_identity(again, tmp_path)
    assert link.renew_if_due()
    assert link.identity == again
    assert sync_once(link).version == 0
    link.close()


def test_backoff_doubles_to_its_cap() -> None:
    backoff = Backoff(first_s=0.1, cap_s=0.5)
    pauses = [backoff.next_s() for _ in range(6)]
    for pause_s, full_s in zip(pauses, (0.1, 0.2, 0.4, 0.5, 0.5, 0.5), strict=True):
        assert 0.75 * full_s <= pause_s <= full_s
    backoff.reset()
    assert backoff.next_s() <= 0.1


def test_an_outage_is_news_once() -> None:
    backoff = Backoff()
    assert backoff.is_news(Unavailable("away"))
    assert not backoff.is_news(Unavailable("still away"))
    assert backoff.is_news(Unauthenticated("expired"))
    backoff.reset()
    assert backoff.is_news(Unauthenticated("expired"))
