"""``camctl model export``: what is written has been run, what cannot be is said."""

import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.bundle import pack
from camsdk.cli.model_export import _rounding
from camsdk.compress.codes import project
from camsdk.compress.graph.qdq import ActivationRange, emit_qdq
from camsdk.compress.mnn import from_quantized, layer_bits
from camsdk.compress.options import CodeSet
from camsdk.compress.packaging import Draft
from camsdk.compress.sessions import Session
from support.artifacts import make_manifest

if TYPE_CHECKING:
    from conftest import Camctl

WEIGHTS = np.random.default_rng(0).normal(0, 0.1, (64, 3, 3, 3)).astype(np.float32)
HIDE_MNN = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "MNN" else found(name, *rest)
from camsdk.cli.main import main
sys.argv = ["camctl", *{arguments!r}]
main()
"""


def network() -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["boxes"], "layer", strides=[2, 2])
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 64, 15, 15])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def artifact(path: Path, model: onnx.ModelProto) -> bytes:
    """A draft of it; the model's bytes."""
    content = model.SerializeToString()
    members = {"canary.npz": b"canary", "model.onnx": content}
    path.write_bytes(pack(make_manifest(members), members, None))
    return content


def quantized(bits: int) -> onnx.ModelProto:
    coded = project(WEIGHTS, CodeSet(bits), "filter")
    return emit_qdq(network(), {"layer": coded}, {"x": ActivationRange(0, 255)})


def test_onnx_is_what_agents_run(camctl: "Camctl", tmp_path: Path) -> None:
    content = artifact(tmp_path / "net.cam", quantized(8))
    out = tmp_path / "net.onnx"
    made = camctl("model", "export", tmp_path / "net.cam", "--to", "onnx", "-o", out, "--json")
    assert made.json["bytes"] == len(content)
    assert out.read_bytes() == content


def test_options_that_do_not_go_together_are_wrong_usage(camctl: "Camctl", tmp_path: Path) -> None:
    draft = tmp_path / "net.cam"
    artifact(draft, network())
    assert camctl("model", "export", draft).code == 2
    assert camctl("model", "export", draft, "--to", "tflite").code == 2
    assert camctl("model", "export", draft, "--to", "onnx", "--bits", "4").code == 2
    for bits in ("1", "9", "33"):
        assert camctl("model", "export", draft, "--to", "mnn", "--bits", bits).code == 2


