"""A rounding that cannot be kept or taken up costs a warning, never the run."""

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from camsdk.compress import candidates
from camsdk.compress.candidates import (
    Keep,
    Material,
    Plan,
    facts_of,
    keep_in,
    round_after_training,
)
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.options import (
    ActivationOptions,
    CompressOptions,
    QuantizeOptions,
    RangeRule,
)
from camsdk.compress.rounding_file import Rounding
from camsdk.errors import InvalidInput
from support.small_detector import small_detector

UNWRITABLE = Path("/proc")  # even to root
SOURCE = small_detector()
MATERIAL = Material(SOURCE, None, None, 0, "small", 1, ())


def rounded(folder: Path) -> Rounding:
    keep = Keep(folder, "1", lambda _: None, lambda: None)
    plan = Plan(CompressOptions())
    model = onnx.load_from_string(SOURCE.model)
    return round_after_training(MATERIAL, model, plan, lambda *_: None, keep)[0]


def is_same(one: Rounding, other: Rounding) -> bool:
    return one.made.activations == other.made.activations and all(
        of.codes.tobytes() == other.made.weights[layer].codes.tobytes()
        for layer, of in one.made.weights.items()
    )


@pytest.mark.parametrize(
    ("asked", "came_to", "told"),
    [("best", "mse", "best: mse"), ("best", "extreme", "best: extreme"), ("mean", "mse", None)],
)
def test_a_lineage_tells_which_ranges_were_the_best(
    asked: RangeRule, came_to: RangeRule, told: str | None
) -> None:
    """Where one layer alone asked for the best, the rule of all others is told as it is."""
    made = CodedModel(onnx.load_from_string(SOURCE.model), {}, {})
    rounding = Rounding(made, False, False, 4, "ab", came_to)
    options = QuantizeOptions(activations=ActivationOptions(range_rule=asked))
    facts = facts_of(rounding, options)
    assert facts["calibration_inputs"] == "4"
    assert facts.get("activation_range") == told


def test_a_damaged_rounding_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = rounded(tmp_path)
    (place,) = tmp_path.iterdir()
    whole = place.read_bytes()
    assert not caplog.records
    place.write_bytes(b"")
    assert is_same(rounded(tmp_path), expected)
    assert f"{place} is no rounding that was kept, or is damaged; rounding anew" in caplog.messages
    assert place.read_bytes() == whole
    monkeypatch.setattr(candidates, "_rounded", lambda *_: pytest.fail("rounded again"))
    assert is_same(rounded(tmp_path), expected)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "work"):
        with pytest.raises(InvalidInput, match=f"^{folder} cannot be used") as caught:
            keep_in(folder, "1", lambda _: None, lambda: None)
        assert "another folder" in caught.value.hint
    with pytest.raises(InvalidInput, match=f"^{UNWRITABLE} cannot be used"):
        keep_in(UNWRITABLE, "1", lambda _: None, lambda: None)
    keep = keep_in(tmp_path / "missing" / "work", "1", lambda _: None, lambda: None)
    assert not list(keep.folder.iterdir())
    assert keep.folder.is_dir()
    assert np.__version__ in keep.code


def test_a_full_disk_costs_no_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert rounded(tmp_path).made.weights
    (said,) = caplog.messages
    assert said.startswith(f"cannot keep the rounding in {tmp_path}")
    assert said.endswith("No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_read_costs_no_rounding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = rounded(tmp_path)
    (place,) = tmp_path.iterdir()
    place.unlink()
    place.mkdir()
    assert is_same(rounded(tmp_path), expected)
    assert [said.split(":")[0] for said in caplog.messages] == [
        f"cannot take up {place}",
        f"cannot keep the rounding in {place}",
    ]
