"""Hardware has the names that devices enrol with, and no others."""

import platform

import pytest

from camsdk.artifact.hardware import check_hardware, local_hardware, processor
from camsdk.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cpu-amd64", "cpu-x86_64"),
        ("cpu-arm64", "cpu-aarch64"),
        ("cpu-x86_64", "cpu-x86_64"),
        ("fpga-kv260", "fpga-kv260"),
        ("gpu-orin-nx", "gpu-orin-nx"),
    ],
)
def test_names_are_those_of_enrolled_devices(given: str, name: str) -> None:
    assert check_hardware(given) == name


@pytest.mark.parametrize("given", ["toaster", "toaster-x86_64", "cpu", "cpu-", "cpu-z80", "fpga-"])
def test_what_no_device_is_called_is_refused_with_those_there_are(given: str) -> None:
    with pytest.raises(InvalidInput, match="no device enrols as") as caught:
        check_hardware(given)
    for known in ("cpu-aarch64", "cpu-x86_64", "fpga-NAME", "gpu-NAME"):
        assert known in caught.value.hint


def test_this_machine_is_known_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert check_hardware("cpu-riscv64") == local_hardware() == "cpu-riscv64"
    assert processor()
