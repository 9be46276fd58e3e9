"""Environments of the peers of a benchmark, kept in the user's cache folder, and digests of code.

Every peer gets an environment of its own at its first run, since their pins exclude each other.
"""

import ast
import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path

import platformdirs

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
CACHE = Path(platformdirs.user_cache_dir("camplatform")) / "benchmarks"
TORCH = "torch==2.13.0"


def interpreter(name: str, pins: Sequence[str]) -> Path:
    """Python of the environment ``name`` with what is pinned; made if there is none.

    No pins stand for the environment that runs this.
    """
    if not pins:
        return Path(sys.executable)
    folder = CACHE / name
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(pins)
    if not done.is_file() or done.read_text() != wanted:
        print(f"making the environment of {name} ...", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        command = [python, "-m", "pip", "install", "--quiet", "platformdirs", *pins]
        subprocess.run(command, check=True, timeout=1800, stdout=sys.stderr)
        done.write_text(wanted)
    return python


def environment() -> dict[str, str]:
    """For the processes: where the networks and recipes are, one thread each.

    glibc gives large tensors back to the kernel and asks for them anew at every operation unless it
    is told not to: 5 to 10% of a training.
    """
    paths = os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT / "sdk")))
    memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
    return {**os.environ, **memory, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def digest(paths: Iterable[Path]) -> str:
    """Of the files and of all Python below the folders; what does not exist is left out.

    Of Python what it does counts, not its comments, its docstrings or its layout.
    """
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(_code(file) if file.suffix == ".py" else file.read_bytes())
    return total.hexdigest()[:12]


def _code(file: Path) -> bytes:
    return ast.dump(_Undocumented().visit(ast.parse(file.read_text(encoding="utf-8")))).encode()


class _Undocumented(ast.NodeTransformer):
    """Takes away statements that are nothing but a text."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def imported(files: Iterable[Path]) -> list[Path]:
    """The files and all of this project that they import, directly or not, in order of names."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for name in _names(ast.parse(file.read_text())):
            waiting += [at for at in _places(name) if at.is_file()]
    return sorted(found)


def _names(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _places(name: str) -> Iterable[Path]:
    """Where a module of this project may be."""
    for root in (FOLDER.parent, ROOT / "sdk"):
        below = root.joinpath(*name.split("."))
        yield from (below.with_suffix(".py"), below / "__init__.py")
