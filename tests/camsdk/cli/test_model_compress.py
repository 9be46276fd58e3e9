"""``camctl model compress|evaluate``: drafts in, drafts out, figures, a page to read."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from camsdk.artifact.bundle import pack, read_unverified
from camsdk.artifact.hardware import local_hardware
from camsdk.cli import model_compress
from camsdk.compress import candidates, compressing, evaluate, latency
from camsdk.compress.clips import ClipSplit
from camsdk.compress.training import compressing as training
from camsdk.errors import InvalidInput
from support.artifacts import make_bundle
from support.clips import scene, write_video
from support.engines import leave_only_our_own
from support.small_detector import small_detector

if TYPE_CHECKING:
    from conftest import Camctl


def test_bits_that_do_not_exist_are_wrong_usage(camctl: "Camctl", small: Path) -> None:
    for option, value in (("--bits", "9"), ("--bits", "0"), ("--activation-bits", "1")):
        assert camctl("model", "compress", small, option, value).code == 2
    wide = camctl("model", "compress", small, "--bits", "6", "--codes", "power-of-two", "--json")
    assert wide.code == 2
    assert wide.json["error"]["reason"] == "invalid-input"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A float detector of a few thousand weights."""
    draft, path = small_detector(), tmp_path / "small.cam"
    path.write_bytes(pack(draft.manifest, draft.members, None))
    return path


@pytest.fixture
def only_our_own_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_only_our_own(monkeypatch)


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    return write_video(tmp_path / "yard.avi", scene(160, 96, 24))


