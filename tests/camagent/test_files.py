"""Files are whole or absent; a folder has one owner."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from camagent.files import FolderLock, write_atomic
from camsdk.errors import Conflict


def test_a_write_replaces_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


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


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(Conflict, match="another agent"):
        FolderLock(tmp_path, wait_s=0.06)
    lock.release()
    FolderLock(tmp_path, wait_s=0.0).release()


def test_a_killed_owner_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from camagent.files import FolderLock;"
        "lock = FolderLock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(Conflict):
            FolderLock(tmp_path, wait_s=0.0)
        owner.kill()
        FolderLock(tmp_path).release()
