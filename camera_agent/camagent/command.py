"""``camctl agent``: enrol this device, and run it.

The one module of the agent that knows typer. It only starts what other modules do.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from camsdk.errors import AlreadyExists, NotFound

_DATA_HELP = "Folder of the agent: identity, outbox, artifacts. Private."
# Cameras run side by side, so threads within one matrix product only cost; and freed memory that
# each thread's own arena keeps adds up. Whoever starts the agent may say otherwise.
_LEAN = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]

app = typer.Typer(no_args_is_help=True, help="The camera agent: enrol this device and run it.")


def register(parent: typer.Typer) -> None:
    """Adds ``agent`` to ``camctl``."""
    parent.add_typer(app, name="agent")


def default_data_dir() -> Path:
    """Where an agent keeps its data unless it is told otherwise."""
    import platformdirs

    return platformdirs.user_data_path("camplatform", appauthor=False) / "agent"


@app.command()
def enroll(
    token: Annotated[
        str,
        typer.Option(
            "--token",
            envvar="CAMCTL_AGENT_TOKEN",
            help="One-time token from `camctl token create`; the environment hides it from ps.",
        ),
    ],
    server: Annotated[
        str, typer.Option("--server", help="host:port of the enrolment; by default the token's.")
    ] = "",
    data: Annotated[Path | None, typer.Option("--data", help=_DATA_HELP)] = None,
    name: Annotated[
        str, typer.Option("--name", help="Wish for the device's name; empty lets the cloud choose.")
    ] = "",
    is_replacing: Annotated[
        bool, typer.Option("--replace", help="Give up the identity that is there.")
    ] = False,
    is_json: _JsonOption = False,
) -> None:
    """Trade a one-time token for this device's certificate and keys."""
    from camagent.enrolment import enroll as enroll_device
    from camagent.identity import expiry_text, load_identity, prepare_folder, save_identity
    from camsdk.artifact.hardware import local_hardware
    from camsdk.wire.tokens import decode_token

    folder = data or default_data_dir()
    bootstrap = decode_token(token)
    if not is_replacing:
        try:
            present = load_identity(folder)
        except NotFound:
            pass
        else:
            raise AlreadyExists(
                f"this device is enrolled as {present.device_id} in {folder}",
                "use another --data, or --replace to give that identity up",
            )
    prepare_folder(folder)
    endpoint = server.removeprefix("grpcs://")
    identity = enroll_device(bootstrap, hardware=local_hardware(), endpoint=endpoint, name=name)
    save_identity(identity, folder)
    if is_json:
        result = {
            "device_id": identity.device_id,
            "fleet": identity.fleet,
            "hardware": identity.hardware,
            "device_endpoint": identity.endpoint,
            "certificate_expires_timestamp_s": identity.not_after_s,
            "data_dir": str(folder),
        }
        print(json.dumps(result, indent=2))
    else:
        print(
            f"enrolled as {identity.device_id} in fleet {identity.fleet}, "
            f"certificate until {expiry_text(identity)}, renewed by itself\n"
            f"next: camctl agent run --config agent.yaml, with data_dir: {folder}"
        )


@app.command()
def run(
    config: Annotated[
        Path, typer.Option("--config", help="agent.yaml; its relative paths count from its folder.")
    ],
    is_json: _JsonOption = False,
) -> None:
    """Run this device until it is told to stop, or its recordings have ended.

    SIGTERM and Ctrl-C end it cleanly; what was not shipped waits in the outbox for the next start.
    With --json the last figures are printed at the end.
    """
    arguments = [sys.executable, "-P", "-m", "camagent", "--config", str(config)]
    level = min(logging.INFO, logging.getLogger().getEffectiveLevel())
    arguments += ["--log-level", str(level)]
    arguments += ["--json"] * is_json
    # The agent takes this process over: same pid, same signals, without the memory of camctl.
    environment = _LEAN | os.environ
    os.execve(sys.executable, arguments, environment)  # noqa: S606 # no shell, all built here
