"""A stranger's model runs in a process of its own, within limits, and says there what it gives."""

import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from camsdk.cli.model_import import Wishes, make_import_draft
from camsdk.compress import packaging
from camsdk.compress.importers.runnable import runnable
from camsdk.compress.importers.trial import try_model
from camsdk.compress.sessions import Session
from camsdk.errors import DeadlineExceeded, InvalidInput, ResourceExhausted, UnsupportedModel

EXAMPLE = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)


def network(body: str, result: str = "1,3") -> onnx.ModelProto:
    """``p`` (1, 3) is the mean of each channel of ``x``; the body makes ``y``."""
    return onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> '
        f"net (float[1,3,16,16] x) => (float[{result}] y) "
        f"{{ g = GlobalAveragePool(x) p = Flatten(g) {body} }}"
    )


def growing(elements: float) -> onnx.ModelProto:
    """Makes a tensor whose length is computed in floats, so that no inference follows it."""
    model = network(
        "m = ReduceMax <keepdims = 0> (x) n = Mul(m, zero) f = Add(n, size) i = Cast <to = 7> (f) "
        "l = Reshape(i, one) huge = ConstantOfShape(l) s = ReduceSum <keepdims = 0> (huge) "
        "y = Add(p, s)"
    )
    for name, value in (
        ("zero", np.float32(0)),
        ("size", np.float32(elements)),
        ("one", np.array([1])),
    ):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def test_a_length_that_is_computed_from_the_picture_is_not_imported() -> None:
    model = growing(4.0)
    # What a file states of it is not believed.
    model.graph.value_info.append(
        onnx.helper.make_tensor_value_info("huge", onnx.TensorProto.FLOAT, (4,))
    )
    with pytest.raises(UnsupportedModel, match=r"'huge' depends on data.*fixed shapes"):
        runnable(model)


def test_a_model_that_wants_all_memory_is_ended() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ResourceExhausted, match=r"more memory than allowed.*smaller"):
        try_model(growing(2.0**33), EXAMPLE, ["y"], "classifier", 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_model_that_does_not_end_is_ended() -> None:
    with pytest.raises(DeadlineExceeded):
        try_model(growing(2.0**28), EXAMPLE, ["y"], "detector", 3, timeout_s=0.1)


def test_outputs_are_what_the_model_gives() -> None:
    model = network("y = Neg(p)")
    model.graph.output.append(onnx.helper.make_tensor_value_info("p", 1, (1, 3)))
    tried = try_model(model, EXAMPLE, ["p", "y"], "detector", 3)
    assert tried.model == model
    assert list(tried.outputs) == ["p", "y"]
    wanted = Session(model.SerializeToString()).infer(EXAMPLE)
    for name, value in tried.outputs.items():
        np.testing.assert_array_equal(value, wanted[name])


def test_scores_come_back_as_logits() -> None:
    model = network("n = Mul(p, k) s = Softmax <axis = 1> (n) y = Reshape(s, to)", result="1,1,1,3")
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(50).reshape(1, 1), "k"),
            numpy_helper.from_array(np.array([1, 1, 1, 3]), "to"),
        ]
    )
    tried = try_model(model, EXAMPLE, ["y"], "classifier", 3)
    ((name, logits),) = tried.outputs.items()
    assert [info.name for info in tried.model.graph.output] == [name] == ["y/logits"]
    np.testing.assert_allclose(logits, 50 * EXAMPLE.mean((2, 3)), rtol=1e-4)


def test_what_is_wrong_is_said_as_in_this_process() -> None:
    with pytest.raises(InvalidInput, match=r"3 classes, and 4 are named.*one name for each"):
        try_model(network("y = Neg(p)"), EXAMPLE, ["y"], "classifier", 4)
    foreign = network("y = Neg(p)")
    foreign.graph.node[0].op_type = "RandomNormalLike"
    with pytest.raises(UnsupportedModel, match="RandomNormalLike, which is not allowed"):
        try_model(foreign, EXAMPLE, ["y"], "classifier", 3)


def test_an_import_runs_nothing_in_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: bytes) -> None:
        pytest.fail("a stranger's model was run in this process")

    monkeypatch.setattr(packaging, "Session", refused)
    monkeypatch.setattr("camsdk.compress.importers.class_outputs.Session", refused)
    source, classes = tmp_path / "net.onnx", tmp_path / "names.txt"
    model = network("y = Neg(p)")
    source.write_bytes(model.SerializeToString())
    classes.write_text("a\nb\nc\n")
    wishes = Wishes(classes=classes, output={"decoder": "class-scores"})
    draft = make_import_draft(model, wishes, source=source, framework="onnx", name="net", version=1)
    assert draft.manifest.output.tensors == ("y",)
