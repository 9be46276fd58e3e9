"""Files are whole or absent, and on the disk before their name is."""

import fcntl
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from camsdk.files import clear_drafts, write_atomic, write_synced


def test_a_write_replaces_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two", memoryview(b" and three"), mode=0o644)
    assert path.read_bytes() == b"two and three"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("umask", "mode", "expected"),
    [(0o000, 0o600, 0o600), (0o077, 0o644, 0o644), (0o027, None, 0o640)],
)
def test_a_mode_does_not_depend_on_the_umask(
    umask: int, mode: int | None, expected: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "file", b"", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == expected


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
    write_atomic(tmp_path / "file", b"content")
    assert done == ["7 bytes", "name", "folder"]


def test_a_write_that_fails_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")

    def broken(_descriptor: int) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="input/output"):
        write_atomic(path, b"two")
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_kill_left_of_one_file_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    for name in ("[a-z]", "b"):
        with pytest.raises(KeyboardInterrupt):
            write_atomic(tmp_path / name, b"content")
    clear_drafts(tmp_path / "[a-z]")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".b.")


def test_what_another_run_is_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    sync = os.fsync

    def cleared_meanwhile(descriptor: int) -> None:
        clear_drafts(path)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", cleared_meanwhile)
    write_atomic(path, b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"content"


def test_a_draft_that_is_cleared_before_it_is_locked_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    lock = fcntl.flock
    cleared: list[Path] = []

    def late(file: BinaryIO, operation: int) -> None:
        if not cleared:
            cleared.extend(tmp_path.iterdir())
            cleared[0].unlink()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    write_atomic(path, b"content")
    assert len(cleared) == 1
    assert path.read_bytes() == b"content"


def test_a_new_file_goes_over_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "file", b"two", mode=None)
    assert (tmp_path / "file").read_bytes() == b"one"
