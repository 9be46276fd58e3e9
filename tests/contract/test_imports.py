"""What the linter cannot see: a fresh interpreter that imports the agent loads nothing heavy."""

import json
import pkgutil
import subprocess
import sys

import camagent

FORBIDDEN = {"torch", "onnx", "sqlalchemy", "typer", "rich"}
PROGRAM = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted({module.split(".")[0] for module in sys.modules})))
"""


def agent_modules() -> list[str]:
    """Every module of the agent but its command module, which is the CLI's."""
    found = [m.name for m in pkgutil.walk_packages(camagent.__path__, "camagent.")]
    return ["camagent", *(name for name in found if name != "camagent.command")]


def test_the_agent_loads_nothing_heavy():
    modules = agent_modules()
    assert "camagent.pipeline" in modules
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(run.stdout))
    assert "camagent" in loaded
    assert not loaded & FORBIDDEN


def test_the_sdk_loads_its_client_only_when_asked():
    program = "import sys, camsdk; print('grpc' in sys.modules, 'camsdk.client' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False", "False"]
