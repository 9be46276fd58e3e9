import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from camsdk.artifact import keys
from camsdk.errors import AlreadyExists, DataCorrupted, InvalidInput, NotFound, PermissionDenied


def test_signing_key_round_trip(tmp_path: Path) -> None:
    key, path = keys.generate_signing_key(), tmp_path / "signing.key"
    keys.save_private_key(key, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.public_bytes(keys.load_signing_key(path)) == keys.public_bytes(key)
    assert [entry.name for entry in tmp_path.iterdir()] == ["signing.key"]


def test_sealing_key_round_trip(tmp_path: Path) -> None:
    key, path = keys.generate_sealing_key(), tmp_path / "sealing.key"
    keys.save_private_key(key, path)
    assert keys.public_bytes(keys.load_sealing_key(path)) == keys.public_bytes(key)


def test_public_keys_round_trip(tmp_path: Path) -> None:
    public = [keys.public_bytes(keys.generate_signing_key()) for _ in range(3)]
    paths = [tmp_path / f"{index}.pub" for index in range(3)]
    for key, path in zip(public, paths, strict=True):
        keys.save_public_key(key, path)
    assert keys.load_trust_keys(paths) == tuple(public)
    assert keys.split_trust_keys(b"".join(public)) == tuple(public)
    assert len({keys.key_id(key) for key in public}) == 3


@pytest.mark.parametrize("joined", [b"", bytes(31), bytes(65)])
def test_joined_keys_of_wrong_length(joined: bytes) -> None:
    with pytest.raises(DataCorrupted):
        keys.split_trust_keys(joined)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    keys.save_private_key(keys.generate_signing_key(), path)
    before = path.read_bytes()
    with pytest.raises(AlreadyExists):
        keys.save_private_key(keys.generate_signing_key(), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["signing.key"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    keys.save_private_key(keys.generate_signing_key(), path)
    path.chmod(0o640)
    with pytest.raises(PermissionDenied, match="chmod 600"):
        keys.load_signing_key(path)


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.save_private_key(keys.generate_signing_key(), tmp_path / "signing.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "signing.key").stat().st_mode) == 0o600


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.key"
    with pytest.raises(NotFound):
        keys.load_signing_key(path)
    with pytest.raises(NotFound):
        keys.load_trust_keys([tmp_path])
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(DataCorrupted):
        keys.load_signing_key(path)
    with pytest.raises(DataCorrupted):
        keys.load_trust_keys([path])
    with pytest.raises(InvalidInput):
        keys.save_public_key(b"short", tmp_path / "x.pub")


def test_keys_of_another_kind(tmp_path: Path) -> None:
    sealing, signing = tmp_path / "sealing.key", tmp_path / "signing.key"
    keys.save_private_key(keys.generate_sealing_key(), sealing)
    keys.save_private_key(keys.generate_signing_key(), signing)
    with pytest.raises(DataCorrupted, match="Ed25519"):
        keys.load_signing_key(sealing)
    with pytest.raises(DataCorrupted, match="X25519"):
        keys.load_sealing_key(signing)
    elliptic = tmp_path / "ec.pub"
    elliptic.write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(DataCorrupted, match="Ed25519"):
        keys.load_trust_keys([elliptic])