def test_a_profile_without_a_budget_of_time_is_refused(
    camctl: "Camctl", small: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "device.yaml"
    profile.write_text("{device: npu, provenance: model}")
    error = camctl("model", "compress", small, "--profile", profile, "--json").json["error"]
    assert error["message"] == "--profile would have no effect: there is no budget of time"
    assert "--max-ms" in error["hint"]


def test_machines_are_called_as_devices_enrol(
    camctl: "Camctl", small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    def stopped(*_: object, **named: object) -> None:
        given.append(named["hardware"])
        raise InvalidInput("far enough")

    monkeypatch.setattr(compressing, "compress", stopped)
    devices = ("--device", "cpu-amd64", "--device", "cpu-arm64", "--device", "npu-x1")
    camctl("model", "compress", small, *devices)
    assert given == [("cpu-aarch64", "cpu-x86_64", "npu-x1")]
    error = camctl("model", "compress", small, "--device", "toaster", "--json").json["error"]
    assert error["message"] == "no device enrols as 'toaster'"
    assert len(given) == 1


def test_times_are_measured_once_for_a_model_and_a_processor(
    camctl: "Camctl", small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, work = local_hardware(), tmp_path / "kept"
    command = ("model", "compress", small, "--max-ms", "1e-9", "--device", here, "--work", work)
    first = camctl(*command, "--json").json["error"]
    (kept,) = work.iterdir()
    written = kept.read_bytes()
    assert camctl(*command, "--json").json["error"] == first
    assert "smallest budget" in first["hint"]
    assert kept.read_bytes() == written
    monkeypatch.setattr(model_compress, "processor", lambda: "another")
    camctl(*command, "--json")
    assert len(list(work.iterdir())) == 2
    monkeypatch.setattr(latency, "KEPT_AS", "what an earlier version measured")
    camctl(*command, "--json")
    assert len(list(work.iterdir())) == 3


@pytest.mark.usefixtures("only_our_own_engine")
def test_times_are_told_with_where_and_when_they_were_taken(
    camctl: "Camctl", small: Path, tmp_path: Path
) -> None:
    profile, out = tmp_path / "device.yaml", tmp_path / "made.cam"
    profile.write_text(
        "{device: fpga-a, provenance: measured, origin: 'board 7, 2026-01-02', "
        "ns_per_mac: {Conv: {8: 1.0}}}"
    )
    budget = ("--max-ms", "100", "--device", "fpga-a", "--profile", profile)
    outcome = camctl("model", "compress", small, *budget, "-o", out, "--json")
    told = "measured (board 7, 2026-01-02)"
    assert f"times of layers: {told}, in {profile}" in outcome.err
    assert 0 < outcome.json["layers_ms"] <= 100
    assert read_unverified(out.read_bytes()).manifest.lineage.options["times"] == told
    assert "rounded without a training: there is no data to train on" in outcome.err


@pytest.mark.parametrize(
    "places",
    [
        ("-o", "x.cam", "--report", "x.cam"),
        ("--report", "x.json"),
        ("-o", "small.cam"),
        ("-o", "./x.cam", "--report", "folder/../x.cam"),
        ("--report", "small.cam"),
    ],
)
def test_no_file_of_a_command_is_written_over_another(
    camctl: "Camctl",
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(compressing, "compress", lambda *_, **__: pytest.fail("work was begun"))
    before = small.read_bytes()
    error = camctl("model", "compress", small, *places, "--json").json["error"]
    assert error["reason"] == "invalid-input"
    assert "are the same file" in error["message"]
    assert ".html" in error["hint"]
    assert small.read_bytes() == before


@pytest.mark.parametrize("option", ["--out", "--report"])
@pytest.mark.parametrize("place", ["gone/x.cam", "folder.cam"])
def test_what_cannot_be_written_is_refused_before_any_work(
    camctl: "Camctl",
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    place: str,
) -> None:
    (tmp_path / "folder.cam").mkdir()
    monkeypatch.setattr(compressing, "compress", lambda *_, **__: pytest.fail("work was begun"))
    outcome = camctl("model", "compress", small, option, tmp_path / place, "--json")
    assert outcome.json["error"]["reason"] == "invalid-input"
    assert option in outcome.json["error"]["hint"]


@pytest.mark.parametrize("name", ["x.json", "x.onnx", "x"])
def test_artifacts_are_cam_files(
    camctl: "Camctl",
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(compressing, "compress", lambda *_, **__: pytest.fail("work was begun"))
    outcome = camctl("model", "compress", small, "-o", tmp_path / name, "--json")
    assert outcome.code == 2
    assert "what is written is a .cam file" in outcome.json["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("--sparsity 1.0", "sparsity 1.0 is out of range", "0 to below 1"),
        ("--granularity 2:4 --sparsity 0.6", "is a sparsity of 0.5, not 0.6", "0.5"),
        ("--granularity 4x1", "prunes nothing by itself", "--sparsity"),
        ("--granularity rows", "'rows' is no granularity", "filter"),
        ("--granularity filter --sparsity 0.5", "whole filters are removed", "epochs"),
        ("--max-bytes 9 --max-macs 9", "only one budget", "one of"),
        ("--max-ms 1", "milliseconds are those of one device", "--device"),
        ("--max-bytes 9", "9 bytes cannot be reached", "smallest budget"),
        ("--data none --epochs 2", "no data to train on", "set epochs to 0"),
        ("--learning-rate 0.1", "nothing is trained", "--epochs"),
        ("--batch-size 2", "--batch-size would have no effect", "--epochs"),
        ("--work kept", "neither a training nor a budget of time", "--max-ms"),
        ("--calibration 4", "--calibration would have no effect: there is no data", "--data"),
        ("--importance taylor-1 --sparsity 0.5", "no filters are removed", "--granularity filter"),
        ("--range-rule mean", "--range-rule mean would have no effect: there is no data", "--data"),
        ("--range-rule best", "--range-rule best would have no effect: there is no data", "--data"),
        ("--codes power-of-two", "codes have 4 bits at the most, not 7", "--bits 1 to 4"),
        ("--codes power-of-two --max-macs 9e6", "codes have 4 bits at the most, not 7", "--bits"),
        ("--codes power-of-two --max-bytes 9000 --bits 6", "4 bits at the most, not 6", "--bits"),
    ],
)
def test_options_that_do_not_go_together_say_what_does(
    camctl: "Camctl", small: Path, arguments: str, message: str, hint: str
) -> None:
    outcome = camctl("model", "compress", small, *arguments.split(), "--json")
    assert outcome.code == (1 if "cannot be reached" in message else 2)  # that took work
    error = outcome.json["error"]
    assert error["reason"] == "invalid-input"
    assert message in error["message"]
    assert hint in error["hint"]


@pytest.mark.usefixtures("only_our_own_engine")
def test_powers_of_two_go_with_a_budget_in_the_layers_that_get_so_few_bits(
    camctl: "Camctl", small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made.cam"
    asked = ("--max-bytes", "4600", "--sparsity", "0", "--codes", "power-of-two")
    made = camctl("model", "compress", small, *asked, "-o", out, "--json").json
    assert made["packed_bytes"] <= 4600
    told = read_unverified(out.read_bytes()).manifest.lineage.options
    assert (told["weight_bits"], told["weight_codes"]) == ("4", "power-of-two")
    layers = {
        layer["name"]: layer for layer in json.loads(out.with_suffix(".json").read_text())["layers"]
    }
    assert {layers[name]["bit_width"] for name in ("conv0", "conv2")} == {7, 3}
    codes = layers["conv2"]["codes"]
    assert (codes["low"], codes["high"]) == (-4, 4)
    assert [bool(count) for count in codes["counts"][4:]] == [True, True, True, False, True]


def test_no_time_at_all_is_a_budget_of_time(camctl: "Camctl", small: Path, tmp_path: Path) -> None:
    profile = tmp_path / "device.yaml"
    profile.write_text("{device: npu-x1, provenance: model, ns_per_mac: {Conv: {8: 1.0}}}")
    budget = ("--max-ms", "0", "--device", "npu-x1", "--profile", profile)
    error = camctl("model", "compress", small, *budget, "--json").json["error"]
    assert error["message"] == "0 ms cannot be reached: all choices of bits and zeros cost the same"


def test_a_training_without_torch_names_the_extra(
    camctl: "Camctl", small: Path, yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    few = ("--data", yard, "--calibration", "4", "--evaluation", "4")
    error = camctl("model", "compress", small, *few, "--bits", "3", "--json").json["error"]
    assert error["message"] == "torch is not installed, which this command needs"
    assert "pip install 'camplatform[compress]'" in error["hint"]


def test_a_step_of_fewer_frames_than_asked_for_is_told_of(
    camctl: "Camctl", small: Path, yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise InvalidInput("far enough")

    monkeypatch.setattr(compressing, "compress", stopped)
    few = ("--data", yard, "--calibration", "3", "--evaluation", "4", "--batch-size", "8")
    outcome = camctl("model", "compress", small, *few, "--bits", "3", "--json")
    assert "a step of the training takes 3 frames, not 8: there are no more" in outcome.err


def test_checkpoints_need_a_folder(camctl: "Camctl", small: Path, yard: Path) -> None:
    few = ("--data", yard, "--calibration", "4", "--evaluation", "4", "--work", yard)
    error = camctl("model", "compress", small, *few, "--bits", "3", "--json").json["error"]
    assert error["message"] == f"{yard} cannot be used: File exists"
    assert "--work" in error["hint"]


@pytest.mark.parametrize(("frames", "trained_on"), [(240, 80), (330, 100)])
def test_more_frames_are_taken_where_something_is_trained(
    frames: int,
    trained_on: int,
    camctl: "Camctl",
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = write_video(tmp_path / "yard.avi", scene(160, 96, frames))
    taken: list[int] = []

    def stopped(*_: object, split: ClipSplit, **named: object) -> None:
        taken.append(len(split.calibration))
        raise InvalidInput("far enough")

    monkeypatch.setattr(compressing, "compress", stopped)
    for options in (("--bits", "3"), ("--bits", "8"), ("--bits", "3", "--calibration", "5")):
        camctl("model", "compress", small, "--data", clip, *options)
    assert taken == [trained_on, 32, 5]


@pytest.mark.usefixtures("only_our_own_engine")
def test_low_bits_with_data_are_trained_and_told_of(
    camctl: "Camctl", small: Path, yard: Path, tmp_path: Path
) -> None:
    work, out = tmp_path / "work", tmp_path / "made.cam"
    few = ("--calibration", "4", "--evaluation", "4", "--epochs", "3", "--learning-rate", "0.01")
    outcome = camctl(
        "model", "compress", small, "--bits", "3", "--sparsity", "0.5", "--granularity", "4x1",
        "--data", yard, *few, "--work", work, "-o", out, "--json",
    )  # fmt: skip
    made = outcome.json
    assert made["precision"] == "w3a8"
    scores = {way: made[f"choice_ap50_all_by_{way}"] for way in ("rounding", "training")}
    better = "training" if scores["training"] > scores["rounding"] else "rounding"
    assert list(work.iterdir()) == []  # the artifact is there, the checkpoint is not
    manifest = read_unverified(out.read_bytes()).manifest
    told = manifest.lineage.options
    assert (told["granularity"], told["sparsity"], told["train_epochs"]) == ("4x1", "0.5", "3")
    assert told["kept"] == better
    assert f"kept the result of {better}: {told['kept_because']}" in outcome.err
    assert ("hardly agrees" in outcome.err) == (made["ap50_all"] < 0.5)
    assert "a step of the training" not in outcome.err
    assert "rounded without a training" not in outcome.err
    facts = json.loads(out.with_suffix(".json").read_text())
    assert len(facts["history"]["loss"]) == 3
    assert 0.5 <= facts["sparsity"] < 0.7  # of those that stay some round to 0


@pytest.mark.usefixtures("only_our_own_engine")
def test_frames_in_which_nothing_is_found_are_told_of(
    camctl: "Camctl", small: Path, yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "REFERENCE_SCORE", 2.0)
    few, out = ("--data", yard, "--evaluation", "4"), tmp_path / "made.cam"
    made = camctl("model", "compress", small, *few, "--calibration", "4", "-o", out, "--json")
    judged = camctl("model", "evaluate", out, "--against", small, *few, "--json")
    for outcome in (made, judged):
        assert outcome.json["boxes"] == 0
        assert "ap50_all" not in outcome.json
        assert "found nothing on these frames" in outcome.err
    sides = judged.json
    assert (sides["reference_path"], sides["candidate_path"]) == (str(small), str(out))
    assert sides["candidate_file_bytes"] == out.stat().st_size
    assert sides["candidate_model_bytes"] == made.json["packed_bytes"]
    assert sides["reference_model_bytes"] == made.json["float_bytes"]
    metrics = read_unverified(out.read_bytes()).manifest.metrics
    assert metrics["evaluated_boxes"] == 0
    assert "ap50_vs_reference_all" not in metrics


@pytest.mark.usefixtures("only_our_own_engine")
@pytest.mark.parametrize("has_folder", [False, True])
def test_what_nobody_has_gone_on_from_for_a_month_is_cleared_after_a_training(
    camctl: "Camctl",
    small: Path,
    yard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_folder: bool,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder, out = tmp_path / "camplatform" / "trainings", tmp_path / "x.cam"
    folder.mkdir(parents=True)
    command = (
        *("model", "compress", small, "--data", yard, "--calibration", "4", "--evaluation", "4"),
        *("--bits", "3", "--epochs", "1", "-o", out, *(("--work", folder) if has_folder else ())),
    )

    def stopped(*_: object) -> None:
        raise InvalidInput("far enough")

    with monkeypatch.context() as patch:
        patch.setattr(training, "learn_codes", stopped)
        assert camctl(*command).code == 1
    (own,) = folder.iterdir()  # the rounding
    abandoned = {"a.camtrain", "b.camround", ".a.camtrain.0123abcd.new"}
    ages = {**dict.fromkeys(abandoned, 31), own.name: 31, "new.camtrain": 29, "x.txt": 99}
    for name, age_days in ages.items():
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age_days * 86400,) * 2)
    with monkeypatch.context() as patch:
        patch.setattr(training, "learn_codes", stopped)
        assert camctl(*command).code == 1
    assert {file.name for file in folder.iterdir()} == set(ages)  # it did not end well
    assert camctl(*command).code == 0
    assert json.loads(out.with_suffix(".json").read_text())["resumed"] == ["quantize"]
    kept = {"new.camtrain", "x.txt"} | (abandoned if has_folder else set())
    assert {file.name for file in folder.iterdir()} == kept


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_interrupted_run_says_how_to_go_on_where_something_is_kept(
    camctl: "Camctl",
    small: Path,
    yard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_kept: bool,
) -> None:
    asked: list[object] = []

    def interrupted(*_: object, **__: object) -> None:
        asked.append(1)
        raise KeyboardInterrupt

    step = "learn_codes" if is_kept else "quantize_after_training"
    monkeypatch.setattr(training if is_kept else candidates, step, interrupted)
    few = ("--data", yard, "--calibration", "4", "--evaluation", "4", "--work", tmp_path / "kept")
    outcome = camctl("model", "compress", small, *few, "--bits", "3", "-o", tmp_path / "x.cam")
    assert asked
    assert outcome.code != 0
    note = f"the same command goes on from what is kept in {tmp_path / 'kept'}"
    assert ("nothing was kept" in outcome.err) != is_kept
    assert (note in outcome.err) == is_kept == bool(list((tmp_path / "kept").iterdir()))


@pytest.mark.usefixtures("only_our_own_engine")
def test_what_hardly_agrees_is_warned_of(
    camctl: "Camctl", small: Path, yard: Path, tmp_path: Path
) -> None:
    few = ("--data", yard, "--calibration", "4", "--evaluation", "4", "-o", tmp_path / "x.cam")
    for options, is_poor in ((("--sparsity", "0.98", "--epochs", "0"), True), ((), False)):
        outcome = camctl("model", "compress", small, *few, *options, "--json")
        assert (outcome.json["ap50_all"] < 0.5) == is_poor
        assert ("hardly agrees with the float model" in outcome.err) == is_poor
        assert ("alone were compared" in outcome.err) == (outcome.json["boxes"] < 20)
        assert "rounded without a training" not in outcome.err  # it was asked for, or is usual


@pytest.mark.usefixtures("only_our_own_engine")
def test_pictures_that_cannot_be_read_do_not_end_a_run(
    camctl: "Camctl", small: Path, tmp_path: Path
) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "made.cam"
    pictures.mkdir()
    for index in range(13):
        cv2.imwrite(str(pictures / f"{index:02}.png"), np.full((96, 160, 3), 15 * index, np.uint8))
    (pictures / "00.png").write_bytes(b"no picture")
    few = ("--data", pictures, "--evaluation", "4")
    note = "1 of 13 files cannot be read and were skipped: 00.png"
    made = camctl("model", "compress", small, *few, "--calibration", "4", "-o", out, "--json")
    assert note in made.err
    assert read_unverified(out.read_bytes()).manifest.lineage.options["skipped_files"] == "1"
    assert json.loads(out.with_suffix(".json").read_text())["options"]["skipped_files"] == "1"
    (pictures / "11.png").write_bytes(b"no picture")
    judged = camctl("model", "evaluate", out, "--against", small, *few, "--json")
    assert "were skipped: 11.png" in judged.err


def test_a_missing_file_is_wrong_usage(camctl: "Camctl", tmp_path: Path) -> None:
    draft, gone = tmp_path / "tiny.cam", tmp_path / "gone.cam"
    draft.write_bytes(make_bundle(None))
    assert camctl("model", "compress", gone).code == 2
    data = ("--data", tmp_path)
    assert camctl("model", "evaluate", gone, "--against", draft, *data).code == 2
    assert camctl("model", "evaluate", draft, "--against", gone, *data).code == 2
    assert camctl("model", "evaluate", draft, "--against", tmp_path, *data).code == 2
    assert camctl("model", "evaluate", draft, "--against", draft, "--data", gone).code == 2


def test_data_that_is_none_is_said_in_words(camctl: "Camctl", small: Path, tmp_path: Path) -> None:
    clip = tmp_path / "notes.txt"
    clip.write_text("no video")
    error = camctl("model", "compress", small, "--data", clip, "--json").json["error"]
    assert error["message"].startswith(f"{clip} cannot be opened as a recording: Invalid data")
    assert "give a video file" in error["hint"]
    empty = tmp_path / "empty"
    empty.mkdir()
    error = camctl("model", "compress", small, "--data", empty, "--json").json["error"]
    assert "neither pictures nor recordings" in error["message"]
    error = camctl("model", "compress", small, "--data", tmp_path / "gone", "--json").json["error"]
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
    assert "Side by side" in Path(made.json["report"]).read_text()
    again = camctl("model", "compress", small)
    assert again.code == 1
    assert "only fp32 can be quantized" in again.err
