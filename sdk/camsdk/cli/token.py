"""``camctl token``: secrets for new devices, people and applications."""

from typing import Annotated

import typer

from camsdk.cli import complete
from camsdk.cli.moments import duration_s, show_moment
from camsdk.cli.profile import Cloud, cloud_command

app = typer.Typer(help="Tokens for new devices, people and applications.", no_args_is_help=True)

BOOTSTRAP_LIFETIME = "1h"
API_LIFETIME = "30d"


@cloud_command(app, "create")
def create(
    cloud: Cloud,
    fleet: Annotated[
        str,
        typer.Option(
            help="Bootstrap token: lets one new device enrol into this fleet.",
            autocompletion=complete.fleets,
        ),
    ] = "",
    api: Annotated[
        str, typer.Option(metavar="NAME", help="API token for this person or application.")
    ] = "",
    count: Annotated[int, typer.Option(min=1, max=1000, help="So many bootstrap tokens.")] = 1,
    is_read_only: Annotated[
        bool, typer.Option("--read-only", help="The API token may look, not change.")
    ] = False,
    lifetime: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help=f"E.g. 30m, 2h, 7d. [default: {BOOTSTRAP_LIFETIME} bootstrap, {API_LIFETIME} API]",
        ),
    ] = "",
) -> None:
    """Makes a token. It is shown once; the cloud keeps only its hash.

    The token alone goes to standard output: TOKEN=$(camctl token create --fleet park-a)
    """
    if bool(fleet) == bool(api):
        raise typer.BadParameter("give either --fleet NAME or --api NAME")
    if fleet:
        lifetime_s = duration_s(lifetime or BOOTSTRAP_LIFETIME)
        made = cloud.client.create_bootstrap_token(fleet, lifetime_s=lifetime_s, count=count)
        texts, expires_s = made.tokens, made.expires_timestamp_s
        way_on = "enrol with: camctl agent enroll --token TOKEN; each works once"
        body: object = made
    else:
        lifetime_s = duration_s(lifetime or API_LIFETIME)
        granted = cloud.client.create_api_token(
            api, lifetime_s=lifetime_s, is_read_only=is_read_only
        )
        texts, expires_s = (granted.token,), granted.expires_timestamp_s
        way_on = "use it with --token-file PATH or CAMCTL_TOKEN"
        body = granted
    if cloud.out.is_json:
        cloud.out.json(body)
        return
    for text in texts:
        cloud.out.line(text)
    cloud.out.note(f"valid until {show_moment(expires_s)}; {way_on}")
