"""``camctl token``: secrets for new devices, people and applications."""

from typing import TYPE_CHECKING, Annotated

import typer

from camsdk.cli import complete
from camsdk.cli.moments import duration_s, show_moment
from camsdk.cli.profile import Cloud, cloud_command

if TYPE_CHECKING:
    from camsdk.client import ApiToken, BootstrapTokens

app = typer.Typer(help="Tokens for new devices, people and applications.", no_args_is_help=True)

BOOTSTRAP_LIFETIME_S = 3600.0
API_LIFETIME_S = 30 * 86400.0


FleetOption = Annotated[
    str,
    typer.Option(
        "--fleet",
        help="Bootstrap token: lets one new device enrol into this fleet.",
        autocompletion=complete.fleets,
    ),
]
ApiOption = Annotated[
    str, typer.Option("--api", metavar="NAME", help="API token for this person or application.")
]
CountOption = Annotated[
    int, typer.Option("--count", min=1, max=1000, help="So many bootstrap tokens.")
]
ReadOnlyOption = Annotated[
    bool, typer.Option("--read-only", help="The API token may look, not change.")
]
LifetimeOption = Annotated[
    float | None,
    typer.Option(
        "--lifetime",
        parser=duration_s,
        metavar="DURATION",
        help="E.g. 30m, 2h, 7d. Default: 1h for devices, 30d for the API.",
    ),
]


@cloud_command(app, "create")
def create(
    cloud: Cloud,
    fleet: FleetOption = "",
    api: ApiOption = "",
    count: CountOption = 1,
    is_read_only: ReadOnlyOption = False,
    lifetime: LifetimeOption = None,
) -> None:
    """Makes a token. It is shown once; the cloud keeps only its hash.

    The token alone goes to standard output: TOKEN=$(camctl token create --fleet park-a)
    """
    if bool(fleet) == bool(api):
        raise typer.BadParameter("give either --fleet NAME or --api NAME")
    made: BootstrapTokens | ApiToken
    if fleet:
        lifetime_s = lifetime or BOOTSTRAP_LIFETIME_S
        made = cloud.client.create_bootstrap_token(fleet, lifetime_s=lifetime_s, count=count)
        texts, way_on = (
            made.tokens,
            "enrol with: camctl agent enroll --token TOKEN; each works once",
        )
    else:
        lifetime_s = lifetime or API_LIFETIME_S
        made = cloud.client.create_api_token(api, lifetime_s=lifetime_s, is_read_only=is_read_only)
        texts, way_on = (made.token,), "use it with --token-file PATH or CAMCTL_TOKEN"
    if cloud.out.is_json:
        cloud.out.json(made)
        return
    for text in texts:
        cloud.out.line(text)
    cloud.out.note(f"valid until {show_moment(made.expires_timestamp_s)}; {way_on}")
