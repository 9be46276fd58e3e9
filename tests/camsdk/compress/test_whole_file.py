"""Files are whole or absent, and on the disk before their name is."""

import os
import stat
from pathlib import Path

import pytest

from camsdk.compress.whole_file import read_whole, write_whole
from camsdk.errors import DataCorrupted


def test_a_file_is_forced_to_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if is_folder else f"{os.fstat(descriptor).st_size} bytes")
        sync(descriptor)

    def replaced(before: Path, after: Path) -> Path:
        done.append("name")
        return replace(before, after)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_whole(tmp_path / "x", b"A\n", b"content")
    assert done == ["41 bytes", "name", "folder"]
    assert read_whole(tmp_path / "x", b"A\n", "file") == b"content"


def test_a_write_that_fails_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write_whole(path, b"A\n", b"one")

    def broken(_descriptor: int) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="input/output"):
        write_whole(path, b"A\n", b"two")
    assert read_whole(path, b"A\n", "file") == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_what_a_kill_left_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"

    def killed(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"A\n", b"one")
    assert list(tmp_path.iterdir())
    assert read_whole(path, b"A\n", "file") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"A", b"A\n", b"B\n" + bytes(40)])
def test_a_file_of_another_kind_is_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataCorrupted, match="is no kept file, or is damaged"):
        read_whole(tmp_path / "x", b"A\n", "kept file")
