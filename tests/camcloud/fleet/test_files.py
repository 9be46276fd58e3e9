"""The data folder's small files: private from the first moment, and safe once written."""

import os
import stat
from pathlib import Path

import pytest

from camcloud.fleet.files import write_file
from camsdk.errors import Unavailable


@pytest.mark.parametrize(("is_private", "mode"), [(True, 0o600), (False, 0o644)])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, is_private: bool, mode: int) -> None:
    before = os.umask(0o000)
    try:
        write_file(tmp_path / "new" / "key", b"secret", is_private=is_private)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "key").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_content_comes_before_the_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    synced: list[tuple[bool, bool]] = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_file(path, b"certificate", is_private=False)
    assert synced == [(False, False), (True, True)]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    with pytest.raises(Unavailable, match="cannot be written"):
        write_file(tmp_path / "in-the-way" / "key", b"", is_private=True)
