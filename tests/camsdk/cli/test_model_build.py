"""``camctl model import|compress|evaluate``: drafts in, drafts out, figures for programs."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from camsdk.artifact.bundle import read_unverified
from support.artifacts import make_bundle

if TYPE_CHECKING:
    from conftest import Camctl


def test_mistakes_are_a_sentence_and_a_way_out(camctl: "Camctl", tmp_path: Path) -> None:
    outcome = camctl("model", "import", "--input-size", "big")
    assert outcome.code == 1
    assert "no size" in outcome.err
    assert camctl("model", "import", "unknown-net").code == 2
    assert camctl("model", "compress", tmp_path, "--weight-bits", "6").code == 2


def test_a_missing_file_is_wrong_usage(camctl: "Camctl", tmp_path: Path) -> None:
    draft, gone = tmp_path / "tiny.cam", tmp_path / "gone.cam"
    draft.write_bytes(make_bundle(None))
    assert camctl("model", "compress", gone).code == 2
    assert camctl("model", "evaluate", gone, "--against", draft).code == 2
    assert camctl("model", "evaluate", draft, "--against", gone).code == 2
    assert camctl("model", "evaluate", draft, "--against", tmp_path).code == 2


def test_what_is_no_video_is_said_in_words(camctl: "Camctl", tmp_path: Path) -> None:
    draft, clip = tmp_path / "tiny.cam", tmp_path / "notes.txt"
    draft.write_bytes(make_bundle(None))
    clip.write_text("no video")
    error = camctl("model", "compress", draft, "--clip", clip, "--json").json["error"]
    assert error["message"].startswith(f"{clip} cannot be opened as a recording: Invalid data")
    assert "Errno" not in error["message"]
    assert "give a video file" in error["hint"]


def test_the_help_says_which_version_an_import_gets(camctl: "Camctl") -> None:
    assert "[default: 1]" in camctl("model", "import", "--help").out


def test_only_bundles_are_read(camctl: "Camctl", tmp_path: Path) -> None:
    path = tmp_path / "odd.cam"
    path.write_bytes(make_bundle(None)[:-5])
    outcome = camctl("model", "compress", path, "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["reason"] == "data-corrupted"


@pytest.mark.slow
def test_from_the_published_graph_to_an_artifact_to_sign(camctl: "Camctl", tmp_path: Path) -> None:
    exact, small = tmp_path / "exact.cam", tmp_path / "small.cam"
    made = camctl("model", "import", "nanodet-g", "-o", exact, "--json")
    assert made.json["model"] == "nanodet-g-fp32:1"
    few = ("--calibration", "8", "--evaluation", "12")
    made = camctl("model", "compress", exact, "-o", small, "--version", "4", *few, "--json")
    assert made.json["model"] == "nanodet-g:4"
    assert made.json["precision"] == "int8"
    assert made.json["ap50_person"] > 0.9
    assert made.json["candidate_bytes"] < 0.3 * made.json["reference_bytes"]
    judged = camctl(
        "model", "evaluate", small, "--against", exact, "--evaluation", "12", "--json"
    ).json
    assert judged["ap50_all"] == made.json["ap50_all"]
    assert judged["frames"] == 12
    manifest = read_unverified(small.read_bytes()).manifest
    assert manifest.metrics["ap50_vs_reference_person"] == made.json["ap50_person"]
    again = camctl("model", "compress", small)
    assert again.code == 1
    assert "only fp32 can be quantized" in again.err
