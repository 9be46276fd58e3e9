"""The data folder: its first credentials, their modes, and its lock."""

import stat
from pathlib import Path

import pytest

from camcloud.fleet import tokens
from camcloud.fleet.authority import CertificateAuthority
from camcloud.store import migrate
from camcloud.store.database import Database
from camcloud.workspace import Workspace
from camsdk.artifact.keys import load_signing_key, public_bytes
from camsdk.errors import Conflict, DataCorrupted, PermissionDenied, Unavailable


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "data")


@pytest.fixture
def database(workspace: Workspace):
    database = Database(workspace.store_path)
    migrate.upgrade(database)
    yield database
    database.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_has_one_owner_at_a_time(workspace: Workspace) -> None:
    with workspace.owned(), pytest.raises(Conflict, match="Another cloud"), workspace.owned():
        pass
    with workspace.owned():
        assert mode_of(workspace.folder) == 0o700


def test_the_administrators_token_is_made_once_and_kept(
    workspace: Workspace, database: Database
) -> None:
    workspace.ensure_admin_token(database, 1.0)
    token = workspace.admin_token_path.read_text()
    assert mode_of(workspace.admin_token_path) == 0o600
    workspace.ensure_admin_token(database, 2.0)
    assert workspace.admin_token_path.read_text() == token
    caller = database.run(lambda c: tokens.identify(c, token.strip(), 1e12))
    assert (caller.name, caller.is_read_only) == ("admin", False)


@pytest.mark.parametrize("content", [None, b"camapi1_other\n", b"\xff\xfe"])
def test_a_lost_or_foreign_token_file_is_replaced_and_the_old_token_ends(
    workspace: Workspace, database: Database, content: bytes | None
) -> None:
    workspace.ensure_admin_token(database, 1.0)
    old = workspace.admin_token_path.read_text().strip()
    workspace.admin_token_path.unlink()
    if content is not None:
        workspace.admin_token_path.write_bytes(content)
    workspace.ensure_admin_token(database, 2.0)
    new = workspace.admin_token_path.read_text().strip()
    assert database.run(lambda c: tokens.identify(c, new, 3.0)).name == "admin"
    with pytest.raises(tokens.Unauthenticated):
        database.run(lambda c: tokens.identify(c, old, 3.0))


def test_the_signing_key_is_made_once_and_kept(workspace: Workspace) -> None:
    (first,) = workspace.trust_keys()
    assert workspace.trust_keys() == (first,)
    path = workspace.keys_dir / "signing.key"
    assert public_bytes(load_signing_key(path)) == first
    assert mode_of(path) == 0o600
    (workspace.keys_dir / "signing.pub").unlink()
    path.chmod(0o644)
    with pytest.raises(PermissionDenied):
        workspace.trust_keys()


def test_the_authority_is_made_once_and_kept(workspace: Workspace) -> None:
    first = CertificateAuthority.load_or_create(workspace.pki_dir)
    assert CertificateAuthority.load_or_create(workspace.pki_dir).ca_pem == first.ca_pem
    assert mode_of(workspace.pki_dir / "ca.key") == 0o600
    other = CertificateAuthority.load_or_create(workspace.folder / "other")
    (workspace.pki_dir / "ca.pem").write_bytes(other.ca_pem)
    with pytest.raises(DataCorrupted, match="is not the key of"):
        CertificateAuthority.load_or_create(workspace.pki_dir)
    (workspace.pki_dir / "ca.key").write_bytes(b"nonsense")
    with pytest.raises(DataCorrupted, match="cannot be read"):
        CertificateAuthority.load_or_create(workspace.pki_dir)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="choose another with --data"):
        Workspace(tmp_path / "file" / "data")
