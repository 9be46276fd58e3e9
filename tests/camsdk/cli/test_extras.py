"""A plain install says which extra a command needs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from camsdk.cli.extras import EXTRA_OF, demand, explain
from camsdk.errors import NotFound

WITHOUT = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from camsdk.cli.main import main
sys.argv = ["camctl", *{arguments!r}]
main()
"""


def test_every_extra_is_one_of_the_project():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert set(EXTRA_OF.values()) <= set(project["optional-dependencies"])


def test_a_module_of_no_extra_is_not_explained():
    assert explain(ModuleNotFoundError("No module named 'x'", name="x")) is None
    error = explain(ModuleNotFoundError("No module named 'onnx.a'", name="onnx.a"))
    assert isinstance(error, NotFound)
    assert "[model]" in error.hint


def test_demand_lets_pass_what_is_there():
    demand("onnx", "sqlalchemy")


def test_demand_stops_at_what_is_missing(monkeypatch):
    monkeypatch.setitem(EXTRA_OF, "no_such_module", "model")
    with pytest.raises(NotFound, match="no_such_module is not installed"):
        demand("onnx", "no_such_module")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [("sqlalchemy", ["serve"], "cloud"), ("onnx", ["model", "import"], "model")],
)
def test_a_command_without_its_extra_says_so_in_one_sentence(module, arguments, extra, tmp_path):
    program = WITHOUT.format(module=module, arguments=arguments)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 1
    assert f"{module} is not installed" in run.stderr
    assert f"[{extra}]" in run.stderr
    assert "Traceback" not in run.stderr
