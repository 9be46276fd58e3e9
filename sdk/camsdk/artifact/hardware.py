"""Names of hardware: what an artifact is made for, and what a device enrols with."""

import platform
from typing import Final

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def as_enrolled(hardware: str) -> str:
    """A hardware name as devices enrol with it: ``cpu-amd64`` is ``cpu-x86_64`` to them."""
    runtime, dash, machine = hardware.rpartition("-")
    return f"{runtime}{dash}{_MACHINES.get(machine, machine)}"


def local_hardware() -> str:
    """What artifacts for the ``cpu`` runtime on this machine are made for, as ``cpu-x86_64``."""
    return as_enrolled(f"cpu-{platform.machine().lower()}")
