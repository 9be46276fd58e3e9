"""``camctl doctor``: what works here, what does not, and how to mend it."""

from typing import TYPE_CHECKING

import typer

from camsdk.cli.profile import Cloud, cloud_command

if TYPE_CHECKING:
    from camsdk.cli.checks import Check

_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def register(app: typer.Typer) -> None:
    """Adds ``doctor`` to the root."""
    cloud_command(app, "doctor")(doctor)


def doctor(cloud: Cloud) -> None:
    """Checks this machine and the way to the cloud. Exit code 1 if something will not work."""
    from camsdk.cli.checks import Verdict, local_checks
    from camsdk.cli.cloud_checks import cloud_checks
    from camsdk.client.profiles import embedded_data_dir

    data_dir = cloud.target.data or embedded_data_dir()
    found = [check() for check in local_checks(data_dir)]
    found += cloud_checks(cloud.target)
    is_healthy = all(check.verdict is not Verdict.FAILED for check in found)
    if cloud.out.is_json:
        cloud.out.json({"is_healthy": is_healthy, "checks": found})
    else:
        _draw(cloud, found)
    if not is_healthy:
        raise typer.Exit(1)


def _draw(cloud: Cloud, found: "list[Check]") -> None:
    from rich.table import Table
    from rich.text import Text

    from camsdk.cli.output import printable

    table = Table.grid(padding=(0, 2))
    for check in found:
        words = Text(printable(check.detail))
        if check.hint:
            words.append(f"\n{printable(check.hint)}", style="bold")
        table.add_row(Text(check.verdict.value, style=_STYLES[check.verdict]), check.name, words)
    cloud.out.draw(table)
