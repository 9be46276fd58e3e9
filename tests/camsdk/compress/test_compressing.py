"""A small detector through the whole tool: rounded, pruned, trained, within a budget, killed."""

import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from camsdk.artifact.hardware import local_hardware
from camsdk.compress import candidates, compressing
from camsdk.compress.agreement import evaluate
from camsdk.compress.choosing import Choice
from camsdk.compress.compressing import Compressed, compress
from camsdk.compress.footage import Footage, choose_frames, open_footage
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.latency import DeviceProfile, load_profile
from camsdk.compress.options import (
    ActivationOptions,
    Block,
    Budget,
    CodeSet,
    CompressOptions,
    DistillOptions,
    Filter,
    NOfM,
    PruneOptions,
    QuantizeOptions,
    WeightOptions,
)
from camsdk.compress.packaging import PACKED_MEMBER, Draft
from camsdk.compress.report.facts import histogram
from camsdk.errors import InvalidInput
from camsdk.vision.frames import Frame
from support import compress_child
from support.clips import scene, write_video
from support.compress_child import OPTIONS, run
from support.small_detector import small_detector

SHORT = replace(OPTIONS, train=replace(OPTIONS.train, epochs=3))
ROUNDED = replace(OPTIONS, train=None)
Progressed = tuple[Compressed, list[tuple[int, int]]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "yard.avi", scene(160, 96, 24))


@pytest.fixture(scope="module")
def short(clip: Path) -> Progressed:
    """A short training and what its progress told."""
    counted: list[tuple[int, int]] = []
    made = run(clip, None, SHORT, on_progress=lambda done, total: counted.append((done, total)))
    return made, counted


def content(made: Compressed) -> dict[str, object]:
    """All that an artifact says and holds, but for when it was made and how fast it was."""
    manifest = made.draft.manifest.model_dump()
    del manifest["created_timestamp_s"]
    for name in ("cpu_ms", "reference_cpu_ms"):
        del manifest["metrics"][name]
    return {"manifest": manifest, "members": dict(made.draft.members)}


