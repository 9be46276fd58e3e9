"""``camctl rollout``: models on their way, wave by wave."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from camsdk.cli.moments import show_age, show_moment
from camsdk.cli.options import FleetFilter, RolloutArgument
from camsdk.cli.profile import Cloud, cloud_command

if TYPE_CHECKING:
    from camsdk.client import Rollout, RolloutStatus

app = typer.Typer(help="Rollouts: models on their way, wave by wave.", no_args_is_help=True)


@cloud_command(app, "list")
def list_rollouts(cloud: Cloud, fleet: FleetFilter = "") -> None:
    """Lists rollouts."""
    rollouts = cloud.client.list_rollouts(fleet=fleet)
    if cloud.out.is_json:
        cloud.out.json({"rollouts": rollouts})
        return
    cloud.out.table(
        (
            "=rollout",
            "=model",
            "=fleet",
            "strategy",
            "state",
            "wave",
            ">devices",
            ">failed",
            "started",
        ),
        [
            (
                row.rollout_id,
                row.model_name,
                row.fleet,
                row.strategy.value,
                row.state.value.replace("_", " "),
                f"{row.current_wave + 1} of {row.wave_count}" if row.wave_count else "-",
                len(row.executions),
                sum(execution.has_failed for execution in row.executions),
                show_age(row.created_timestamp_s),
            )
            for row in rollouts
        ],
        "no rollouts: `camctl deploy model --fleet NAME` starts one",
    )


def show_status(cloud: Cloud, status: "RolloutStatus") -> None:
    """One rollout: its waves, then its devices."""
    if cloud.out.is_json:
        cloud.out.json(status)
        return
    from camsdk.cli.waves import draw_rollout

    cloud.out.draw(draw_rollout(status))
    cloud.out.table(
        ("=device", ">wave", "state", "failed", "=from", "changed", "detail"),
        [
            (
                row.device_id,
                row.wave + 1,
                row.state.value.replace("_", " "),
                "yes" if row.has_failed else "no",
                row.from_digest[:12] or "-",
                show_moment(row.changed_timestamp_s),
                row.detail,
            )
            for row in status.executions
        ],
        "the fleet has no devices",
    )


@cloud_command(app, "show")
def show(cloud: Cloud, rollout_id: RolloutArgument) -> None:
    """Shows one rollout: waves, and the state of every device."""
    show_status(cloud, cloud.client.rollout(rollout_id).status)


def watch_to_end(cloud: Cloud, rollout: "Rollout", timeout_s: float | None = None) -> None:
    """Draws a rollout until it has ended; exit code 1 unless it was completed."""
    from camsdk.cli.waves import follow
    from camsdk.client import RolloutState

    last = follow(cloud.out, rollout.watch(timeout_s=timeout_s))
    state = (last or rollout.status).ended().state
    if state is not RolloutState.COMPLETED:
        cloud.out.note(
            f"the rollout was {state.value}; see `camctl rollout show {rollout.rollout_id}`"
        )
        raise typer.Exit(1)


@cloud_command(app, "watch")
def watch(
    cloud: Cloud,
    rollout_id: RolloutArgument,
    seconds: Annotated[float, typer.Option(min=0, help="Give up after this time; 0: never.")] = 0,
) -> None:
    """Draws a rollout as it goes, until it has ended. Exit code 1 if it was aborted."""
    watch_to_end(cloud, cloud.client.rollout(rollout_id), seconds or None)


def _control(name: str, act: "Callable[[Rollout], RolloutStatus]", help_text: str) -> None:
    def control(cloud: Cloud, rollout_id: RolloutArgument) -> None:
        show_status(cloud, act(cloud.client.rollout(rollout_id)))

    cloud_command(app, name, help=help_text)(control)


_control("approve", lambda rollout: rollout.approve(), "Lets a pending rollout start.")
_control("pause", lambda rollout: rollout.pause(), "Holds a rollout: no further device is told.")
_control("resume", lambda rollout: rollout.resume(), "Goes on with a paused rollout.")
_control(
    "abort",
    lambda rollout: rollout.abort(),
    "Stops a rollout and brings its devices back to the old model.",
)
