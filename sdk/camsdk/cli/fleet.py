"""``camctl fleet``: cameras that are treated alike."""

from typing import TYPE_CHECKING, Annotated

import typer

from camsdk.cli.moments import show_moment
from camsdk.cli.options import FleetArgument
from camsdk.cli.profile import Cloud, cloud_command

if TYPE_CHECKING:
    from camsdk.client import Fleet

app = typer.Typer(help="Fleets: cameras that are treated alike.", no_args_is_help=True)


def _artifacts(fleet: "Fleet") -> str:
    return ", ".join(f"{count} x {name}" for name, count in fleet.devices_by_artifact.items())


def _show(cloud: Cloud, fleet: "Fleet") -> None:
    if cloud.out.is_json:
        cloud.out.json(fleet)
        return
    cloud.out.fields(
        {
            "fleet": fleet.name,
            "description": fleet.description,
            "devices": f"{fleet.device_count}, {fleet.connected_count} connected",
            "models": _artifacts(fleet),
            "rules": fleet.rules_digest,
            "created": show_moment(fleet.created_timestamp_s),
        }
    )


@cloud_command(app, "create")
def create(
    cloud: Cloud,
    name: Annotated[str, typer.Argument(help="Name of the new fleet.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
) -> None:
    """Creates a fleet."""
    _show(cloud, cloud.client.create_fleet(name, description=description))


@cloud_command(app, "list")
def list_fleets(cloud: Cloud) -> None:
    """Lists fleets with their devices and models."""
    fleets = cloud.client.list_fleets()
    if cloud.out.is_json:
        cloud.out.json({"fleets": fleets})
        return
    cloud.out.table(
        ("=fleet", ">devices", ">connected", "models", "description"),
        [
            (row.name, row.device_count, row.connected_count, _artifacts(row), row.description)
            for row in fleets
        ],
        "no fleets: create one with `camctl fleet create NAME`",
    )


@cloud_command(app, "show")
def show(cloud: Cloud, name: FleetArgument) -> None:
    """Shows one fleet."""
    _show(cloud, cloud.client.get_fleet(name))
