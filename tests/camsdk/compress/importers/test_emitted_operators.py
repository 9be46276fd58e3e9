"""What an importer emits, a device runs."""

import re
from pathlib import Path

import onnx
import pytest

from camsdk.artifact.onnx_check import DETECTOR_OPERATORS, check_model
from camsdk.compress import importers
from camsdk.compress.importers.onnx_emitter import Emitter, plain_value

FOLDER = Path(importers.__file__).parent
READERS = {"onnx_file.py", "onnx_inlining.py"}
"""They name operators that they take away."""


def emitted() -> dict[str, str]:
    """Every name of an ONNX operator in the text of the importers, and a file that has it."""
    return {
        name: path.name
        for path in FOLDER.glob("*.py")
        if path.name not in READERS
        for name in re.findall(r'"([A-Z][A-Za-z0-9]+)"', path.read_text(encoding="utf-8"))
        if onnx.defs.has(name)
    }


def test_all_that_is_emitted_is_allowed() -> None:
    found = emitted()
    assert len(found) > 80
    assert {name: found[name] for name in found.keys() - DETECTOR_OPERATORS} == {}


@pytest.mark.parametrize("kind", ["Max", "Mean", "Min", "Sum"])
def test_names_that_are_put_together_are_allowed(kind: str) -> None:
    assert f"Reduce{kind}" in DETECTOR_OPERATORS


def test_a_response_normalization_is_allowed() -> None:
    """GoogLeNet has two."""
    emitter = Emitter()
    x = emitter.add_input("x", (1, 8, 4, 4))
    (name,) = emitter.node("LRN", [x.name], "norm", size=5)
    model = emitter.model({"y": plain_value(name, x.shape)}, "test")
    check_model(model.SerializeToString())
