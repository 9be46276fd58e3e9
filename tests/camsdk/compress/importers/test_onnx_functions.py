"""Operators that ONNX defines by others compute the same when they are written out."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.onnx_check import check_model
from camsdk.compress.importers import runnable
from camsdk.compress.importers.onnx_file import import_onnx_file
from camsdk.errors import CamError, UnsupportedModel

CHANNELS, GROUPS = 6, 3


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def network(opset: int, *, scales: int = CHANNELS, is_computed: bool = False) -> onnx.ModelProto:
    """Two group normalizations in a row, of free shapes inside."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("GroupNormalization", ["r", "s", "b"], ["g"], "first", num_groups=GROUPS),
        helper.make_node("Mul", ["g", "g"], ["m"]),
        helper.make_node(
            "GroupNormalization", ["m", "t", "b"], ["y"], num_groups=GROUPS, epsilon=0.1
        ),
    ]
    stored = {"s": random(scales), "b": random(scales) + 1, "raw": random(scales)}
    if is_computed:
        nodes.insert(0, helper.make_node("Sigmoid", ["raw"], ["t"]))
    else:
        stored["t"] = stored.pop("raw")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, CHANNELS, 4, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 9
    return made


def imported(folder: Path, made: onnx.ModelProto) -> onnx.ModelProto:
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    return import_onnx_file(folder / "m.onnx")


def run(made: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": random(1, CHANNELS, 4, 5)})[0])


@pytest.mark.parametrize("is_computed", [False, True])
@pytest.mark.parametrize(("opset", "scales"), [(18, GROUPS), (21, CHANNELS)])
def test_group_normalizations_are_written_out(
    tmp_path: Path, opset: int, scales: int, is_computed: bool
) -> None:
    made = network(opset, scales=scales, is_computed=is_computed)
    found = imported(tmp_path, made)
    assert found.opset_import[0].version == 17
    assert "GroupNormalization" not in {node.op_type for node in found.graph.node}
    np.testing.assert_allclose(run(found), run(made), rtol=1e-4, atol=1e-5)
    check_model(found.SerializeToString())


def test_more_channels_than_inference_takes_values_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runnable, "MAX_FOLLOWED", CHANNELS - 1)
    made = network(21)
    np.testing.assert_allclose(run(imported(tmp_path, made)), run(made), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda node: node.attribute[0].__setattr__("i", 4), r"'first' .* in 4 groups"),
        (lambda node: node.input.__setitem__(1, "r"), r"'first' .* scales by 'r' of shape"),
        (lambda node: node.input.pop(), "malformed|first"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: object, match: str) -> None:
    made = network(21)
    assert callable(change)
    change(made.graph.node[1])
    with pytest.raises(CamError, match=match):
        imported(tmp_path, made)


def test_an_opset_without_it_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="has no operator 'GroupNormalization'"):
        imported(tmp_path, network(17))


def test_what_a_computed_shape_gives_is_normalized_too(tmp_path: Path) -> None:
    made = network(21)
    relu = made.graph.node[0]
    relu.output[0] = "early"
    half = [
        helper.make_node("Shape", ["early"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["lengths"], to=TensorProto.FLOAT),
        helper.make_node("Floor", ["lengths"], ["floored"]),  # ONNX's inference stops here
        helper.make_node("Cast", ["floored"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["early", "whole"], ["r"]),
    ]
    nodes = [relu, *half, *list(made.graph.node)[1:]]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    assert np.allclose(run(imported(tmp_path, made)), run(made), atol=1e-5)
