"""Blobs: one suite over the local folder and the memory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcloud import blobs as blobs_module
from camcloud.blobs import Blobs, LocalBlobs, MemoryBlobs, check_key
from camsdk.errors import InvalidInput, NotFound, Unavailable

KEY = "crops/cam-1/7/12-340.jpg"


@pytest.fixture(params=["local", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return LocalBlobs(tmp_path / "blobs") if request.param == "local" else MemoryBlobs()


def test_what_is_put_is_got(blobs: Blobs) -> None:
    assert not blobs.exists(KEY)
    blobs.put(KEY, b"0123456789")
    assert blobs.exists(KEY)
    assert blobs.get(KEY) == b"0123456789"
    assert blobs.get(KEY, 4, 3) == b"456"
    assert blobs.get(KEY, 8) == b"89"
    assert blobs.get(KEY, 20, 5) == b""
    assert blobs.size_bytes(KEY) == 10


def test_the_last_put_wins(blobs: Blobs) -> None:
    blobs.put(KEY, b"first, and longer")
    blobs.put(KEY, b"second")
    assert blobs.get(KEY) == b"second"


def test_what_is_not_there(blobs: Blobs) -> None:
    with pytest.raises(NotFound, match="no blob"):
        blobs.get(KEY)
    with pytest.raises(NotFound, match="no blob"):
        blobs.size_bytes(KEY)
    blobs.put(KEY, b"x")
    blobs.delete(KEY)
    blobs.delete(KEY)
    assert not blobs.exists(KEY)


def test_all_below_a_prefix_goes_and_nothing_beside_it(blobs: Blobs) -> None:
    for key in ("sealed/cam-1/a", "sealed/cam-1/b/c", "sealed/cam-10/a"):
        blobs.put(key, b"x")
    blobs.delete_below("sealed/cam-1")
    blobs.delete_below("sealed/cam-1")
    assert not blobs.exists("sealed/cam-1/a")
    assert not blobs.exists("sealed/cam-1/b/c")
    assert blobs.exists("sealed/cam-10/a")


@pytest.mark.parametrize(
    "key",
    [
        *("", "/etc/passwd", "a//b", "a/", "../up", "a/../b", ".hidden", "a/.tmp", "a b", "a\n"),
        *("a\\b", "file://x", "a/" * 8 + "a", "x" * 129, "é"),
    ],
)
def test_keys_outside_the_grammar_are_refused(blobs: Blobs, key: str) -> None:
    for call in (lambda: blobs.put(key, b""), lambda: blobs.get(key), lambda: blobs.exists(key)):
        with pytest.raises(InvalidInput, match="no blob key"):
            call()


def test_a_negative_range_is_refused(blobs: Blobs) -> None:
    blobs.put(KEY, b"x")
    with pytest.raises(InvalidInput, match="range"):
        blobs.get(KEY, -1)


@given(st.text(max_size=40))
def test_no_accepted_key_leaves_the_root(key: str) -> None:
    try:
        check_key(key)
    except InvalidInput:
        return
    root = Path("/root-of-blobs")
    resolved = (root / key).resolve()
    assert resolved.is_relative_to(root)
    assert resolved != root


def test_a_draft_that_a_crash_left_is_removed_and_never_seen(tmp_path: Path) -> None:
    LocalBlobs(tmp_path)
    draft = tmp_path / ".tmp" / "half"
    draft.write_bytes(b"half a pic")
    LocalBlobs(tmp_path)
    assert not draft.exists()


def test_a_folder_in_the_way_is_reported_as_unavailable(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    (tmp_path / "crops" / "cam-1" / "7" / "12-340.jpg" / "x").mkdir(parents=True)
    with pytest.raises(Unavailable, match="cannot be written"):
        blobs.put(KEY, b"x")
    assert list((tmp_path / ".tmp").iterdir()) == [], "a failed put leaves nothing behind"


def test_every_name_on_the_way_to_a_blob_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = LocalBlobs(tmp_path)
    synced: list[Path] = []
    monkeypatch.setattr(blobs_module, "sync_folder", synced.append)
    blobs.put("crops/cam-1/7/a.jpg", b"x")
    folder = tmp_path / "crops" / "cam-1" / "7"
    assert synced == [tmp_path, tmp_path / "crops", tmp_path / "crops" / "cam-1", folder]
    synced.clear()
    blobs.put("crops/cam-1/7/b.jpg", b"x")
    assert synced == [folder]
