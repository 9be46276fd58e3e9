"""``camctl search``: who looks like this, and where were they seen."""

from pathlib import Path
from typing import Annotated

import typer

from camsdk.cli.moments import show_moment
from camsdk.cli.options import FleetFilter, SinceOption, UntilOption
from camsdk.cli.profile import Cloud, cloud_command


def register(app: typer.Typer) -> None:
    """Adds ``search`` to the root."""
    cloud_command(app, "search")(search)


def search(
    cloud: Cloud,
    image: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Picture (JPEG, PNG) of one person or object."
        ),
    ] = None,
    event: Annotated[str, typer.Option(metavar="ID", help="Event about it.")] = "",
    top_k: Annotated[int, typer.Option(min=1, max=200, help="Number of hits.")] = 10,
    fleet: FleetFilter = "",
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """Finds tracks, across cameras, that look like a picture or like an event's subject."""
    if (image is None) == (not event):
        raise typer.BadParameter("give either --image PATH or --event ID")
    result = cloud.client.search(
        image=image, event=event or None, top_k=top_k, fleet=fleet, since=since, until=until
    )
    if cloud.out.is_json:
        cloud.out.json(result)
        return
    rows = [
        (
            f"{hit.similarity:.3f}",
            hit.camera_id,
            hit.track_id,
            show_moment(hit.first_timestamp_s),
            show_moment(hit.last_timestamp_s),
            hit.device_id,
        )
        for hit in result
    ]
    cloud.out.table(
        (">similarity", "=camera", ">track", "from", "until", "=device"),
        rows,
        "nothing looks like it: widen --since and --until, or leave out --fleet",
    )
    cloud.out.note(f"compared by {result.method}")
