"""The entry point: light to start, open to other packages, helpful to shells."""

import logging
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from camsdk.cli import main as main_module
from camsdk.cli.main import add_installed_commands
from support.fake_api import ADMIN, FakeCloud

from .conftest import Camctl


def _python(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from camsdk.cli.main import build_app\n"
        "build_app()\n"
        "heavy = {'numpy', 'grpc', 'cv2', 'av', 'onnxruntime', 'onnx', 'torch', 'sqlalchemy',"
        " 'pydantic', 'cryptography'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert _python(program).strip() == "[]"


def test_the_client_needs_no_terminal_packages() -> None:
    program = "import sys, camsdk.client; print({'typer', 'rich', 'cv2'} & set(sys.modules))"
    assert _python(program).strip() == "set()"


def test_no_command_lets_onnxruntime_keep_usage_data(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "camsdk.cli.main", "doctor", "--json"]
    outcome = subprocess.run(command, env=home, capture_output=True, text=True, check=False)
    assert '"packages"' in outcome.stdout, outcome.stderr
    assert [path for path in tmp_path.rglob("*") if "microsoft" in path.name.lower()] == []


def test_threads_do_not_wait_in_busy_loops_unless_one_says_so() -> None:
    program = (
        "import os, sys; from camsdk.cli.main import main\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['OPENBLAS_NUM_THREADS'])"
    )
    unset = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "OPENBLAS_"))}
    for given, expected in (({}, "PASSIVE 1"), ({"OPENBLAS_NUM_THREADS": "2"}, "PASSIVE 2")):
        said = subprocess.run(
            [sys.executable, "-c", program, "--version"],
            env=unset | given, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert said.stdout.splitlines()[-1] == expected


def test_version(camctl: Camctl) -> None:
    assert camctl("--version").out.startswith("camctl ")


def test_no_arguments_print_help(camctl: Camctl) -> None:
    outcome = camctl()
    assert "rollout" in outcome.out + outcome.err


def test_profile_file_and_flags(
    cloud: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SERVER", "TOKEN_FILE", "CA"):
        monkeypatch.delenv(f"CAMCTL_{name}")
    nothing = camctl("fleet", "list")
    assert nothing.code == 1
    assert "no cloud has been set up" in nothing.err
    assert "camctl serve" in nothing.err
    (tmp_path / "config.toml").write_text(
        f'[profiles.park]\nserver = "{cloud.endpoint}"\ntoken_file = "token"\nca = "ca.pem"\n'
    )
    assert camctl("fleet", "list", "--profile", "park", "--json").json == {"fleets": []}
    monkeypatch.setenv("CAMCTL_PROFILE", "park")
    assert camctl("fleet", "list", "--json").json == {"fleets": []}
    (tmp_path / "config.toml").write_text(
        '[profiles.park]\nserver = "127.0.0.1:1"\ntoken_file = "token"\nca = "ca.pem"\n'
    )
    assert camctl("fleet", "list", "--server", cloud.endpoint).code == 0
    monkeypatch.setenv("CAMCTL_SERVER", cloud.endpoint)
    monkeypatch.setenv("CAMCTL_TOKEN", "wrong")
    assert camctl("fleet", "list").code == 1
    monkeypatch.setenv("CAMCTL_TOKEN", ADMIN)
    assert camctl("fleet", "list").code == 0
    assert "no profile is called 'x'" in camctl("fleet", "list", "--profile", "x").err


def test_the_embedded_cloud_is_found_by_its_folder(
    cloud: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SERVER", "TOKEN_FILE", "CA"):
        monkeypatch.delenv(f"CAMCTL_{name}")
    folder = tmp_path / "data" / "camplatform" / "cloud"
    (folder / "pki").mkdir(parents=True)
    (folder / "admin.token").write_text(ADMIN)
    (folder / "pki" / "ca.pem").write_bytes(cloud.tls.ca_pem)
    (folder / "ready.json").write_text(f'{{"api": "127.0.0.1:{cloud.port}"}}')
    assert camctl("status", "--json").json["status"]["version"] == "fake"
    elsewhere = folder.rename(tmp_path / "elsewhere")
    assert camctl("status").code == 1
    assert camctl("status", "--data", elsewhere).code == 0


def test_a_cloud_that_is_named_is_shown_no_token_of_another(
    cloud: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "pki").mkdir(parents=True)
    (folder / "admin.token").write_text(ADMIN)
    (folder / "pki" / "ca.pem").write_bytes(cloud.tls.ca_pem)
    (folder / "ready.json").write_text(f'{{"api": "127.0.0.1:{cloud.port}"}}')
    (tmp_path / "config.toml").write_text(
        f'[profiles.park]\nserver = "{cloud.endpoint}"\ntoken_file = "token"\nca = "ca.pem"\n'
    )
    monkeypatch.setenv("CAMCTL_SERVER", "127.0.0.1:1")
    monkeypatch.setenv("CAMCTL_TOKEN_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("CAMCTL_TOKEN", "of another cloud")
    named = camctl("status", "--data", folder)
    assert named.code == 0, named.err
    for name in ("SERVER", "TOKEN_FILE", "TOKEN"):
        monkeypatch.delenv(f"CAMCTL_{name}")
    monkeypatch.setenv("CAMCTL_DATA", str(tmp_path / "nowhere"))
    assert camctl("status", "--profile", "park").code == 0


@pytest.mark.parametrize("is_typed", [True, False])
def test_the_cloud_of_a_folder_that_is_down_is_not_looked_for_elsewhere(
    camctl: Camctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_typed: bool
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError("an address was asked")

    monkeypatch.setattr("camsdk.client.Client.__init__", connect)
    folder = tmp_path / "my cloud"
    folder.mkdir()
    (folder / "admin.token").write_text(ADMIN)
    if not is_typed:
        monkeypatch.setenv("CAMCTL_DATA", str(folder))
    said = ("--data", folder) if is_typed else ()
    down = camctl("status", *said, "--json")
    assert down.code == 1
    assert down.json["error"] == {
        "reason": "unavailable",
        "message": f"the cloud of {folder} is not running",
        "hint": f"start it with `camctl serve --data '{folder}'`",
    }
    checks = {row["name"]: row for row in camctl("doctor", *said, "--json").json["checks"]}
    assert checks["cloud"]["verdict"] == "failed"
    assert "is not running" in checks["cloud"]["detail"]


def test_a_typed_profile_wins_over_the_environments_folder(
    camctl: Camctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAMCTL_DATA", str(tmp_path))
    assert "is not running" in camctl("status").err
    assert "no profile is called 'nope'" in camctl("status", "--profile", "nope").err


def _complete(camctl: Camctl, monkeypatch: pytest.MonkeyPatch, words: str) -> set[str]:
    monkeypatch.setenv("_CAMCTL_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    shown = camctl().out
    monkeypatch.delenv("_CAMCTL_COMPLETE")
    return set(shown.replace('"', " ").replace("'", " ").replace(":", " ").split())


def test_completion_knows_the_clouds_names(
    cloud: FakeCloud, camctl: Camctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    camctl("fleet", "create", "park-a")
    camctl("fleet", "create", "yard")
    cloud.add_device("cam-1")
    camctl("deploy", "model", "--fleet", "park-a")
    complete = lambda words: _complete(camctl, monkeypatch, words)  # noqa: E731 - short
    assert {"park-a"} <= complete("camctl fleet show p")
    assert "yard" not in complete("camctl fleet show p")
    assert "cam-1" in complete("camctl device show ")
    assert "r1" in complete("camctl rollout watch ")
    assert "park-a" in complete("camctl deploy model --fleet ")
    assert {"fleet", "device", "doctor"} <= complete("camctl ")
    cloud.stop()
    monkeypatch.setattr("camsdk.cli.complete.TIMEOUT_S", 0.1)
    assert "park-a" not in complete("camctl fleet show p")
    cloud.start()


def test_a_package_that_does_not_import_costs_only_its_commands(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [
        EntryPoint("broken", "no_such_package:register", "camctl.commands"),
        EntryPoint("good", f"{__name__}:register", "camctl.commands"),
    ]
    monkeypatch.setattr(main_module, "entry_points", lambda group: entries)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    app = typer.Typer()
    with caplog.at_level(logging.WARNING):
        add_installed_commands(app)
    assert [info.name for info in app.registered_commands] == ["extra"]
    assert "no_such_package" in caplog.text


def register(app: typer.Typer) -> None:
    """What another package brings."""

    @app.command("extra")
    def extra() -> None:
        """Does nothing."""


@pytest.mark.alone
@pytest.mark.slow
def test_help_is_quick() -> None:
    """The best of three, since other processes run too; the budget is half a second."""
    spent_s = []
    for _ in range(3):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "camsdk.cli.main", "--help"], check=True, capture_output=True
        )
        after = os.times()
        spent_s.append(after.elapsed - before.elapsed)
    assert min(spent_s) <= 0.5, spent_s
