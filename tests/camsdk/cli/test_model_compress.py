"""``camctl model compress|evaluate``: drafts in, drafts out, figures, a page to read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from camsdk.artifact.bundle import read_unverified
from support.artifacts import make_bundle

if TYPE_CHECKING:
    from conftest import Camctl


def test_bits_that_do_not_exist_are_wrong_usage(camctl: "Camctl", tmp_path: Path) -> None:
    draft = tmp_path / "tiny.cam"
    draft.write_bytes(make_bundle(None))
    for option, value in (("--bits", "9"), ("--bits", "0"), ("--activation-bits", "1")):
        assert camctl("model", "compress", draft, option, value).code == 2
    wide = camctl("model", "compress", draft, "--bits", "6", "--codes", "power-of-two", "--json")
    assert wide.code == 1
    assert wide.json["error"]["reason"] == "invalid-input"


def test_a_missing_file_is_wrong_usage(camctl: "Camctl", tmp_path: Path) -> None:
    draft, gone = tmp_path / "tiny.cam", tmp_path / "gone.cam"
    draft.write_bytes(make_bundle(None))
    assert camctl("model", "compress", gone).code == 2
    data = ("--data", tmp_path)
    assert camctl("model", "evaluate", gone, "--against", draft, *data).code == 2
    assert camctl("model", "evaluate", draft, "--against", gone, *data).code == 2
    assert camctl("model", "evaluate", draft, "--against", tmp_path, *data).code == 2
    assert camctl("model", "evaluate", draft, "--against", draft, "--data", gone).code == 2


def test_data_that_is_none_is_said_in_words(camctl: "Camctl", tmp_path: Path) -> None:
    draft, clip = tmp_path / "tiny.cam", tmp_path / "notes.txt"
    draft.write_bytes(make_bundle(None))
    clip.write_text("no video")
    error = camctl("model", "compress", draft, "--data", clip, "--json").json["error"]
    assert error["message"].startswith(f"{clip} cannot be opened as a recording: Invalid data")
    assert "give a video file" in error["hint"]
    empty = tmp_path / "empty"
    empty.mkdir()
    error = camctl("model", "compress", draft, "--data", empty, "--json").json["error"]
    assert "neither pictures nor recordings" in error["message"]
    error = camctl("model", "compress", draft, "--data", tmp_path / "gone", "--json").json["error"]
    assert error["reason"] == "not-found"


def test_only_bundles_are_read(camctl: "Camctl", tmp_path: Path) -> None:
    path = tmp_path / "odd.cam"
    path.write_bytes(make_bundle(None)[:-5])
    outcome = camctl("model", "compress", path, "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["reason"] == "data-corrupted"


@pytest.mark.slow
def test_from_the_published_graph_to_an_artifact_to_sign(
    camctl: "Camctl", vtest_path: Path, tmp_path: Path
) -> None:
    exact, small = tmp_path / "exact.cam", tmp_path / "small.cam"
    made = camctl("model", "import", "nanodet-g", "-o", exact, "--json")
    assert made.json["model"] == "nanodet-g-fp32:1"
    data = ("--data", vtest_path, "--evaluation", "12")
    few = ("--calibration", "8", "--rounding", "nearest", "--version", "4")
    made = camctl("model", "compress", exact, "-o", small, *few, *data, "--json")
    assert made.json["model"] == "nanodet-g:4"
    assert made.json["precision"] == "int8"
    assert made.json["ap50_person"] > 0.9
    assert made.json["packed_bytes"] < 0.2 * made.json["float_bytes"]
    judged = camctl("model", "evaluate", small, "--against", exact, *data, "--json").json
    assert judged["ap50_all"] == made.json["ap50_all"]
    assert judged["frames"] == 12
    manifest = read_unverified(small.read_bytes()).manifest
    assert manifest.metrics["ap50_vs_reference_person"] == made.json["ap50_person"]
    assert manifest.lineage.options["calibration_inputs"] == "8"
    facts = json.loads((tmp_path / "small.json").read_text())
    assert len(facts["layers"]) == 34
    assert "Detections side by side" in Path(made.json["report"]).read_text()
    again = camctl("model", "compress", small)
    assert again.code == 1
    assert "only fp32 can be quantized" in again.err
