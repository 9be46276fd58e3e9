"""A segmentation network that tells dark, bright and red apart, a cell for 4 x 4 pixels."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = ("dark", "bright", "red")
SIZE = 64


def small_segmenter(*, is_softmax: bool = False, is_classes_last: bool = False) -> onnx.ModelProto:
    """Input RGB (1, 3, 64, 64), (pixel - 128) / 128.

    The first layer blurs the channels and knows red against green, beside five filters of noise;
    the second halves the picture again; the last adds up logits.
    """
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.05, (8, 3, 3, 3)).astype(np.float32)
    first[0], first[1], first[2] = 1 / 27, -1 / 27, 0.0
    first[2, 0], first[2, 1] = 1 / 9, -1 / 9
    second = rng.normal(0, 0.02, (8, 8, 3, 3)).astype(np.float32)
    for index in range(3):
        second[index] = 0.0
        second[index, index] = 1 / 9
    last = np.zeros((3, 8, 1, 1), np.float32)
    last[1, 0], last[0, 1], last[2, 2] = 6.0, 6.0, 12.0
    stored = {"w0": first, "w1": second, "w2": last, "b": np.array([0, 0, -2], np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], "first", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "second", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b"], ["map"], "last"),
    ]
    output, shape = "map", [1, 3, SIZE // 4, SIZE // 4]
    if is_softmax:
        nodes.append(helper.make_node("Softmax", [output], ["shares"], "softmax", axis=1))
        output = "shares"
    if is_classes_last:
        nodes.append(helper.make_node("Transpose", [output], ["t"], "turn", perm=[0, 2, 3, 1]))
        output, shape = "t", [1, SIZE // 4, SIZE // 4, 3]
    graph = helper.make_graph(
        nodes,
        "segmenter",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, SIZE, SIZE))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
