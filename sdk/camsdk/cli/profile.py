"""How a command reaches the cloud: shared options, environment, profile, embedded default.

The options of the command line win over ``CAMCTL_*`` variables, those over the profile. This is
the one place where ``camctl`` reads the environment for it.
"""

import dataclasses
import functools
import inspect
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from camsdk.cli.output import Output
from camsdk.errors import Unauthenticated, Unavailable

if TYPE_CHECKING:
    from camsdk.client import Client, Credentials
    from camsdk.client.profiles import Profile

PANEL = "Which cloud"
_TARGET_OPTIONS = ("server", "token_file", "ca", "profile", "data")

ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="CAMCTL_SERVER",
        metavar="HOST:PORT",
        help="Address of the cloud's API. Default: the profile's, else the embedded cloud's.",
        rich_help_panel=PANEL,
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="CAMCTL_TOKEN_FILE",
        metavar="PATH",
        help="File with the API token. The variable CAMCTL_TOKEN may hold the token itself.",
        rich_help_panel=PANEL,
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="CAMCTL_CA",
        metavar="PATH",
        help="CA certificate (PEM) that the cloud's certificate must chain to.",
        rich_help_panel=PANEL,
    ),
]
ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile",
        envvar="CAMCTL_PROFILE",
        metavar="NAME",
        help="Profile of the config file, or 'embedded'.",
        rich_help_panel=PANEL,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="CAMCTL_DATA",
        metavar="DIR",
        help="Data folder of an embedded cloud on this machine, instead of a profile.",
        rich_help_panel=PANEL,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, for programs.")
]


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, instead of in the environment or nowhere."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@dataclasses.dataclass(frozen=True)
class Target:
    """Which cloud a command was told to use; empty fields are left to the profile.

    Attributes:
        has_own_token: Whether ``CAMCTL_TOKEN`` is for another cloud than this.
    """

    server: str = ""
    token_file: Path | None = None
    ca: Path | None = None
    profile: str = ""
    data: Path | None = None
    has_own_token: bool = False

    @staticmethod
    def of_command(context: typer.Context, values: Mapping[str, Any]) -> "Target":
        """What the running command was told.

        ``--data`` on the command line names a cloud with its address, token and certificate: those
        of the environment are for another, and are not shown to this one. ``--profile`` there wins
        over ``CAMCTL_DATA``.

        Args:
            context: Of the command: knows which options were typed.
            values: The shared options by the names of the fields.
        """
        said = {name for name in values if is_typed(context, name)}
        if "data" in said:
            kept = {name: value for name, value in values.items() if name in said}
            return Target(**kept, has_own_token=True)
        if "profile" in said:
            return Target(**{**values, "data": None})
        return Target(**values)

    def is_unset(self) -> bool:
        """Whether nothing was said: the default cloud is meant."""
        return self == Target() and not os.environ.get("CAMCTL_TOKEN")

    def resolve(self) -> "Profile":
        """The profile, with what the command line says put over it.

        Raises:
            Unavailable: The data folder that was named has no running cloud. Its default address
                is not tried: another cloud may have it.
            CamError: The config file is not valid or has no such profile.
        """
        from camsdk.client.profiles import EMBEDDED, embedded_profile, find_profile, running_server

        config = os.environ.get("CAMCTL_CONFIG", "")
        if self.data is not None:
            if not self.server and not running_server(self.data):
                way_out = f"camctl serve --data {shlex.quote(str(self.data))}"
                raise Unavailable(
                    f"the cloud of {self.data} is not running", f"start it with `{way_out}`"
                )
            profile = embedded_profile(self.data)
        else:
            profile = find_profile(self.profile, Path(config) if config else None)
        ca_file = self.ca or profile.ca_file
        if self.server and ca_file and profile.name == EMBEDDED and not ca_file.exists():
            # Another cloud than the one of this machine, which has never run here.
            ca_file = self.ca
        return dataclasses.replace(
            profile,
            server=self.server or profile.server,
            token_file=self.token_file or profile.token_file,
            ca_file=ca_file,
        )

    def credentials(self) -> "Credentials":
        """Token and certificate.

        Raises:
            CamError: A file is missing or holds no token.
        """
        from camsdk.client import Credentials

        profile = self.resolve()
        if self.is_unset() and profile.is_absent():
            raise Unauthenticated(
                "no cloud has been set up for this user",
                "start one with `camctl serve`, or name one with --server and --token-file",
            )
        is_said = self.token_file is not None or self.has_own_token
        token = "" if is_said else os.environ.get("CAMCTL_TOKEN", "")
        return Credentials.from_files(profile.token_file, profile.ca_file, token=token)

    def connect(self, timeout_s: float = 10.0) -> "Client":
        """A client; nothing is sent yet."""
        from camsdk.client import Client

        return Client(self.resolve().server, credentials=self.credentials(), timeout_s=timeout_s)


class Cloud:
    """What a cloud command gets: ``client``, connected at first use, and ``out``."""

    def __init__(self, target: Target, *, is_json: bool) -> None:
        self.target = target
        self.out = Output(is_json=is_json)
        self._client: Client | None = None

    @property
    def client(self) -> "Client":
        """The connection to the cloud."""
        if self._client is None:
            self._client = self.target.connect()
        return self._client

    def __enter__(self) -> "Cloud":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()


Work = TypeVar("Work", bound=Callable[..., None])


def _shared(
    context: typer.Context,
    server: ServerOption = "",
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    profile: ProfileOption = "",
    data: DataOption = None,
    is_json: JsonOption = False,
) -> None:
    """Carries the signature of the options that every cloud command has."""


def cloud_command(app: typer.Typer, name: str, **settings: Any) -> Callable[[Work], Work]:
    """Registers ``work(cloud, ...)`` as a command with the shared options added to its own.

    Args:
        app: The group.
        name: The command's name in it.
        settings: For ``typer``'s ``command``.
    """

    def decorate(work: Work) -> Work:
        own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
        shared = list(inspect.signature(_shared).parameters.values())

        @functools.wraps(work)
        def run(
            *,
            context: typer.Context,
            is_json: bool,
            **arguments: Any,
        ) -> None:
            told = {name: arguments.pop(name) for name in _TARGET_OPTIONS}
            with Cloud(Target.of_command(context, told), is_json=is_json) as cloud:
                work(cloud, **arguments)

        keyword_only = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *shared]
        ]
        signature = inspect.Signature(keyword_only)
        run.__signature__ = signature  # type: ignore[attr-defined] # typer reads the options here
        app.command(name, **settings)(run)
        return work

    return decorate
