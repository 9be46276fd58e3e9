"""``python -m camagent``: the agent's own process, what ``camctl agent run`` turns into.

It loads only what an agent needs: the command line's libraries (typer, and pydantic with it) would
take a tenth of an idle agent's memory. Results go to standard output, logs and errors to standard
error; exit codes are those of ``camctl``.
"""

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from camagent.config import AgentConfig
from camagent.config_file import load_config
from camagent.runtimes.cpu import CpuRuntime
from camagent.status import AgentStatus
from camagent.supervisor import Agent
from camsdk.errors import WIRE_ERRORS, CamError, InternalError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs an agent until it is told to stop or has nothing left to do; returns the exit code."""
    options = _parse(arguments)
    _begin_log(options.log_level)
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        last = run_agent(load_config(options.config), stop)
    except CamError as error:
        _report(error, is_json=options.json)
        return 1
    _show(last, is_json=options.json)
    return 0


def run_agent(config: AgentConfig, stop: threading.Event) -> AgentStatus:
    """Runs an agent with the runtime that its configuration names; returns the last figures."""
    bounds = config.runtime

    def start_runtime(model: bytes) -> CpuRuntime:
        return CpuRuntime.start(
            model,
            threads=bounds.threads,
            load_deadline_s=bounds.load_deadline_s,
            infer_deadline_s=bounds.infer_deadline_s,
            memory_limit_mib=bounds.memory_limit_mib,
        )

    return Agent(config, start_runtime).run(stop)


def _begin_log(level: int) -> None:
    """Our own words from ``level`` on; other packages speak of trouble only, unless all is asked.

    A device has no screen: what it says at INFO (cloud, updates, cameras come and go) is all that
    tells somebody at its journal what it is doing.
    """
    logging.basicConfig(
        level=level if level <= logging.DEBUG else max(level, logging.WARNING),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for package in ("camagent", "camsdk"):
        logging.getLogger(package).setLevel(level)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m camagent", description="The camera agent.")
    parser.add_argument("--config", type=Path, required=True, help="agent.yaml")
    parser.add_argument("--json", action="store_true", help="print the last figures as JSON")
    parser.add_argument("--log-level", type=int, default=logging.INFO, help="10, 20, 30, ...")
    return parser.parse_args(arguments)


def _show(last: AgentStatus, *, is_json: bool) -> None:
    values = last.to_dict()
    if is_json:
        text = json.dumps(values, indent=2)
    else:
        totals, outbox = values["totals"], values["outbox"]
        text = (
            f"{last.device_id}: {totals['frames']} frames, {totals['detector_calls']} detector"
            f" calls, {outbox['event_count']} events, {outbox['depth']} batches wait for the cloud"
        )
    sys.stdout.write(text + "\n")


def _report(error: CamError, *, is_json: bool) -> None:
    """One sentence and the way out, as ``camctl`` prints them."""
    if is_json:
        kind = next((base for base in type(error).__mro__ if base in WIRE_ERRORS), InternalError)
        body = {
            "reason": WIRE_ERRORS[kind].reason,
            "message": error.message,
            "hint": error.hint,
        }
        sys.stdout.write(json.dumps({"error": body}) + "\n")
    sys.stderr.write(f"camctl: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"        {error.hint}\n")


if __name__ == "__main__":
    sys.exit(main())
