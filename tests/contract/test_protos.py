"""The committed protobuf code is what the .proto files give."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import camproto

ROOT = Path(camproto.__file__).parents[1]


@pytest.mark.slow
def test_generated_code_is_up_to_date(tmp_path):
    protos = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("camproto/v1/*.proto"))
    assert protos
    outputs = [
        f"--{kind}_out={tmp_path}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")
    ]
    plugins = Path(sys.executable).parent
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs, *protos],
        cwd=ROOT, check=True, capture_output=True,
        env={**os.environ, "PATH": f"{plugins}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    fresh = {p.name: p.read_text() for p in (tmp_path / "camproto/v1").iterdir()}
    committed = {
        p.name: p.read_text() for p in (ROOT / "camproto/v1").glob("*_pb2*") if p.suffix != ".pyc"
    }
    assert sorted(fresh) == sorted(committed)
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert not stale, f"run `make proto` and commit: {stale}"
