"""A detector of a few thousand weights, with a head that a training can imitate."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.manifest import InputSpec
from camsdk.compress.packaging import Draft, make_draft
from support.tiny_detector import DESCRIPTION

SIZE = 64
_WIDTHS = (3, 8, 16, 24)


def small_detector(seed: int = 0) -> Draft:
    """Three convolutions of stride 2 and a head of two classes and four sides of two bins."""
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = {"n": np.array([2, 8])}
    nodes, tensor = [], "x"
    for index, (inputs, filters) in enumerate(pairwise(_WIDTHS)):
        fan = 9 * inputs
        values[f"w{index}"] = rng.normal(size=(filters, inputs, 3, 3)) * np.sqrt(2 / fan)
        values[f"b{index}"] = rng.normal(size=filters) / 4
        parameters = [tensor, f"w{index}", f"b{index}"]
        nodes += [
            helper.make_node(
                "Conv", parameters, [f"c{index}"], f"conv{index}", strides=[2, 2], pads=[1] * 4
            ),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"),
        ]
        tensor = f"r{index}"
    values["w"] = rng.normal(size=(10, _WIDTHS[-1], 1, 1)) * np.sqrt(2 / _WIDTHS[-1])
    values["b"] = np.zeros(10)
    nodes += [
        helper.make_node("Conv", [tensor, "w", "b"], ["c"], "head"),
        helper.make_node("Split", ["c", "n"], ["logits", "distances"], "split", axis=1),
    ]
    cells = SIZE // 8
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, SIZE, SIZE))],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 2, cells, cells)),
            helper.make_tensor_value_info("distances", TensorProto.FLOAT, (1, 8, cells, cells)),
        ],
        [
            numpy_helper.from_array(value if name == "n" else value.astype(np.float32), name)
            for name, value in values.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    spec = InputSpec(
        name="x", width=SIZE, height=SIZE, layout="NCHW", color="BGR", mean=(127.0,) * 3,
        std=(60.0,) * 3,
    )  # fmt: skip
    return make_draft(model, replace(DESCRIPTION, name="small-fp32", version=1, input=spec))
