"""Benchmarks are run by hand and seldom: that each still starts is held here."""

import argparse
import json
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


def test_the_lead_of_ours_is_told_over_the_seeds_that_all_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    report = runpy.run_path(str(FOLDER / "compression.py"))["report"]

    def result(method: str, row: str, seed: int, test: float) -> dict[str, object]:
        return {"method": method, "net": "n", "row": row, "seed": seed, "test": test, "start": 89.0}

    results = [result("float", "float", seed, 90.0) for seed in (0, 1, 2)]
    results += [result("ours", "S90", seed, 89.5) for seed in (0, 1, 2)]
    results += [result("magnitude", "S90", seed, 89.0 - seed) for seed in (0, 1)]
    results += [result("ours", "S95", 0, 88.0), result("ours", "S90W3A8", 0, 88.0)]
    told = report(results, ["n"])
    assert "| n | S90 | **+0.50 ± 0.00** | +1.50 ± 0.50 | not run | open |" in told
    assert "| n | S95 | **+2.00 (one seed)** | not run | not run | open |" in told
    assert "| n | S90W3A8 | **+2.00 (one seed)** | no peer does it |" in told
    results += [result("magnitude_distilled", "S90", seed, 89.4) for seed in (1, 2)]
    told = report(results, ["n"])
    assert "| +0.60 ± 0.00 | +0.10 (magnitude_distilled; one seed) |" in told


def test_work_that_is_left_is_told_of_runs_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    program = runpy.run_path(str(FOLDER / "macs.py"))
    import compression

    net, epochs = "resnet18-w16", 1.0
    (tmp_path / f"{net}-0-{compression.digest('pretrain')}.pt").touch()
    for row, method, test, macs in (
        ("float", "float", 92.0, 1.0), ("M18", "ours", 91.9, 0.179), ("M8", "ours", 90.5, 0.08),
    ):  # fmt: skip
        name = f"{net}-{row}-{method}-0-{epochs:g}-{compression.digest(method)}.json"
        (tmp_path / name).write_text(json.dumps({"test": test, "macs": macs}))
    asked = argparse.Namespace(
        net=net, seeds=1, epochs=epochs, rows=["M18", "M8"], out=tmp_path, jobs=1
    )
    found = program["points"](list(program["measured"](asked)))
    assert [(point.row, point.share) for point in found] == [("M8", 0.08), ("M18", 0.179)]
    assert found[1].drop == pytest.approx(0.1)


def test_a_digest_is_of_what_code_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    from peers import environments

    code = tmp_path / "code.py"
    found = []
    for text in (
        'def f(x):\n    """One."""\n    return x + 1\n',
        '"""Of a module."""\n\n\ndef f(x):\n    return (x + 1)  # why\n',
        'def f(x):\n    """One."""\n    return x + 2\n',
        'def f(x):\n    "One."; print("One.")\n    return x + 1\n',
    ):
        code.write_text(text)
        found.append(environments.digest([code]))
    assert found[0] == found[1]
    assert len(set(found)) == 3
    other = tmp_path / "weights.pt"
    other.write_bytes(b"\x80")
    assert environments.digest([code, other]) != found[3] == environments.digest([code])
