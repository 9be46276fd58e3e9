"""What runs within the limits of an import writes to its folder alone and connects to nothing."""

import socket
import sys
from pathlib import Path

import pytest

from camsdk.compress.importers.confinement import confine
from camsdk.compress.importers.sandbox import Said, run_limited

PROMISES = """
import sys
from camsdk.compress.importers.confinement import confine
sys.exit(0 if confine(sys.argv[1:]) else 7)
"""


def run(folder: Path, program: str, *arguments: object) -> Said:
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return run_limited(command, timeout_s=30.0, memory_bytes=1 << 30, cwd=str(inside))


@pytest.fixture(scope="module", autouse=True)
def _a_kernel_that_promises(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("promises")
    if run(folder, PROMISES, folder).code == 7:
        pytest.skip("this kernel has no Landlock")


def test_the_working_folder_can_be_written(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, tempfile\n"
        "pathlib.Path('kept').write_text('x'); tempfile.TemporaryFile().close()\n"
        "pathlib.Path('gone').mkdir(); os.rmdir('gone'); open(os.devnull, 'w').write('x')"
    )
    said = run(tmp_path, program)
    assert said.code == 0, said.text
    assert (tmp_path / "inside" / "kept").read_text() == "x"


@pytest.mark.parametrize(
    "change",
    [
        "path.write_text('new')",
        "(path.parent / 'other').write_text('new')",
        "path.unlink()",
        "(path.parent / 'made').mkdir()",
        "pathlib.Path('link').symlink_to(path); pathlib.Path('link').write_text('new')",
        "import subprocess; subprocess.run(['rm', str(path)], check=True)",
    ],
)
def test_nothing_else_can_be_changed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "other"
    path.mkdir()
    path = path / "file"
    path.write_text("old")
    said = run(tmp_path, f"import pathlib, sys; path = pathlib.Path(sys.argv[1]); {change}", path)
    assert said.code != 0
    assert "ermission" in said.text or "non-zero" in said.text
    assert path.read_text() == "old"
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_no_connection_can_be_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)"
        said = run(tmp_path, program, server.getsockname()[1])
    assert said.code != 0
    assert "PermissionError" in said.text


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        confine([str(tmp_path / "none")])  # before anything is given up
