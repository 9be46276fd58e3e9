"""An identity is whole, private, and knows its own end."""

import dataclasses
import json
from pathlib import Path

import pytest

from camagent.identity import (
    FILE_NAME,
    Identity,
    check_certificate,
    load_identity,
    new_key,
    prepare_folder,
    save_identity,
)
from camsdk.errors import DataCorrupted, InvalidInput, NotFound, PermissionDenied
from support.fake_cloud import Authority


def test_survives_the_disk(identity: Identity, tmp_path: Path) -> None:
    assert load_identity(tmp_path) == identity
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_secrets_are_not_in_the_repr(identity: Identity) -> None:
    assert "PRIVATE" not in repr(identity)


def test_an_unenrolled_device_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="camctl agent enroll"):
        load_identity(tmp_path)


def test_keys_that_others_may_read_are_refused(identity: Identity, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).chmod(0o644)
    with pytest.raises(PermissionDenied, match="chmod 600"):
        load_identity(tmp_path)


@pytest.mark.parametrize("damage", ["", "{}", '{"device_id": 1', "[]"])
def test_a_damaged_file_is_refused(damage: str, identity: Identity, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(damage)
    with pytest.raises(DataCorrupted, match="enrol this device again"):
        load_identity(tmp_path)


def test_every_missing_field_is_damage(identity: Identity, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    values = json.loads(path.read_text())
    for name in values:
        path.write_text(json.dumps({key: value for key, value in values.items() if key != name}))
        with pytest.raises(DataCorrupted):
            load_identity(tmp_path)


def test_another_key_does_not_fit(identity: Identity) -> None:
    with pytest.raises(DataCorrupted, match="another key"):
        check_certificate(dataclasses.replace(identity, key_pem=new_key()))


def test_another_name_does_not_fit(identity: Identity) -> None:
    with pytest.raises(DataCorrupted, match="another key or device"):
        check_certificate(dataclasses.replace(identity, device_id="gate-2"))


def test_renewal_falls_at_half_to_two_thirds_of_life(identity: Identity) -> None:
    certificate = identity.certificate
    start_s = certificate.not_valid_before_utc.timestamp()
    life_s = identity.not_after_s - start_s
    assert life_s == pytest.approx(86_400, abs=120)
    part = (identity.renewal_due_s() - start_s) / life_s
    assert 0.50 <= part <= 0.66
    assert identity.renewal_due_s() == identity.renewal_due_s()


def test_renewals_are_spread(identity: Identity) -> None:
    authority = Authority()
    public_key = identity.certificate.public_key()
    parts = set()
    for _ in range(20):
        pem = authority.issue(public_key, "gate-1", [], is_server=False)
        parts.add(round(dataclasses.replace(identity, chain_pem=pem).renewal_due_s() / 60))
    assert len(parts) > 10


def test_expiry_is_read_from_the_certificate(identity: Identity) -> None:
    assert not identity.has_expired(identity.not_after_s - 1)
    assert identity.has_expired(identity.not_after_s)


def test_saving_replaces_as_a_whole(identity: Identity, tmp_path: Path) -> None:
    save_identity(dataclasses.replace(identity, endpoint="other:1"), tmp_path)
    assert load_identity(tmp_path).endpoint == "other:1"
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_prepared_folder_is_private_and_empty(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    prepare_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["", "below"])
def test_a_folder_that_takes_no_identity_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match="the token has not been used"):
        prepare_folder(tmp_path / "file" / name)
