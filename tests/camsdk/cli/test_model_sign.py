import errno
import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from camproto.v1 import api_pb2
from camsdk.artifact import keys
from camsdk.artifact.bundle import open_bundle, read_unverified
from camsdk.cli.model import app
from camsdk.errors import AlreadyExists, DataCorrupted, InvalidInput, NotFound, PermissionDenied
from support.artifacts import make_bundle
from support.fake_api import FakeCloud

if TYPE_CHECKING:
    from conftest import Camctl


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.cam"
    path.write_bytes(make_bundle(None))
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "release.key"
    keys.save_private_key(keys.generate_signing_key(), path)
    return path


def test_sign_in_place_and_show(draft: Path, key: Path, tmp_path: Path) -> None:
    code, text = run("sign", draft, "--key", key, "--json")
    assert code == 0
    public = keys.public_bytes(keys.load_signing_key(key))
    opened = open_bundle(draft.read_bytes(), [public])
    assert json.loads(text) == {
        "path": str(draft),
        "reference": "tiny:1",
        "digest": opened.digest,
        "signer": keys.key_id(public),
    }
    pub = tmp_path / "release.pub"
    keys.save_public_key(public, pub)
    code, text = run("show", draft, "--trust", pub, "--json")
    shown = json.loads(text)
    assert code == 0
    assert shown["signature"] == "valid"
    assert shown["digest"] == opened.digest
    assert shown["manifest"]["input"]["width"] == 32
    code, text = run("show", draft, "--trust", pub)
    assert code == 0
    assert "tiny:1" in text
    assert "valid by" in text
    assert "boxes-scores-classes" in text


def test_sign_to_another_file_leaves_the_first(draft: Path, key: Path, tmp_path: Path) -> None:
    before = draft.read_bytes()
    code, text = run("sign", draft, "--key", key, "--out", tmp_path / "signed.cam")
    assert code == 0
    assert draft.read_bytes() == before
    assert read_unverified((tmp_path / "signed.cam").read_bytes()).digest in text
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "release.key",
        "signed.cam",
        "tiny.cam",
    ]


def test_a_version_that_is_taken_costs_no_new_run(draft: Path, key: Path) -> None:
    """Signed again or for the first time: what the registry has under tiny:1 stays."""
    before = read_unverified(draft.read_bytes())
    for options, reference in (
        (("--version", 4), "tiny:4"),
        (("--name", "tiny-w4"), "tiny-w4:4"),
    ):
        text = run("sign", draft, "--key", key, *options, "--json")[1]
        assert json.loads(text)["reference"] == reference
        public = keys.public_bytes(keys.load_signing_key(key))
        opened = open_bundle(draft.read_bytes(), [public])
        assert opened.manifest.reference == reference
        assert opened.members == before.members
        named = {"name": before.manifest.name, "version": before.manifest.version}
        assert opened.manifest.model_copy(update=named) == before.manifest
    content = draft.read_bytes()
    with pytest.raises(InvalidInput, match="name"):
        run("sign", draft, "--key", key, "--name", "Two Words")
    assert run("sign", draft, "--key", key, "--version", 0)[0] == 2
    assert draft.read_bytes() == content


