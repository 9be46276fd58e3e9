"""A draft carries all that a device needs, and the same model gives the same bytes."""

import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from camsdk.artifact import bundle
from camsdk.artifact.manifest import OutputSpec
from camsdk.artifact.preprocess import make_input
from camsdk.compress.library_int8 import compress_int8
from camsdk.compress.packaging import describe, make_draft, rendered_picture
from camsdk.errors import InvalidInput, UnsupportedModel
from support.tiny_detector import DESCRIPTION, tiny_detector


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


def test_pixels_scores_and_classes_have_a_limit_each() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> '
        "net (float[1,3,32,32] x) => (float[1,1,4] b, float[1,1] s, float[1,1] c) "
        "<float[1,1,4] box = {0, 0, 320, 300}, float[1,1] score = {0.01}, float[1,1] id = {70}> "
        "{ m = ReduceMean <axes = [1, 2, 3], keepdims = 0> (x) z = Sub(m, m) "
        "b = Add(z, box) s = Add(z, score) c = Add(z, id) }"
    )
    output = OutputSpec(
        decoder="boxes-scores-classes",
        tensors=("b", "s", "c"),
        score_threshold=0.3,
        nms_iou=0.6,
    )
    for precision, share in (("fp32", 1e-4), ("int8", 2e-2)):
        description = replace(DESCRIPTION, output=output, precision=precision)
        canary = make_draft(model, description).manifest.canary
        limits = [canary.limit(name) for name in output.tensors]
        assert limits == pytest.approx([320 * share, share, 0.1])
    assert not make_draft(tiny_detector(), DESCRIPTION).manifest.canary.max_abs_errors


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_gives_no_numbers_is_no_draft(value: float) -> None:
    model = tiny_detector()
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[0, 0, 0, 0] = value
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    with pytest.raises(UnsupportedModel, match=r"'logits' .*not finite.*NaN or infinity"):
        make_draft(model, DESCRIPTION)


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


def test_a_packed_draft_holds_the_same_model() -> None:
    plain, small = (
        make_draft(tiny_detector(), DESCRIPTION, created_timestamp_s=1.0, is_packed=is_packed)
        for is_packed in (False, True)
    )
    assert plain.manifest.model.format == "onnx"
    assert small.manifest.model.format == "packed"
    assert small.manifest.model.path == "model.camq"
    assert small.model == plain.model == plain.members["model.onnx"]
    contents = bundle.read_unverified(bundle.pack(small.manifest, small.members, None))
    assert contents.model == small.members["model.camq"]
