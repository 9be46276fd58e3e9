"""A kept file is read back whole, or is said to be damaged."""

import os
from pathlib import Path

import pytest

from camsdk.compress.whole_file import read_whole, write_whole
from camsdk.errors import DataCorrupted


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
    monkeypatch.undo()
    write_whole(path, b"A\n", b"one")
    assert read_whole(path, b"A\n", "file") == b"one"


@pytest.mark.parametrize("content", [b"", b"A", b"A\n", b"B\n" + bytes(40)])
def test_a_file_of_another_kind_is_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataCorrupted, match="is no kept file, or is damaged"):
        read_whole(tmp_path / "x", b"A\n", "kept file")
