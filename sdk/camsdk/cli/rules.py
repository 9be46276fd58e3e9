"""``camctl rules``: which lines and zones the cameras of a fleet watch."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from camsdk.cli.options import FleetOption
from camsdk.cli.profile import Cloud, cloud_command
from camsdk.errors import InvalidInput

app = typer.Typer(help="Rules: lines and zones that cameras watch.", no_args_is_help=True)


@cloud_command(app, "apply")
def apply(
    cloud: Cloud,
    path: Annotated[
        Path, typer.Option("-f", "--file", help="Rules in YAML; - reads standard input.")
    ],
    fleet: FleetOption = "",
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check them, change nothing.")
    ] = False,
) -> None:
    """Puts rules in force on every camera of a fleet, without a restart.

    --fleet may be left out while there is only one fleet.
    """
    text = _read(path)
    fleet = fleet or _only_fleet(cloud)
    try:
        applied = cloud.client.apply_rules(fleet, text, is_dry_run=is_dry_run)
    except InvalidInput as error:
        hint = error.hint or f"mend {_name(path)}, then check it with --dry-run"
        raise InvalidInput(error.message, hint) from error
    if cloud.out.is_json:
        cloud.out.json(applied)
        return
    verb = "would reach" if is_dry_run else "reach"
    cloud.out.line(f"rules {applied.rules_digest[:12]} {verb} {applied.device_count} devices")
    for warning in applied.warnings:
        cloud.out.note(f"note: {warning}")


def _name(path: Path) -> str:
    return "the rules" if str(path) == "-" else str(path)


def _read(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except OSError as error:
        raise typer.BadParameter(
            f"{path} cannot be read: {error.strerror}; give a file, or - for standard input",
            param_hint="--file",
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text", "rules are YAML, see the docs") from error


def _only_fleet(cloud: Cloud) -> str:
    names = [fleet.name for fleet in cloud.client.list_fleets()]
    if len(names) != 1:
        raise InvalidInput(
            f"there are {len(names)} fleets",
            f"name one with --fleet: {', '.join(names)}" if names else "create one first",
        )
    return names[0]
