"""``camctl model import``: a published model becomes a draft."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.bundle import read_unverified
from support.tiny_detector import tiny_detector

if TYPE_CHECKING:
    from conftest import Camctl


def test_mistakes_are_a_sentence_and_a_way_out(camctl: "Camctl", tmp_path: Path) -> None:
    outcome = camctl("model", "import", "--input-size", "big")
    assert outcome.code == 2
    assert "no size" in outcome.err
    assert camctl("model", "import", "unknown-net").code == 2


def test_the_help_says_which_version_an_import_gets(camctl: "Camctl") -> None:
    assert "[default: 1]" in camctl("model", "import", "--help").out


GOLDEN = Path(__file__).parents[2] / "golden"


def test_the_help_has_an_example_of_each_format(camctl: "Camctl") -> None:
    text = camctl("model", "import", "--help").out
    for ending in (".onnx", ".pt2", ".pb", "saved_model/", ".tflite", "model.json"):
        assert f"import {'' if ending[0] != '.' else 'net'}{ending}" in text, ending
    assert "--weights net.caffemodel" in text
    assert "--weights net-0000.params" in text


def test_options_without_effect_are_refused(camctl: "Camctl", tmp_path: Path) -> None:
    graph, out = GOLDEN / "tensorflow_net.pb", tmp_path / "net.onnx"
    start = ("model", "import", graph, "-o", out)
    for options, words, code in (
        (("--weights", graph), "no second file of weights", 1),
        (("--graph", graph), "nanodet-g alone", 2),
        (("--format", "onnx", "--output", "Identity"), "omit --output", 1),
        (("--decoder", "class-score"), "'class-scores'", 2),
        (("--input", "image"), "is no input shape", 2),
        (("-o", tmp_path / "none" / "net.onnx"), "there is no folder", 1),
        (("-o", tmp_path / "net.pt"), "ends in .pt", 2),
    ):
        outcome = camctl(*start, *options)
        assert outcome.code == code, options
        assert words in outcome.err
    assert "own description" in camctl("model", "import", "--decoder", "nanodet-gfl").err
    assert not out.exists()


def test_what_is_no_model_is_said_before_a_decoder_is_asked_for(
    camctl: "Camctl", tmp_path: Path
) -> None:
    for name, content, words in (
        ("notes.txt", b"not a model", "is of no format that is known here"),
        ("net.onnx", b"", "is empty"),
        ("net.pt", b"\x80\x02rest", "is a pickle"),
    ):
        (tmp_path / name).write_bytes(content)
        outcome = camctl("model", "import", tmp_path / name)
        assert outcome.code == 1
        assert words in " ".join(outcome.err.split())
        assert "decoder" not in outcome.err


def write_detector(path: Path) -> None:
    """A network of one convolution whose boxes, scores and classes are what they are."""
    names = ("boxes", "scores", "classes")
    shapes = ((1, 2, 4), (1, 2), (1, 2))
    stored = [
        numpy_helper.from_array(np.full((1, 3, 8, 8), 0.001, np.float32), "w"),
        *(
            numpy_helper.from_array(np.zeros(shape, np.float32), f"{name}/zeros")
            for name, shape in zip(names, shapes, strict=True)
        ),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["seen"], name="conv", strides=[8, 8]),
        helper.make_node("ReduceMean", ["seen"], ["mean"], name="mean", keepdims=0),
        *(
            helper.make_node("Add", ["mean", f"{name}/zeros"], [name], name=f"to {name}")
            for name in names
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 16, 24))],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(names, shapes, strict=True)
        ],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())


def test_a_tensorflow_graph_becomes_plain_onnx(camctl: "Camctl", tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    outcome = camctl("model", "import", GOLDEN / "tensorflow_net.pb", "-o", out, "--json")
    assert outcome.code == 0, outcome.err
    assert [info.name for info in onnx.load(out).graph.output] == ["Identity"]


def test_a_detector_becomes_a_draft_with_what_the_options_say(
    camctl: "Camctl", tmp_path: Path
) -> None:
    model, out, classes = tmp_path / "My Net.onnx", tmp_path / "net.cam", tmp_path / "classes.txt"
    write_detector(model)
    classes.write_text("walker\n\ncyclist\n", encoding="utf-8")
    described = tmp_path / "model.yaml"
    described.write_text("output: {score_threshold: 0.5}\ninput: {mean: [1, 2, 3]}\n")
    outcome = camctl(
        *("model", "import", model, "-o", out, "--decoder", "boxes-scores-classes"),
        *("--classes", classes, "--std", "127.5", "--color", "BGR", "--description", described),
    )
    assert outcome.code == 0, outcome.err
    manifest = read_unverified(out.read_bytes()).manifest
    assert manifest.reference == "my-net-fp32:1"
    assert manifest.classes == ("walker", "cyclist")
    assert manifest.input.shape == (1, 3, 16, 24)
    assert manifest.input.mean == (1, 2, 3)
    assert manifest.input.std == (127.5,) * 3
    assert manifest.input.color == "BGR"
    assert manifest.output.score_threshold == 0.5
    assert manifest.output.tensors == ("boxes", "scores", "classes")


def test_a_description_that_does_not_fit_is_said(camctl: "Camctl", tmp_path: Path) -> None:
    model, classes = tmp_path / "net.onnx", tmp_path / "classes.txt"
    write_detector(model)
    classes.write_text("walker\n", encoding="utf-8")
    start = ("model", "import", model)
    assert "--decoder" in camctl(*start).err
    decoded = (*start, "--decoder", "boxes-scores-classes", "--classes", classes)
    assert "--classes" in camctl(*decoded[:-2]).err
    assert "shape (1, 3, 16, 24)" in camctl(*decoded, "--input-size", "32x16").err
    assert "decoder" in camctl(*start, "--decoder", "x", "--classes", classes).err
    assert "one number or three" in camctl(*decoded, "--mean", "1,2").err
    assert "NAME:SHAPE" in camctl(*decoded, "--input", "image").err


def test_a_detector_that_its_description_does_not_fit_is_no_draft(
    camctl: "Camctl", tmp_path: Path
) -> None:
    """It would be compressed, signed and pushed, and fail on every device."""
    model, described, out = tmp_path / "yard.onnx", tmp_path / "yard.yaml", tmp_path / "yard.cam"
    model.write_bytes(tiny_detector().SerializeToString())
    fitting = {"classes": "[person, car]", "strides": "[8]", "reg_max": "1"}
    start = ("model", "import", model, "--description", described, "-o", out)
    for change, words in (
        ({"reg_max": "2"}, "'distances' has shape (1, 8, 4, 4), its manifest says (1, 12, 4, 4)"),
        ({"strides": "[16]"}, "'logits' has shape (1, 2, 4, 4), its manifest says (1, 2, 2, 2)"),
        (
            {"classes": "[person]"},
            "'logits' has shape (1, 2, 4, 4), its manifest says (1, 1, 4, 4)",
        ),
    ):
        said = fitting | change
        described.write_text(
            "classes: {classes}\noutput: {{decoder: nanodet-gfl, strides: {strides}, "
            "reg_max: {reg_max}}}\n".format(**said)
        )
        outcome = camctl(*start)
        assert outcome.code == 1
        assert f"{words} say the classes" in " ".join(outcome.err.split())
        assert not out.exists()
    outcome = camctl(*start, "--classes", _names(tmp_path, "person", "car"))
    assert outcome.code == 0, outcome.err


def _names(folder: Path, *names: str) -> Path:
    path = folder / "classes.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    return path
