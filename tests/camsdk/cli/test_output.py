"""What is printed: JSON that any parser reads, tables that nothing can break."""

import json
import math
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from camsdk.cli.output import Output, jsonable, report_error
from camsdk.client import DesiredState, UpdateState
from camsdk.errors import CamError, UnsupportedModel


class Colour(Enum):
    RED = 1


def test_values_become_json() -> None:
    value = {
        "state": DesiredState(1, "a:1", "d", False, ""),
        "enum": UpdateState.GOOD,
        "colour": Colour.RED,
        "bytes": b"\x00\xff",
        "path": Path("/a"),
        "nan": math.nan,
        "map": MappingProxyType({1: (2, 3)}),
        "array": np.array([1.5, np.inf]),
    }
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == {
        "state": {
            "version": 1,
            "artifact_name": "a:1",
            "artifact_digest": "d",
            "is_rollback": False,
            "rules_digest": "",
        },
        "enum": "good",
        "colour": 1,
        "bytes": "AP8=",
        "path": "/a",
        "nan": None,
        "map": {"1": [2, 3]},
        "array": [1.5, None],
    }


def test_numpy_scalars_become_numbers() -> None:
    assert json.dumps(jsonable([np.float32(0.5), np.int64(3), np.bool_(True)])) == "[0.5, 3, true]"


def test_errors_of_subclasses_keep_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    class Special(UnsupportedModel):
        """Of a plug-in."""

    report_error(Special("no\x1b", "way"), is_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["reason"] == "unsupported-model"
    assert printed.err == "camctl: no\N{REPLACEMENT CHARACTER}\n        way\n"
    report_error(CamError("plain"), is_json=True)
    assert json.loads(capsys.readouterr().out)["error"]["reason"] == "internal"


def test_wide_tables_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(is_json=False)
    output.table(("name", ">size"), [("x" * 90, 1), ("y" * 90, 22)], "none")
    printed = capsys.readouterr()
    assert "x" * 90 in printed.out
    assert printed.err == ""
    output.table(("name",), [], "none: make one")
    assert capsys.readouterr().err == "none: make one\n"


def test_names_stay_whole_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    name, time = "device-0123456789/" + "7" * 19 + "/12", "2026-05-01 08:00:00"
    row = (time, "a person at the gate", name, name.upper(), 12345)
    Output(is_json=False).table(("time", "what", "=event", "=model", ">size"), [row], "none")
    printed = capsys.readouterr().out
    for whole in (name, name.upper(), "12345", "person", "2026-05-01", "08:00:00"):
        assert whole in printed
    assert time not in printed, "what is no name folds"


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Output(is_json=False).fields({"name": "a", "empty": "", "none": None, "zero": 0})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "a"],
        ["zero", "0"],
    ]