def test_what_follows_can_be_pasted(draft: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "my net.cam"
    result = CliRunner().invoke(app, ["sign", str(draft), "--key", str(key), "-o", str(out)])
    assert f"next: camctl model push '{out}'" in result.stderr


def test_a_new_key_is_made_only_when_asked_for(draft: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.key"
    with pytest.raises(NotFound) as caught:
        run("sign", draft, "--key", path)
    assert "devices trust only the key of their cloud" in caught.value.hint
    assert run("sign", draft, "--key", path, "--create-key")[0] == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    public = keys.load_trust_keys([tmp_path / "new.key.pub"])
    assert open_bundle(draft.read_bytes(), public).manifest.name == "tiny"
    made = path.read_bytes()
    assert run("sign", draft, "--key", path, "--create-key")[0] == 0
    assert path.read_bytes() == made


def test_a_new_key_has_both_halves_or_is_not_made(
    draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsigned = draft.read_bytes()
    with pytest.raises(InvalidInput, match=r"there is no folder .*gone"):
        run("sign", draft, "--key", tmp_path / "gone" / "x.key", "--create-key")
    path, public = tmp_path / "x.key", tmp_path / "x.key.pub"
    public.write_text("of another key")
    for _ in range(2):
        with pytest.raises(AlreadyExists, match=r"x\.key\.pub, the public half of another key"):
            run("sign", draft, "--key", path, "--create-key")
        assert not path.exists()
    public.unlink()
    public.symlink_to("nowhere")
    with pytest.raises(AlreadyExists, match=r"x\.key\.pub, the public half of another key"):
        run("sign", draft, "--key", path, "--create-key")
    assert not path.exists()
    public.unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keys, "save_public_key", full)
    with pytest.raises(InvalidInput, match="No space left"):
        run("sign", draft, "--key", path, "--create-key")
    assert not path.exists()
    assert draft.read_bytes() == unsigned


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_key_that_a_disk_fails_to_keep_is_not_left_there(
    draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    synced = list[Path]()

    def fails(folder: Path) -> None:
        synced.append(folder)
        if len(synced) == fails_at:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(keys, "sync_folder", fails)
    with pytest.raises(InvalidInput, match="Input/output error"):
        run("sign", draft, "--key", tmp_path / "x.key", "--create-key")
    assert list(tmp_path.iterdir()) == [draft]


@pytest.mark.parametrize("taken", ["x.key", "x.key.pub"])
def test_a_key_that_another_command_makes_meanwhile_stays(
    draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    ours, other = keys.generate_signing_key(), keys.generate_signing_key()

    def made_meanwhile() -> object:
        if taken == "x.key":
            keys.save_private_key(other, tmp_path / taken)
        else:
            keys.save_public_key(keys.public_bytes(other), tmp_path / taken)
        return ours

    monkeypatch.setattr(keys, "generate_signing_key", made_meanwhile)
    with pytest.raises(AlreadyExists, match="a key is never overwritten"):
        run("sign", draft, "--key", tmp_path / "x.key", "--create-key")
    assert set(tmp_path.iterdir()) == {draft, tmp_path / taken}


def test_a_folder_does_not_hide_a_model_of_its_name(
    camctl: "Camctl", cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_unverified(make_bundle(None)).manifest
    cloud.state.models["tiny"] = api_pb2.Model(
        name="tiny", version="1", digest="d" * 64, manifest_json=manifest.to_bytes().decode()
    )
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    shown = camctl("model", "show", "tiny")
    assert shown.code == 0, shown.err
    assert "d" * 64 in shown.out


def test_the_default_key_is_the_embedded_clouds(
    draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "camplatform" / "cloud" / "keys"
    with pytest.raises(NotFound, match=str(folder)):
        run("sign", draft)
    with pytest.raises(InvalidInput, match="--create-key needs --key"):
        run("sign", draft, "--create-key")
    folder.mkdir(parents=True)
    keys.save_private_key(keys.generate_signing_key(), folder / "signing.key")
    assert run("sign", draft)[0] == 0


def _clouds_key(data_dir: Path) -> str:
    """Makes the key of an embedded cloud; returns its id."""
    key = keys.generate_signing_key()
    (data_dir / "keys").mkdir(parents=True)
    keys.save_private_key(key, data_dir / "keys" / "signing.key")
    return keys.key_id(keys.public_bytes(key))


def test_the_key_of_a_named_cloud(
    draft: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first_id, second_id = _clouds_key(first), _clouds_key(second)
    assert json.loads(run("sign", draft, "--data", first, "--json")[1])["signer"] == first_id
    monkeypatch.setenv("CAMCTL_DATA", str(second))
    assert json.loads(run("sign", draft, "--json")[1])["signer"] == second_id
    monkeypatch.setenv("CAMCTL_SIGNING_KEY", str(key))
    own_id = keys.key_id(keys.public_bytes(keys.load_signing_key(key)))
    assert json.loads(run("sign", draft, "--json")[1])["signer"] == own_id
    typed = run("sign", draft, "--data", first, "--json")[1]
    assert json.loads(typed)["signer"] == first_id, "the command line wins"
    both = run("sign", draft, "--data", first, "--key", key, "--json")[1]
    assert json.loads(both)["signer"] == own_id


def test_what_cannot_be_signed(draft: Path, key: Path, tmp_path: Path) -> None:
    assert run("sign", tmp_path / "nothing.cam", "--key", key)[0] == 2
    assert run("sign", tmp_path, "--key", key)[0] == 2
    with pytest.raises(InvalidInput, match="--out"):
        run("sign", draft, "--key", key, "--out", tmp_path / "no" / "folder.cam")
    cut = tmp_path / "cut.cam"
    cut.write_bytes(draft.read_bytes()[:-1])
    with pytest.raises(DataCorrupted):
        run("sign", cut, "--key", key)
    key.chmod(0o644)
    with pytest.raises(PermissionDenied):
        run("sign", draft, "--key", key)


def test_show_says_how_far_a_signature_can_be_trusted(
    draft: Path, key: Path, tmp_path: Path
) -> None:
    assert json.loads(run("show", draft, "--json")[1])["signature"] == "none"
    run("sign", draft, "--key", key)
    assert json.loads(run("show", draft, "--json")[1])["signature"] == "not checked"
    other = tmp_path / "other.pub"
    keys.save_public_key(keys.public_bytes(keys.generate_signing_key()), other)
    code, text = run("show", draft, "--trust", other, "--json")
    assert code == 1
    assert json.loads(text)["signature"] == "refused"


def test_an_unsigned_bundle_is_no_trusted_one(draft: Path, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pub"
    keys.save_public_key(keys.public_bytes(keys.generate_signing_key()), trusted)
    code, text = run("show", draft, "--trust", trusted, "--json")
    assert (code, json.loads(text)["signature"]) == (1, "refused")


def test_trust_is_for_files(tmp_path: Path) -> None:
    pub = tmp_path / "x.pub"
    assert run("show", "tiny:1", "--trust", pub)[0] == 2
    pub.touch()
    with pytest.raises(InvalidInput, match="for a file"):
        run("show", "tiny:1", "--trust", pub)
    with pytest.raises(NotFound):
        run("show", tmp_path / "nothing.cam")
