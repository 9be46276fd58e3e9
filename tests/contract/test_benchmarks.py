"""Benchmarks are run by hand and seldom: that each still starts is held here."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def start(path: Path, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a program, with all that it imports; in this process, so that torch is loaded once."""
    monkeypatch.setattr(sys, "argv", [str(path), option])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_starts(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"\A0\Z"):
        start(path, "--help", monkeypatch)
    usage = capsys.readouterr().out
    assert usage.startswith(f"usage: {path.name}")
    if "--list" in usage:
        start(path, "--list", monkeypatch)
        assert capsys.readouterr().out.count("\n") > 1
