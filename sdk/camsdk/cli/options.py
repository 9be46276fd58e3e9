"""Options and arguments that several commands share, so that they read the same everywhere."""

from typing import Annotated

import typer

from camsdk.cli import complete
from camsdk.cli.moments import moment_s

FleetFilter = Annotated[
    str, typer.Option("--fleet", help="Only this fleet.", autocompletion=complete.fleets)
]
FleetOption = Annotated[
    str, typer.Option("--fleet", help="Name of the fleet.", autocompletion=complete.fleets)
]
DeviceFilter = Annotated[
    str, typer.Option("--device", help="Only this device.", autocompletion=complete.devices)
]
CameraFilter = Annotated[str, typer.Option("--camera", help="Only this camera.")]
KindFilter = Annotated[
    list[str] | None,
    typer.Option("--kind", help="Only this kind, e.g. line_crossed; may be repeated."),
]
SinceOption = Annotated[
    float | None,
    typer.Option(
        "--since",
        parser=moment_s,
        metavar="TIME",
        help="From this time on: 15m (ago), 2026-05-01T08:00 (local), or seconds since 1970.",
    ),
]
UntilOption = Annotated[
    float | None,
    typer.Option("--until", parser=moment_s, metavar="TIME", help="Before this time."),
]
FleetArgument = Annotated[
    str, typer.Argument(help="Name of the fleet.", autocompletion=complete.fleets)
]
DeviceArgument = Annotated[
    str, typer.Argument(help="Id of the device.", autocompletion=complete.devices)
]
RolloutArgument = Annotated[
    str, typer.Argument(help="Id of the rollout.", autocompletion=complete.rollouts)
]
