"""A draft carries all that a device needs, and the same model gives the same bytes."""

import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact import bundle
from camsdk.artifact.manifest import InputSpec, Lineage, OutputSpec
from camsdk.artifact.preprocess import make_input
from camsdk.compress.compressing import compress_int8
from camsdk.compress.packaging import Description, describe, make_draft, rendered_picture
from camsdk.errors import InvalidInput, UnsupportedModel

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


def test_a_draft_packs_and_its_canary_is_what_the_model_gives() -> None:
    draft = make_draft(tiny_detector(), DESCRIPTION, created_timestamp_s=1.0)
    contents = bundle.read_unverified(bundle.pack(draft.manifest, draft.members, None))
    assert contents.manifest == draft.manifest
    with np.load(io.BytesIO(contents.members["canary.npz"])) as canary:
        tensor = make_input(rendered_picture(), DESCRIPTION.input)
        np.testing.assert_array_equal(canary["input"], tensor)
        assert canary["output/logits"].shape == (1, 2, 4, 4)
        assert np.ptp(canary["output/logits"]) > 0.1  # the picture makes the model say something
        assert draft.manifest.canary.max_abs_error < 1e-3 * np.abs(canary["output/logits"]).max()


def test_the_same_model_gives_the_same_bytes() -> None:
    first, second = (
        make_draft(tiny_detector(), DESCRIPTION, created_timestamp_s=5.0) for _ in range(2)
    )
    assert first == second


def test_integers_get_a_wider_tolerance() -> None:
    exact = make_draft(tiny_detector(), DESCRIPTION)
    coarse = make_draft(tiny_detector(), replace(DESCRIPTION, precision="int8"))
    assert coarse.manifest.canary.max_abs_error > 50 * exact.manifest.canary.max_abs_error
    assert coarse.manifest.canary.min_agreement < exact.manifest.canary.min_agreement == 1


def test_what_a_device_would_refuse_is_not_packed() -> None:
    model = tiny_detector()
    model.graph.node[1].domain = "somebody.else"
    model.opset_import.append(helper.make_opsetid("somebody.else", 1))
    with pytest.raises(UnsupportedModel):
        make_draft(model, DESCRIPTION)


def test_a_description_survives_the_manifest() -> None:
    assert describe(make_draft(tiny_detector(), DESCRIPTION).manifest) == DESCRIPTION


def test_only_float_can_be_quantized(tmp_path: object) -> None:
    draft = make_draft(tiny_detector(), replace(DESCRIPTION, precision="int8"))
    with pytest.raises(InvalidInput, match="only fp32"):
        compress_int8(draft, __file__)  # type: ignore[arg-type] # never opened
