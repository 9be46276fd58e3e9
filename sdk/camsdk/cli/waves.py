"""Drawing a rollout: one row a wave, one mark a device, and why it failed where it did."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from camsdk.cli.output import printable
from camsdk.client.rollouts import DONE, ExecutionState, RolloutState

if TYPE_CHECKING:
    from camsdk.cli.output import Output
    from camsdk.client import RolloutExecution, RolloutStatus

_MARKS: dict[ExecutionState, tuple[str, str]] = {
    ExecutionState.UNKNOWN: ("?", "dim"),
    ExecutionState.QUEUED: ("○", "dim"),
    ExecutionState.WANTED: ("◔", "cyan"),
    ExecutionState.UPDATING: ("◑", "cyan"),
    ExecutionState.SUCCEEDED: ("●", "green"),
    ExecutionState.ALREADY_INSTALLED: ("●", "green"),
    ExecutionState.FAILED: ("✗", "red"),
    ExecutionState.TIMED_OUT: ("✗", "red"),
    ExecutionState.REVERTING: ("↺", "yellow"),
    ExecutionState.REVERTED: ("↩", "yellow"),
    ExecutionState.NO_ARTIFACT_FOR_HARDWARE: ("-", "dim"),
    ExecutionState.CANCELLED: ("·", "dim"),
}
_STATE_STYLES: dict[RolloutState, str] = {
    RolloutState.COMPLETED: "bold green",
    RolloutState.ABORTED: "bold red",
    RolloutState.ROLLING_BACK: "bold yellow",
    RolloutState.PAUSED: "bold yellow",
}
_MARKS_A_ROW = 60


def draw_rollout(status: "RolloutStatus") -> RenderableType:
    """Heading, waves, and the devices that need a word."""
    state = status.state.value.replace("_", " ")
    head = Text.assemble(
        (printable(status.model_name), "bold"),
        f" to {printable(status.fleet)}  ",
        (state, _STATE_STYLES.get(status.state, "bold cyan")),
        f"  {printable(status.rollout_id)}",
    )
    parts: list[RenderableType] = [head]
    if status.detail:
        parts.append(Text(printable(status.detail), style="yellow"))
    waves = Table.grid(padding=(0, 2))
    for number, executions in enumerate(status.waves):
        is_current = number == status.current_wave and not status.state.has_ended
        name = f"{'>' if is_current else ' '} wave {number + 1}"
        done = sum(row.state in DONE for row in executions)
        waves.add_row(
            Text(name, style="bold" if is_current else ""),
            _marks(executions),
            Text(f"{done}/{len(executions)}", style="dim"),
        )
    parts.append(waves)
    parts.append(_legend(status))
    parts.extend(_failures(status.executions))
    return Group(*parts)


def _marks(executions: "Iterable[RolloutExecution]") -> Text:
    marks = Text()
    for position, row in enumerate(executions):
        if position and position % _MARKS_A_ROW == 0:
            marks.append("\n")
        marks.append(*_MARKS[row.state])
    return marks


def _legend(status: "RolloutStatus") -> Text:
    """What the marks mean, and how many there are of each."""
    counts = status.count_by_state
    legend = Text()
    for state, (mark, style) in _MARKS.items():
        if counts[state]:
            legend.append(f"  {mark} ", style=style)
            legend.append(f"{counts[state]} {state.value.replace('_', ' ')}", style="dim")
    return legend


def _failures(executions: "Iterable[RolloutExecution]") -> list[Text]:
    return [
        Text(
            f"    {printable(row.device_id)}: {row.state.value.replace('_', ' ')}, "
            f"{printable(row.detail) or 'failed'}",
            style="red",
        )
        for row in executions
        if row.has_failed
    ]


def follow(out: "Output", states: "Iterable[RolloutStatus]") -> "RolloutStatus | None":
    """Draws the states as they come and returns the last.

    A terminal shows one drawing that changes; anything else gets a line a state, JSON with --json.
    """
    from rich.live import Live

    last: RolloutStatus | None = None
    console = out.console()
    if out.is_json or not console.is_terminal:
        for last in states:
            if out.is_json:
                out.json_line(last)
            else:
                out.line(str(last))
        return last
    with Live(console=console, auto_refresh=False) as live:
        for last in states:
            live.update(draw_rollout(last), refresh=True)
    return last
