"""What is converted between opsets computes the same."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers.onnx_file import import_onnx_file
from camsdk.compress.importers.onnx_opsets import to_opset

DATA = np.random.default_rng(1).normal(size=(1, 2, 5, 5)).astype(np.float32)


def of_opset(opset: int, node: onnx.NodeProto, **stored: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, DATA.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 4 if opset < 13 else 8
    return made


def run(made: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": DATA})[0])


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2.0, 1.6, 0.6])
@pytest.mark.parametrize(("opset", "op"), [(7, "Upsample"), (9, "Upsample"), (10, "Resize")])
def test_enlarged_pictures_of_old_files_stay_where_they_are(
    opset: int, op: str, factor: float, mode: str
) -> None:
    if op == "Upsample" and factor < 1:
        return
    scales = np.array([1, 1, factor, factor], np.float32)
    if opset < 9:
        made = of_opset(opset, helper.make_node(op, ["x"], ["y"], mode=mode, scales=scales))
    else:
        made = of_opset(opset, helper.make_node(op, ["x", "s"], ["y"], mode=mode), s=scales)
    expected = run(made)
    converted = to_opset(made)
    assert converted.opset_import[0].version == 17
    np.testing.assert_allclose(run(converted), expected, rtol=1e-5, atol=1e-6)


def test_a_resize_that_names_its_coordinates_keeps_them(tmp_path: Path) -> None:
    node = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel"
    )
    made = of_opset(11, node, s=np.array([1, 1, 2, 2], np.float32))
    made.graph.node[0].input[1] = "r"
    made.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "r"))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    np.testing.assert_allclose(run(import_onnx_file(tmp_path / "m.onnx")), run(made), rtol=1e-5)
