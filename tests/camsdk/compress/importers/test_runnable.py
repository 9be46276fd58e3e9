"""Shapes are inferred on a copy that does not hold the weights."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers.runnable import MAX_FOLLOWED, with_shapes
from camsdk.compress.importers.shape_folding import known_shapes

SIDE = 256


def network(*, is_declared: bool = False) -> onnx.ModelProto:
    """A product with a large matrix, in a shape that a small constant says."""
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, SIDE))]
    matrix = helper.make_tensor_value_info("w", TensorProto.FLOAT, (SIDE, SIDE))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Reshape", ["a", "s"], ["b"]),
            helper.make_node("Relu", ["b"], ["y"]),
        ],
        "g",
        [*infos, matrix] if is_declared else infos,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, SIDE // 2))],
        [
            numpy_helper.from_array(np.ones((SIDE, SIDE), np.float32), "w"),
            numpy_helper.from_array(np.array([2, -1]), "s"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("is_declared", [False, True])
def test_weights_are_not_copied_to_infer_shapes(is_declared: bool) -> None:
    model = network(is_declared=is_declared)
    before = model.SerializeToString()
    found = with_shapes(model)
    assert found.ByteSize() < MAX_FOLLOWED < len(before)
    assert list(found.graph.input) == list(model.graph.input)
    known = known_shapes(found.graph)
    assert known["a"] == (1, SIDE)
    assert known["b"] == known["y"] == (2, SIDE // 2)
    assert model.SerializeToString() == before
