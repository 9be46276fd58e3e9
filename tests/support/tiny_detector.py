"""A detector of one convolution, as a float ONNX model with its description."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.manifest import InputSpec, Lineage, OutputSpec
from camsdk.compress.packaging import Description

DESCRIPTION = Description(
    name="tiny",
    version=3,
    precision="fp32",
    classes=("person", "car"),
    input=InputSpec(name="x", width=32, height=32, layout="NCHW", color="BGR", std=(50.0,) * 3),
    output=OutputSpec(
        decoder="nanodet-gfl",
        tensors=("logits", "distances"),
        strides=(8,),
        reg_max=1,
        score_threshold=0.3,
        nms_iou=0.6,
    ),
    lineage=Lineage(source="test", source_sha256="0" * 64, tool="test", tool_version="1"),
)


def tiny_detector(operator: str = "Relu") -> onnx.ModelProto:
    """One convolution of stride 8 to two classes and four sides of two bins."""
    weights = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32) / 20
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", strides=[8, 8]),
        helper.make_node(operator, ["c"], ["r"], name="act"),
        helper.make_node("Split", ["r", "n"], ["logits", "distances"], name="split", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 32, 32))],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 2, 4, 4)),
            helper.make_tensor_value_info("distances", TensorProto.FLOAT, (1, 8, 4, 4)),
        ],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([2, 8]), "n")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
