"""Shell completion with names from the cloud: fleets, devices, models, rollouts.

A shell waits while it completes, and shows nothing but names: so there is one short call, and any
failure means no suggestions.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import typer

from camsdk.cli.profile import Target
from camsdk.errors import CamError

if TYPE_CHECKING:
    from camsdk.client import Client

TIMEOUT_S = 1.0


def _complete(names: Callable[["Client"], Iterable[str]]) -> Callable[..., list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        given: dict[str, Any] = ctx.params
        target = Target(
            given.get("server") or "",
            given.get("token_file"),
            given.get("ca"),
            given.get("profile") or "",
            given.get("data"),
        )
        try:
            with target.connect(TIMEOUT_S) as client:
                return sorted({name for name in names(client) if name.startswith(incomplete)})
        except CamError:
            return []

    return complete


fleets = _complete(lambda client: (fleet.name for fleet in client.list_fleets()))
devices = _complete(lambda client: (device.device_id for device in client.list_devices()))
models = _complete(lambda client: (model.reference for model in client.list_models()))
rollouts = _complete(lambda client: (row.rollout_id for row in client.list_rollouts()))
