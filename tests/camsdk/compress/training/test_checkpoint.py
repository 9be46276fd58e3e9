"""A checkpoint belongs to the program that wrote it."""

import shutil
from pathlib import Path

import pytest

from camsdk import compress
from camsdk.compress.training.checkpoint import code_digest


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
