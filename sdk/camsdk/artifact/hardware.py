"""Names of hardware: what an artifact is made for, and what a device enrols with."""

import platform
from pathlib import Path
from typing import Final

from camsdk.errors import InvalidInput

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_CPUS: Final = ("cpu-aarch64", "cpu-x86_64")
_ACCELERATORS: Final = ("fpga", "gpu", "npu")
"""Runtimes whose machine is named by whoever builds it, such as ``fpga-kv260``."""


def _as_enrolled(hardware: str) -> str:
    """A hardware name as devices enrol with it: ``cpu-amd64`` is ``cpu-x86_64`` to them."""
    runtime, dash, machine = hardware.rpartition("-")
    return f"{runtime}{dash}{_MACHINES.get(machine, machine)}"


def check_hardware(hardware: str) -> str:
    """The name as devices enrol with it.

    Raises:
        InvalidInput: No device can have that name; says which there are.
    """
    name = _as_enrolled(hardware)
    runtime, _, machine = name.partition("-")
    if name in (*_CPUS, local_hardware()) or (runtime in _ACCELERATORS and machine):
        return name
    raise InvalidInput(
        f"no device enrols as {hardware!r}",
        f"give {', '.join(_CPUS)}, or {', '.join(f'{of}-NAME' for of in _ACCELERATORS)}",
    )


def local_hardware() -> str:
    """What artifacts for the ``cpu`` runtime on this machine are made for, as ``cpu-x86_64``."""
    return _as_enrolled(f"cpu-{platform.machine().lower()}")


def processor() -> str:
    """The model of this machine's processor, as the kernel or else Python calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