def test_a_killed_training_goes_on_to_the_same_artifact(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    counted: list[int] = []
    expected = run(clip, None, on_progress=lambda done, total: counted.append(done))
    script = Path(compress_child.__file__)
    command = [sys.executable, str(script), str(clip), str(work)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "training\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    (checkpoint,), (rounding,) = work.glob("*.camtrain"), work.glob("*.camround")
    resumed: list[int] = []
    monkeypatch.setattr(
        candidates, "quantize_after_training", lambda *_, **__: pytest.fail("rounded again")
    )
    made = run(clip, work, on_progress=lambda done, total: resumed.append(done))
    assert content(made) == content(expected)
    assert made.kept == (rounding, checkpoint)
    assert (expected.facts.resumed, made.facts.resumed) == ((), ("quantize", "train"))
    assert made.facts.history["loss"] == expected.facts.history["loss"]
    assert len(resumed) <= len(counted) - 11  # steps before the kill were not taken again


def test_another_command_never_takes_up_a_checkpoint(clip: Path, tmp_path: Path) -> None:
    train = replace(SHORT.train, epochs=1)
    options = (
        replace(SHORT, train=train),
        replace(SHORT, train=replace(train, learning_rate=0.02)),
    )
    one, other = (run(clip, tmp_path, of) for of in options)
    (rounding, first), (same, second) = one.kept, other.kept
    assert rounding == same  # nothing of the training decides it
    assert first != second
    assert {rounding, first, second} == set(tmp_path.iterdir())
    assert (one.facts.resumed, other.facts.resumed) == ((), ("quantize",))
    rounding.write_bytes(b"damaged")
    assert run(clip, tmp_path, options[0]).facts.resumed == ("train",)
    rounding.unlink()
    rounding.mkdir()  # can neither be read nor replaced
    assert run(clip, tmp_path, options[0]).facts.resumed == ("train",)


def test_the_way_is_chosen_on_frames_that_the_result_is_not_measured_on(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def watched(*drafts: Draft, **more: object) -> object:
        asked.append(drafts[3])  # type: ignore[arg-type] # the frames
        return evaluate(*drafts, **more)  # type: ignore[arg-type] # as given

    monkeypatch.setattr(candidates, "evaluate", watched)
    made = run(clip, None)
    assert made.split is not None
    # Both on the frames to choose by; only what was kept on the others.
    assert asked == [made.split.choice, made.split.choice, made.split.evaluation]
    scores = {way: of.main.value for way, of in made.choice.agreements.items()}
    assert scores["rounding"] != scores["training"]
    assert made.choice.kept == max(scores, key=lambda way: scores[way])
    assert made.agreement is not None
    manifest, facts = made.draft.manifest, made.facts
    assert manifest.metrics["choice_ap50_vs_reference_all_rounding"] == scores["rounding"]
    assert manifest.metrics["choice_ap50_vs_reference_all_training"] == scores["training"]
    assert manifest.metrics["choice_frames"] == len(made.split.choice)
    assert manifest.metrics["ap50_vs_reference_all"] == made.agreement.values["ap50_all"]
    assert manifest.metrics["evaluated_frames"] == 4
    told = manifest.lineage.options
    assert (told["kept"], told["kept_because"]) == (made.choice.kept, made.choice.reason)
    assert (told["train_epochs"], told["sparsity"]) == ("12", "0.5")
    told_of = facts.accuracy_of_choice
    assert told_of["AP50 against float, all, rounding"] == scores["rounding"]
    assert told_of["AP50 against float, all, training"] == scores["training"]
    assert facts.accuracy.keys() == {f.title for f in made.agreement.measured}
    assert len(facts.history["loss"]) == 12


def test_frames_are_not_called_made_up_where_none_are_left_to_evaluate_on(clip: Path) -> None:
    footage, split = choose_frames(open_footage(clip), calibration=4, evaluation=4)
    split = replace(split, evaluation=())
    made = compress(small_detector(), footage, ROUNDED, split=split)
    assert made.agreement is None
    assert made.facts.probe_inputs == "4 calibration frames"
    assert compress(small_detector(), None, ROUNDED).facts.probe_inputs == "4 made-up pictures"


def test_what_was_trained_is_compared_with_the_weights_before_it(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressing, "choose", lambda *_: Choice("training", "wanted"))
    made = run(clip, None, SHORT)
    model = onnx.load_from_string(small_detector().model)
    stored = constants(model)
    for layer, facts in zip(list_layers(model), made.facts.layers, strict=True):
        assert 0.001 < facts.weight_error < 2
        assert facts.sensitivity is not None
        assert facts.sensitivity > 0
        assert facts.weights == histogram(layer.filters_first(stored[layer.weight]))


def test_options_are_told_as_they_were_carried_out(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressing, "choose", lambda *_: Choice("training", "wanted"))
    train = replace(SHORT.train, epochs=1, batch_size=64)
    told = run(clip, None, replace(SHORT, train=train)).draft.manifest.lineage.options
    assert told["train_batch_size"] == "4"  # there are no more frames
    assert told["activation_range"] == "learned"
    assert told["layers"] == "conv0=w7a8,head=w7a8"
    by_mean = replace(OPTIONS.quantize, activations=ActivationOptions(range_rule="mean"))
    asked = replace(ROUNDED, quantize=by_mean)
    told = compress(small_detector(), None, asked).draft.manifest.lineage.options
    assert told["activation_range"] == "extreme"  # as pictures are made up
    assert told["equalize"] == "false"  # a scale a filter
    assert told["layers"] == "conv0=w7a8,head=w7a8"
    assert told["correct_bias"] == "true"
    coarse = QuantizeOptions(WeightOptions(CodeSet(8), "tensor"))
    told = compress(small_detector(), None, CompressOptions(coarse)).draft.manifest.lineage.options
    assert (told["equalize"], told["layers"]) == ("true", "")
    assert told["correct_bias"] == "false"  # of finely rounded weights, without data


def test_frames_to_calibrate_on_are_decoded_once_for_each_use(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    read = Footage.read

    def watched(self: Footage, indices: tuple[int, ...]) -> Iterator[Frame]:
        asked.append(indices)
        return read(self, indices)

    monkeypatch.setattr(Footage, "read", watched)
    made = run(clip, None, replace(SHORT, train=replace(SHORT.train, epochs=1)))
    assert made.split is not None
    few, rounding, training = (of for of in asked if set(of) <= set(made.split.calibration))
    assert rounding == training == made.split.calibration
    assert set(few) <= set(rounding)


def test_a_training_that_does_harm_is_not_kept(clip: Path) -> None:
    train = replace(SHORT.train, learning_rate=3.0, warm_up=0.0)
    made = run(clip, None, replace(SHORT, quantize=QuantizeOptions(), prune=None, train=train))
    scores = {way: of.main.value for way, of in made.choice.agreements.items()}
    assert scores["training"] < scores["rounding"]
    told = made.draft.manifest.lineage.options
    assert made.choice.kept == told["kept"] == "rounding"
    assert made.facts.history["loss"]
    assert told["activation_range"] in ("best: extreme", "best: mse")


@pytest.mark.parametrize("pattern", [NOfM(2, 4), None])
def test_without_data_weights_are_pruned_too(pattern: NOfM | None) -> None:
    prune = PruneOptions(0.5, pattern) if pattern else PruneOptions(0.8)
    made = compress(small_detector(), None, CompressOptions(prune=prune))
    assert made.agreement is None
    assert made.facts.sparsity == pytest.approx(prune.sparsity, abs=0.03)
    options = made.draft.manifest.lineage.options
    assert options["granularity"] == ("2:4" if pattern else "element")
    assert options["calibration_inputs"] == "0"
    assert "kept" not in options


def test_filters_are_removed_and_what_is_left_is_quantized(clip: Path) -> None:
    prune = PruneOptions(0.4, Filter())
    made = run(clip, None, replace(SHORT, prune=prune))
    weights = sum(np.prod(layer.shape) for layer in made.facts.layers)
    model = onnx.load_from_string(small_detector().model)
    before = sum(np.prod(layer.shape) for layer in list_layers(model))
    assert weights < 0.65 * before
    assert made.draft.manifest.precision == "w3a8"
    assert made.draft.manifest.lineage.options["granularity"] == "filter"


def test_inner_features_may_be_learned_too(clip: Path, short: Progressed) -> None:
    distilled = run(clip, None, replace(SHORT, distill=DistillOptions(logits=0.0, features=1.0)))
    assert distilled.facts.history["loss"] != short[0].facts.history["loss"]
    assert distilled.draft.manifest.lineage.options["distill_features"] == "1"


@pytest.fixture(scope="module")
def unpruned(clip: Path) -> Compressed:
    return run(clip, None, CompressOptions())


def test_a_budget_of_bytes_is_met_by_the_packed_file(clip: Path, unpruned: Compressed) -> None:
    limit = 0.75 * len(unpruned.draft.members[PACKED_MEMBER])
    made = run(clip, None, CompressOptions(budget=Budget("bytes", limit)))
    assert 0.8 * limit < len(made.draft.members[PACKED_MEMBER]) <= limit
    assert len({layer.bit_width for layer in made.facts.layers}) > 1
    assert made.draft.manifest.lineage.options["max_bytes"] == f"{limit:.10g}"
    assert "w8a8" in made.draft.manifest.lineage.options["layers"]


def test_a_budget_of_work_is_met_by_zeros(clip: Path, unpruned: Compressed) -> None:
    limit = 0.5 * unpruned.facts.macs
    budget = Budget("macs", limit, bit_widths=(7,))
    made = run(clip, None, CompressOptions(prune=PruneOptions(0.0), budget=budget))
    assert made.facts.nonzero_macs <= limit
    assert {layer.bit_width for layer in made.facts.layers} == {7}
    assert made.draft.manifest.lineage.options["layer_sparsity"]


def test_a_budget_of_time_is_met_by_a_device_that_skips_zeros(clip: Path) -> None:
    rows = {"Conv": {8: 1.0, 2: 0.5}}
    profile = DeviceProfile("fpga", "model", ns_per_mac=rows, skips_zeros=True)
    layers = list_layers(onnx.load_from_string(small_detector().model))
    limit = 0.3e-6 * sum(layer.macs for layer in layers)
    made = compress(
        small_detector(), None, CompressOptions(budget=Budget("latency", limit, "fpga")),
        hardware=("fpga",), profile=profile,
    )  # fmt: skip
    bits = {layer.name: layer.bit_width or 32 for layer in made.facts.layers}
    sparsity = {layer.name: layer.sparsity for layer in made.facts.layers}
    spent = sum(profile.predict_ms(x, bits[x.name], sparsity[x.name]) for x in layers)
    assert 0.5 * limit < spent <= limit
    assert made.facts.predicted_ms == {"fpga, compressed": pytest.approx(spent)}
    assert made.draft.manifest.lineage.options["budget_device"] == "fpga"


def test_zeros_of_whole_blocks_never_exceed_a_budget_of_work() -> None:
    layers = list_layers(onnx.load_from_string(small_detector().model))
    limit = 0.1 * sum(layer.macs for layer in layers) + 1
    prune = PruneOptions(0.0, Block(4, 1))
    fixed = Budget("macs", limit, bit_widths=(7,), sparsities=(0.9,))
    with pytest.raises(InvalidInput, match="cannot be reached") as caught:
        compress(small_detector(), None, CompressOptions(prune=prune, budget=fixed))
    told = float(caught.value.hint.split()[-1])
    met = replace(fixed, limit=told)
    made = compress(small_detector(), None, CompressOptions(prune=prune, budget=met))
    assert limit < made.facts.nonzero_macs <= told


def test_times_are_measured_once_and_float_is_a_choice_where_it_is_faster(tmp_path: Path) -> None:
    kept = tmp_path / "profile.yaml"
    here = local_hardware()
    far = CompressOptions(budget=Budget("latency", 1e-9, here))
    hints = []
    for _ in range(2):
        with pytest.raises(InvalidInput, match="cannot be reached") as caught:
            compress(small_detector(), None, far, hardware=(here,), profile=kept)
        hints.append(caught.value.hint)
    assert hints[0] == hints[1]
    assert load_profile(kept).provenance == "measured"
    rows = {"Conv": {8: 1.0, 32: 0.5}}
    profile = DeviceProfile("npu", "model", ns_per_mac=rows)
    layers = list_layers(onnx.load_from_string(small_detector().model))
    limit = 0.7e-6 * sum(layer.macs for layer in layers)
    options = CompressOptions(budget=Budget("latency", limit, "npu"))
    made = compress(small_detector(), None, options, hardware=("npu",), profile=profile)
    assert None in {layer.bit_width for layer in made.facts.layers}
    assert made.facts.predicted_ms["npu, compressed"] <= limit


def test_choices_that_all_cost_the_same_are_said_to() -> None:
    profile = DeviceProfile("npu", "model", ns_per_mac={"Conv": {8: 1.0}})
    options = CompressOptions(budget=Budget("latency", 1e-9, "npu"))
    with pytest.raises(InvalidInput, match="all choices of bits and zeros cost the same"):
        compress(small_detector(), None, options, hardware=("npu",), profile=profile)


@pytest.mark.parametrize(
    "wrong", [{"epochs": math.inf}, {"epochs": 0.0}, {"learning_rate": math.nan}, {"batch_size": 0}]
)
def test_trainings_are_of_numbers_above_0(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="is no number above 0") as caught:
        replace(SHORT.train, **wrong)
    assert "usual are" in caught.value.hint


def test_a_budget_that_cannot_be_met_names_the_nearest_that_can(clip: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be reached") as caught:
        run(clip, None, CompressOptions(budget=Budget("bytes", 100)))
    *words, least = caught.value.hint.split()
    assert " ".join(words) == "the smallest budget that these choices can meet is"
    made = run(clip, None, CompressOptions(budget=Budget("bytes", int(least))))
    assert len(made.draft.members[PACKED_MEMBER]) == int(least)
    far = Budget("latency", 1.0, "fpga")
    with pytest.raises(InvalidInput, match="how long layers take on fpga is not known"):
        run(clip, None, CompressOptions(budget=far))


def test_what_does_not_go_together_is_refused_before_any_work(clip: Path) -> None:
    source, footage = small_detector(), open_footage(clip)
    for options, data, message in (
        (SHORT, None, "no data to train on"),
        (replace(ROUNDED, prune=PruneOptions(0.5, Filter())), footage, "whole filters"),
        (replace(ROUNDED, quantize=None), footage, "an artifact of the fleet is quantized"),
        (replace(ROUNDED, distill=DistillOptions()), footage, "nothing is trained"),
        (
            replace(SHORT, prune=PruneOptions(0.5, Filter()), budget=Budget("bytes", 9e6)),
            footage,
            "cannot be shared out under a budget",
        ),
    ):
        with pytest.raises(InvalidInput, match=message):
            compress(source, data, options)
    spec = source.manifest.output.model_copy(update={"decoder": "boxes-scores-classes"})
    other = replace(source, manifest=source.manifest.model_copy(update={"output": spec}))
    with pytest.raises(InvalidInput, match="boxes-scores-classes outputs") as caught:
        compress(other, footage, SHORT)
    assert "nanodet-gfl" in caught.value.hint


def test_a_folder_of_work_that_cannot_be_is_refused_before_any_work(
    clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").write_bytes(b"")
    counted: list[int] = []
    with pytest.raises(InvalidInput, match="work cannot be used"):
        run(clip, tmp_path / "work", on_progress=lambda done, total: counted.append(done))
    assert not counted


def test_the_count_never_falls_and_reaches_the_end(short: Progressed) -> None:
    counted = short[1]
    assert counted == sorted(counted)
    assert counted[-1] == (1000, 1000)


def test_8_bits_are_7_where_x86_may_be_among_the_devices() -> None:
    assert compressing.storage_bits(8, ("cpu-aarch64", "cpu-x86_64")) == 7
    assert compressing.storage_bits(8, ("cpu-amd64",)) == 7
    assert compressing.storage_bits(8, ("cpu-aarch64",)) == 8
    assert compressing.storage_bits(4, ("cpu-x86_64",)) == 4
    assert WeightOptions(CodeSet(7)).code_set.largest == 63
