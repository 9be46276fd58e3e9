"""A checkpoint belongs to the program that wrote it."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from camsdk import compress
from camsdk.compress.training.checkpoint import (
    Checkpoint,
    Origin,
    code_digest,
    read_checkpoint,
    write_checkpoint,
)
from camsdk.errors import CamError, InvalidInput, ResourceExhausted

ORIGIN = Origin("a", "b", "c", "d")
STATE = Checkpoint(3, [0.5], {}, {}, {})


@pytest.mark.parametrize(
    "name",
    ["training/admm.py", "codes.py", "options.py", "sparsity.py", "graph/qdq.py", "ptq/sparse.py"],
)
def test_every_module_of_compression_counts(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "compress"
    source = Path(compress.__file__).parent
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_digest(folder) == code_digest()
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert code_digest(folder) != code_digest()


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        (errno.ENOSPC, ResourceExhausted, "make room"),
        (errno.EROFS, InvalidInput, "another folder"),
    ],
)
def test_a_disk_that_takes_nothing_is_said_to(
    code: int, kind: type[CamError], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "missing" / "x"
    write_checkpoint(path, STATE, ORIGIN)

    def fail(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=f"^{path} cannot be used: {os.strerror(code)}") as caught:
        write_checkpoint(path, Checkpoint(4, [0.5], {}, {}, {}), ORIGIN)
    assert hint in caught.value.hint
    assert read_checkpoint(path, ORIGIN) == STATE


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "folder"):
        with pytest.raises(InvalidInput, match=f"^{path} cannot be used") as caught:
            write_checkpoint(path, STATE, ORIGIN)
        assert "another folder" in caught.value.hint
    with pytest.raises(InvalidInput, match="cannot be used"):
        read_checkpoint(tmp_path / "folder", ORIGIN)
