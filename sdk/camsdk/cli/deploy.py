"""``camctl deploy``: a model to a fleet."""

from typing import Annotated, Literal

import typer

from camsdk.cli import complete
from camsdk.cli.moments import duration_s
from camsdk.cli.profile import Cloud, cloud_command
from camsdk.cli.rollout import show_status, watch_to_end

app = typer.Typer(help="Deploy a model to a fleet.", no_args_is_help=True)

PANEL = "How it goes"


TargetFleet = Annotated[
    str, typer.Option("--fleet", help="Where to.", autocompletion=complete.fleets)
]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="[NAME[:VERSION]]",
        help="Model; left out: the newest approved version of the one that the fleet runs.",
        autocompletion=complete.models,
    ),
]
StrategyOption = Annotated[
    Literal["all-at-once", "canary", "waves"],
    typer.Option(
        "--strategy", help="All at once, a few first, or in waves.", rich_help_panel=PANEL
    ),
]
CanaryCount = Annotated[
    int,
    typer.Option("--canary-count", min=0, help="Devices in the first wave.", rich_help_panel=PANEL),
]
CanaryPercent = Annotated[
    float,
    typer.Option(
        "--canary-percent",
        min=0,
        max=100,
        help="Same, in percent of the fleet.",
        rich_help_panel=PANEL,
    ),
]
WaveCount = Annotated[
    int,
    typer.Option(
        "--waves", min=0, help="Equal waves after the first; 0: three.", rich_help_panel=PANEL
    ),
]
MaxFailures = Annotated[
    int,
    typer.Option(
        "--max-failures", min=0, help="Abort when more devices have failed.", rich_help_panel=PANEL
    ),
]
DeviceTimeout = Annotated[
    float | None,
    typer.Option(
        "--device-timeout",
        parser=duration_s,
        metavar="DURATION",
        help="How long one device may take, e.g. 90s. Default: 5m.",
        rich_help_panel=PANEL,
    ),
]
NeedsApproval = Annotated[
    bool,
    typer.Option("--needs-approval", help="Wait for `rollout approve`.", rich_help_panel=PANEL),
]
Rollback = Annotated[
    bool, typer.Option("--rollback", help="Allow an older version.", rich_help_panel=PANEL)
]
Watch = Annotated[bool, typer.Option("--watch", help="Draw the rollout until it has ended.")]


@cloud_command(app, "model")
def model(
    cloud: Cloud,
    fleet: TargetFleet,
    reference: Reference = "",
    strategy: StrategyOption = "canary",
    canary_count: CanaryCount = 0,
    canary_percent: CanaryPercent = 0,
    waves: WaveCount = 0,
    max_failures: MaxFailures = 0,
    device_timeout: DeviceTimeout = None,
    needs_approval: NeedsApproval = False,
    is_rollback: Rollback = False,
    is_watched: Watch = False,
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
        device_timeout_s=device_timeout or 0.0,
        needs_approval=needs_approval,
        is_rollback=is_rollback,
    )
    if is_watched:
        watch_to_end(cloud, rollout)
        return
    show_status(cloud, rollout.status)
    cloud.out.note(f"follow it with: camctl rollout watch {rollout.rollout_id}")
