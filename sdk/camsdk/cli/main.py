"""``camctl``: all commands, and the one place where an error becomes a sentence.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. The agent and the cloud add their
commands through the entry-point group ``camctl.commands``, so that nothing here imports them.
Command modules import what is heavy inside their functions: ``camctl --help`` stays quick.
"""

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Annotated

import typer
from typer.main import get_command

from camsdk import __version__
from camsdk.cli import (
    assets,
    deploy,
    device,
    doctor,
    events,
    fleet,
    model,
    model_build,
    model_sign,
    rollout,
    rules,
    search,
    status,
    token,
)
from camsdk.cli.demo import command as demo
from camsdk.cli.extras import explain
from camsdk.cli.output import report_error
from camsdk.cli.usage import WrongUsage
from camsdk.errors import CamError, InternalError

COMMANDS_GROUP = "camctl.commands"
# Threads that wait for each other in a busy loop take the processor from the one that is waited
# for as soon as anything else runs: a compression took 4 to 13 times as long. Matrix products alone
# gain 5% by a second thread. Libraries read this when they are loaded.
_PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}

log = logging.getLogger(__name__)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"camctl {__version__}")
        raise typer.Exit


def root(
    verbosity: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="More logs; twice for all.")
    ] = 0,
    is_version_wanted: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Cameras see, the cloud understands, and each camera keeps getting a better model.

    Start with `camctl demo`, or with `camctl serve` and `camctl doctor`.

    Every command has --help and --json.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def build_app() -> typer.Typer:
    """All commands, those of the installed packages included."""
    app = typer.Typer(
        name="camctl",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(root)
    model_build.register(model.app)
    model_sign.register(model.app)
    groups = {
        "assets": assets.app,
        "deploy": deploy.app,
        "device": device.app,
        "events": events.app,
        "fleet": fleet.app,
        "model": model.app,
        "rollout": rollout.app,
        "rules": rules.app,
        "token": token.app,
    }
    for name, group in groups.items():
        app.add_typer(group, name=name)
    for module in (demo, doctor, search, status):
        module.register(app)
    add_installed_commands(app)
    return app


@functools.cache
def root_command() -> Callable[..., object]:
    """All commands, ready to run with this process' arguments; built once."""
    return get_command(build_app())


def add_installed_commands(app: typer.Typer) -> None:
    """Adds the commands of other packages; one that cannot be imported costs only its own."""
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        try:
            register = entry.load()
        except (ImportError, AttributeError) as error:
            log.warning("the commands of %r are missing: %s", entry.name, error)
        else:
            register(app)


def main() -> None:
    """Runs ``camctl`` and exits."""
    # gRPC's core logs to standard error by itself; what it means is in our own errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # onnxruntime >= 1.29 sends usage data and keeps a folder for it; it reads this when imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    for key, value in _PATIENT.items():
        os.environ.setdefault(key, value)
    is_json = "--json" in sys.argv
    try:
        root_command()(prog_name="camctl")
    except CamError as error:
        report_error(error, is_json=is_json)
        sys.exit(2 if isinstance(error, WrongUsage) else 1)
    except Exception as error:  # noqa: BLE001 - outermost frame: a sentence, not a traceback
        known = explain(error) if isinstance(error, ModuleNotFoundError) else None
        if {"-v", "-vv", "--verbose"} & set(sys.argv):
            traceback.print_exception(error)
        mistake = InternalError(
            f"unexpected failure: {type(error).__name__}: {error}",
            "this is our mistake: please report it with the output of `camctl -vv ...`",
        )
        report_error(known or mistake, is_json=is_json)
        sys.exit(1)


if __name__ == "__main__":
    main()
