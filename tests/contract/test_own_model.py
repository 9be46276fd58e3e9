"""The worked example of the page on own models runs as it stands."""

import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.bundle import read_unverified
from camsdk.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs/own-model.md").read_text()
SECTION = PAGE.partition("## A detector, from file to artifact")[2].partition("\n## ")[0]
HEIGHT, WIDTH = 192, 256


def write_detector(path: Path, output: dict[str, object], class_count: int) -> dict[str, list[int]]:
    """A network of two convolutions a stride, with the head that the page describes; its shapes."""
    rng = np.random.default_rng(0)
    bins = 4 * (int(str(output["reg_max"])) + 1)
    nodes, stored, infos = [], {}, []
    names = iter(output["tensors"])  # type: ignore[call-overload] # from YAML
    for stride in output["strides"]:  # type: ignore[attr-defined] # from YAML
        stored[f"w{stride}"] = rng.normal(size=(12, 3, stride, stride)) / stride
        nodes += [
            helper.make_node(
                "Conv",
                ["image", f"w{stride}"],
                [f"c{stride}"],
                f"see{stride}",
                strides=[stride] * 2,
            ),
            helper.make_node("Relu", [f"c{stride}"], [f"r{stride}"], f"relu{stride}"),
        ]
        for channels in (class_count, bins):
            name = next(names)
            stored[f"{name}/w"] = rng.normal(size=(channels, 12, 1, 1)) / 4
            nodes.append(
                helper.make_node("Conv", [f"r{stride}", f"{name}/w"], [name], f"to {name}")
            )
            shape = [1, channels, -(-HEIGHT // stride), -(-WIDTH // stride)]
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "yard",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        infos,
        [numpy_helper.from_array(of.astype(np.float32), name) for name, of in stored.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return {i.name: [dim.dim_value for dim in i.type.tensor_type.shape.dim] for i in infos}


def test_the_worked_example_of_a_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (described,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
    document = yaml.safe_load(described)
    (tmp_path / "yard.yaml").write_text(described, encoding="utf-8")
    shapes = write_detector(tmp_path / "yard.onnx", document["output"], len(document["classes"]))
    for name, shape in re.findall(r"`(\w+_\d+)` is \(([\d, ]+)\)", SECTION):
        assert shapes[name] == [int(length) for length in shape.split(",")]
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for index in range(24):
        picture = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (320, 240))
        cv2.imwrite(str(tmp_path / "pictures" / f"{index:02d}.png"), picture)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    (camctl .+)$", SECTION, re.MULTILINE)
    assert [shlex.split(line)[2] for line in commands] == ["import", "compress", "evaluate"]
    for line in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        assert not caught.value.code, printed.err
    manifest = read_unverified((tmp_path / "yard-int8.cam").read_bytes()).manifest
    assert manifest.precision == "int8"
    assert manifest.classes == tuple(document["classes"])
    assert manifest.input.resize == "letterbox"
    assert manifest.output.tensors == tuple(document["output"]["tensors"])
    assert manifest.metrics["evaluated_boxes"] > 10
    assert manifest.metrics["ap50_vs_reference_all"] > 0.9


def test_every_decoder_is_on_the_page() -> None:
    from camsdk.artifact.manifest import KINDS
    from camsdk.cli.model_import import TENSORFLOW_SSD

    told = set(re.findall(r"^\| `([a-z][a-z-]+)` \|", PAGE, re.MULTILINE))
    assert told == {*KINDS, TENSORFLOW_SSD}
