"""``camctl serve``: the embedded cloud as a command.

What is heavy is imported inside the function: every run of ``camctl`` loads this module.
"""

import asyncio
import json
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camsdk.errors import InvalidInput

if TYPE_CHECKING:
    from camcloud.serve import Cloud, ServeSettings

DEFAULT_ADDRESS = "127.0.0.1:8443"

_GREETING = """\
The cloud serves. Stop it with Ctrl-C; it goes on from {data_dir} when started again.

  API         {api}
  devices     {device}
  enrolment   {enrolment}
  CA          {ca}
  API token   {admin_token_file}

Next, in another terminal:
{environment}  camctl fleet create park-a
  camctl token create --fleet park-a
  camctl agent enroll --token TOKEN
  camctl doctor"""

_ENVIRONMENT = """\
  export CAMCTL_SERVER={api}
  export CAMCTL_TOKEN_FILE={admin_token_file}
  export CAMCTL_CA={ca}
"""


def register(app: typer.Typer) -> None:
    """Adds ``serve``."""
    app.command("serve")(serve)


def serve(
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Data folder. Default: the user's own."),
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            "--grpc",
            metavar="HOST:PORT",
            help="Address of the user API; devices get the next port, enrolment the one after. "
            "Port 0 takes free ones.",
        ),
    ] = DEFAULT_ADDRESS,
    advertise: Annotated[
        str,
        typer.Option(
            "--advertise",
            metavar="HOST",
            help="Name or address that others reach this machine by; needed beyond loopback.",
        ),
    ] = "",
    is_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when ready.")
    ] = False,
) -> None:
    """Run the embedded cloud: gateway, analysis, registry, rollouts, enrolment, API."""
    from camcloud.listeners import Address
    from camcloud.serve import ServeSettings
    from camsdk.client.profiles import embedded_data_dir

    try:
        Address.parse(address)
    except InvalidInput as error:
        raise typer.BadParameter(str(error), param_hint="--grpc") from error
    settings = ServeSettings(data or embedded_data_dir(), address, advertise)
    _raise_file_limit()
    os.umask(0o077)  # databases and blobs are nobody else's, in whatever folder
    with asyncio.Runner(loop_factory=_loop_factory) as runner:
        runner.run(_serve(settings, is_json=is_json))


async def _serve(settings: "ServeSettings", *, is_json: bool) -> None:
    from camcloud.serve import serving

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings) as cloud:
        _announce(cloud, is_json=is_json)
        ends = {asyncio.create_task(stop.wait()), asyncio.create_task(cloud.failure())}
        done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()


def _announce(cloud: "Cloud", *, is_json: bool) -> None:
    ready = cloud.ready()
    if is_json:
        print(json.dumps(ready), flush=True)
        return
    from camsdk.client.profiles import embedded_data_dir

    # camctl finds the default folder by itself; any other must be named.
    is_default = cloud.workspace.folder == embedded_data_dir()
    environment = "" if is_default else _ENVIRONMENT.format(**ready)
    print(_GREETING.format(environment=environment, **ready), flush=True)


def _loop_factory() -> asyncio.AbstractEventLoop:
    # About a third more messages per second than asyncio's own loop; not made for Windows.
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _raise_file_limit() -> None:
    """Every device costs a descriptor, and the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