def damaged(what: str) -> bytes:
    """The network's bytes, changed."""
    model = network()
    content = model.SerializeToString()
    if what == "protobuf":
        return content[: len(content) // 2]
    if what == "text":
        return content.replace(b"layer", b"lay\xffr")
    if what == "weights":
        model.graph.initializer[0].dims[0] += 1
    elif what == "domain":
        model.graph.node[0].domain = "somebody.else"
    else:
        values = helper.make_node("NonZero", ["x"], ["places"])  # as many as the picture has
        model.graph.node.append(values)
    return model.SerializeToString()


@pytest.mark.parametrize("what", ["protobuf", "text", "weights", "domain", "growing"])
def test_a_model_that_is_damaged_or_not_to_be_run_is_told_of(
    camctl: "Camctl", tmp_path: Path, what: str
) -> None:
    members = {"canary.npz": b"canary", "model.onnx": damaged(what)}
    (tmp_path / "net.cam").write_bytes(pack(make_manifest(members), members, None))
    for engine in ("onnx", "mnn"):
        out = tmp_path / "out"
        made = camctl("model", "export", tmp_path / "net.cam", "--to", engine, "-o", out, "--json")
        assert made.code == 1
        code = "unsupported-model" if what in ("domain", "growing") else "data-corrupted"
        assert made.json["error"]["reason"] == code
        assert not out.exists()


def test_a_place_that_cannot_be_written_is_named(camctl: "Camctl", tmp_path: Path) -> None:
    artifact(tmp_path / "net.cam", network())
    gone = tmp_path / "gone" / "net.onnx"
    made = camctl("model", "export", tmp_path / "net.cam", "--to", "onnx", "-o", gone, "--json")
    assert made.code == 1
    assert str(gone) in made.json["error"]["message"]


def test_without_mnn_the_extra_is_named(tmp_path: Path) -> None:
    artifact(tmp_path / "net.cam", network())
    arguments = ["model", "export", str(tmp_path / "net.cam"), "--to", "mnn"]
    done = subprocess.run(
        [sys.executable, "-c", HIDE_MNN.format(arguments=arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert "camplatform[mnn]" in done.stderr
    assert not list(tmp_path.glob("*.mnn"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("MNN") is None, reason="the extra mnn is not installed")
def test_mnn_files_keep_the_bits_of_the_codes(camctl: "Camctl", tmp_path: Path) -> None:
    sizes = {}
    for name, model, bits in (("float", network(), 8), ("w4", quantized(4), 4)):
        draft, out = tmp_path / f"{name}.cam", tmp_path / f"{name}.mnn"
        artifact(draft, model)
        made = camctl("model", "export", draft, "--to", "mnn", "-o", out, "--json").json
        assert made["weight_bits"] == bits
        assert made["relative_error"] < 0.02
        assert made["bytes"] == out.stat().st_size
        sizes[name] = made["bytes"]
    assert sizes["w4"] < sizes["float"]
    to = ("--to", "mnn", "--bits", "32", "-o", tmp_path / "wide.mnn", "--json")
    wide = camctl("model", "export", tmp_path / "w4.cam", *to)
    assert wide.json["relative_error"] < 1e-3
    assert wide.json["bytes"] > sizes["float"]


def two_layers(*, is_first_float: bool = False) -> onnx.ModelProto:
    """As first layers often do, the first has codes of 7 bits; most weights have codes of 2."""
    rng = np.random.default_rng(1)
    weights = {"w": WEIGHTS, "v": rng.normal(0, 0.1, (64, 64, 1, 1)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "first", strides=[2, 2]),
        helper.make_node("Conv", ["h", "v"], ["boxes"], "second"),
    ]
    model = network()
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(weights[name], name) for name in "wv")
    coded = {
        "first": project(weights["w"], CodeSet(7), "filter"),
        "second": project(weights["v"], CodeSet(2), "filter"),
    }
    if is_first_float:
        del coded["first"]
    return emit_qdq(model, coded, {"x": ActivationRange(0, 255), "h": ActivationRange(-300, 300)})


def test_each_layer_has_the_bits_of_its_codes() -> None:
    assert from_quantized(two_layers())[1] == 7
    assert layer_bits(two_layers()) == {"first": 7, "h": 7, "second": 2, "boxes": 2}
    assert layer_bits(network()) == {}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("MNN") is None, reason="the extra mnn is not installed")
def test_an_mnn_file_keeps_the_bits_of_each_layer_and_warns_of_fewer(
    camctl: "Camctl", tmp_path: Path
) -> None:
    draft, out = tmp_path / "net.cam", tmp_path / "net.mnn"
    artifact(draft, two_layers())
    start = ("model", "export", draft, "--to", "mnn", "-o", out)
    unasked = camctl(*start, "--json")
    assert (unasked.json["weight_bits"], unasked.json["most_bits_of_a_layer"]) == (2, 7)
    assert unasked.json["relative_error"] < 0.01
    assert "warning" not in unasked.err
    wide = camctl(*start, "--bits", "7", "--json").json
    assert wide["bytes"] > 1.3 * unasked.json["bytes"]
    asked = camctl(*start, "--bits", "2")
    assert asked.code == 0
    assert "warning: in 2 bits the outputs differ" in asked.err


@pytest.mark.slow
@pytest.mark.skipif(find_spec("MNN") is None, reason="the extra mnn is not installed")
def test_layers_in_float_do_not_get_the_bits_of_codes(camctl: "Camctl", tmp_path: Path) -> None:
    draft, out = tmp_path / "net.cam", tmp_path / "net.mnn"
    artifact(draft, two_layers(is_first_float=True))
    made = camctl("model", "export", draft, "--to", "mnn", "-o", out, "--json").json
    assert (made["weight_bits"], made["most_bits_of_a_layer"]) == (2, 8)
    assert made["relative_error"] < 0.02


def test_the_rounding_runs_each_model_once_for_each_input(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[bytes] = []

    class Counted(Session):
        """Remembers what ran."""

        def __init__(self, model: bytes) -> None:
            super().__init__(model)
            self._model = model

        def infer(self, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
            runs.append(self._model)
            return super().infer(tensor)

    monkeypatch.setattr("camsdk.compress.sessions.Session", Counted)
    model = network()
    for name in ("second", "third"):
        node = helper.make_node("Conv", ["x", "w"], [name], name, strides=[2, 2])
        model.graph.node.append(node)
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 15, 15])
        model.graph.output.append(info)
    members = {"canary.npz": b"canary", "model.onnx": model.SerializeToString()}
    draft = Draft(make_manifest(members), members)
    inputs = [np.ones((1, 3, 32, 32), np.float32), np.zeros((1, 3, 32, 32), np.float32)]
    assert _rounding(draft, model, inputs) == 0
    assert len(runs) == 4
