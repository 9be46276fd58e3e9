"""``camctl deploy``: a model to a fleet."""

from typing import Annotated, Literal

import typer

from camsdk.cli import complete
from camsdk.cli.moments import duration_s
from camsdk.cli.profile import Cloud, cloud_command
from camsdk.cli.rollout import show_status, watch_to_end

app = typer.Typer(help="Deploy a model to a fleet.", no_args_is_help=True)

PANEL = "How it goes"


@cloud_command(app, "model")
def model(
    cloud: Cloud,
    fleet: Annotated[str, typer.Option(help="Where to.", autocompletion=complete.fleets)],
    reference: Annotated[
        str,
        typer.Argument(
            metavar="[NAME[:VERSION]]",
            help="Model; left out: the newest approved release for the fleet's hardware.",
            autocompletion=complete.models,
        ),
    ] = "",
    strategy: Annotated[
        Literal["all-at-once", "canary", "waves"],
        typer.Option(help="All at once, a few first, or in waves.", rich_help_panel=PANEL),
    ] = "canary",
    canary_count: Annotated[
        int, typer.Option(min=0, help="Devices in the first wave.", rich_help_panel=PANEL)
    ] = 0,
    canary_percent: Annotated[
        float,
        typer.Option(min=0, max=100, help="Same, in percent of the fleet.", rich_help_panel=PANEL),
    ] = 0,
    waves: Annotated[
        int,
        typer.Option(min=0, help="Equal waves after the first; 0: three.", rich_help_panel=PANEL),
    ] = 0,
    max_failures: Annotated[
        int,
        typer.Option(min=0, help="Abort when more devices have failed.", rich_help_panel=PANEL),
    ] = 0,
    device_timeout: Annotated[
        float,
        typer.Option(
            parser=duration_s,
            metavar="DURATION",
            help="How long one device may take.",
            rich_help_panel=PANEL,
        ),
    ] = "5m",  # type: ignore[assignment] # typer passes the default through the parser
    needs_approval: Annotated[
        bool,
        typer.Option("--needs-approval", help="Wait for `rollout approve`.", rich_help_panel=PANEL),
    ] = False,
    is_rollback: Annotated[
        bool,
        typer.Option("--rollback", help="Allow an older version.", rich_help_panel=PANEL),
    ] = False,
    is_watched: Annotated[
        bool, typer.Option("--watch", help="Draw the rollout until it has ended.")
    ] = False,
) -> None:
    """Brings a model to every device of a fleet, and back if it fails there.

    With --watch the exit code is 1 if the rollout was aborted.
    """
    rollout = cloud.client.deploy(
        reference,
        fleet=fleet,
        strategy=strategy,
        canary_count=canary_count,
        canary_percent=canary_percent,
        wave_count=waves,
        max_failures=max_failures,
        device_timeout_s=device_timeout,
        needs_approval=needs_approval,
        is_rollback=is_rollback,
    )
    if is_watched:
        watch_to_end(cloud, rollout)
        return
    show_status(cloud, rollout.status)
    cloud.out.note(f"follow it with: camctl rollout watch {rollout.rollout_id}")
