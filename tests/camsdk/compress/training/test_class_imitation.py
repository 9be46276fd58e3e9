"""Classifiers and segmentation networks learn to say what they said in float."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from camsdk.artifact.decode import class_logits
from camsdk.artifact.manifest import OutputSpec
from camsdk.artifact.preprocess import make_input
from camsdk.compress.class_agreement import divergence
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.option_checks import can_train
from camsdk.compress.options import (
    CodeSet,
    CompressOptions,
    PruneOptions,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from camsdk.compress.packaging import Draft, describe, make_draft
from camsdk.compress.ptq.quantizing import quantize_after_training
from camsdk.compress.sessions import Session
from camsdk.compress.training.compressing import School, learn_codes
from camsdk.compress.training.tasks import imitation
from camsdk.compress.training.twin import to_torch
from camsdk.errors import InvalidInput
from camsdk.vision.frames import Frame
from support.small_detector import SIZE, small_detector

QUANTIZE = QuantizeOptions(WeightOptions(CodeSet(2)))
PRUNE = PruneOptions(0.5)


def frames(start: int, count: int) -> list[Frame]:
    """Blocks of noise over noise."""
    halves = np.full((SIZE // 2, SIZE // 2), 128, np.uint8)
    made = []
    for index in range(start, start + count):
        rng = np.random.default_rng(index)
        luma = rng.integers(90, 150, (SIZE, SIZE)).astype(np.uint8)
        for _ in range(4):
            left, top, wide, tall = rng.integers(8, SIZE - 8, 4)
            luma[top : top + tall, left : left + wide] = rng.integers(16, 236)
        made.append(Frame(index, float(index), luma, halves, halves))
    return made


def network(decoder: str) -> Draft:
    """The ten filters of the small detector's head as classes, of a cell or of the picture."""
    source = small_detector()
    model = onnx.load_from_string(source.model)
    del model.graph.output[:]
    split = next(node for node in model.graph.node if node.name == "split")
    model.graph.node.remove(split)
    shape: tuple[int, ...] = (1, 10, SIZE // 8, SIZE // 8)
    name = "c"
    if decoder == "class-scores":
        model.graph.node.append(helper.make_node("GlobalMaxPool", ["c"], ["best"], "best"))
        name, shape = "best", (1, 10, 1, 1)
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    output = OutputSpec(decoder=decoder, tensors=(name,))  # type: ignore[arg-type] # one of two
    classes = tuple(f"class {index}" for index in range(10))
    described = replace(describe(source.manifest), output=output, classes=classes)
    return make_draft(model, described)


def mean_divergence(source: Draft, made: CodedModel, tests: list[Frame]) -> float:
    """Millinats from the float network, mean over pictures and cells."""
    emitted = emit_qdq(made.model, made.weights, made.activations)
    sessions = Session(source.model), Session(emitted.SerializeToString())
    found = []
    for frame in tests:
        tensor = make_input(frame, source.manifest.input)
        wanted, given = (
            class_logits(session.infer(tensor), source.manifest).reshape(10, -1)
            for session in sessions
        )
        found += [divergence(*cell) for cell in zip(wanted.T, given.T, strict=True)]
    return 1000 * float(np.mean(found))


@pytest.mark.parametrize("decoder", ["class-scores", "class-map"])
def test_a_training_brings_classes_nearer_to_the_float_network(decoder: str) -> None:
    torch.set_num_threads(1)
    source = network(decoder)
    assert can_train(source)
    model, spec = onnx.load_from_string(source.model), source.manifest.input
    lessons = frames(0, 64)
    inputs = (make_input(frame, spec) for frame in lessons[:16])
    made = quantize_after_training(model, QUANTIZE, inputs, prune=PRUNE, seed=0)
    rounded = CodedModel(made.model, made.weights, made.activations)
    train = TrainOptions(epochs=8, batch_size=8, learning_rate=0.02)
    options = CompressOptions(QUANTIZE, PRUNE, train=train)
    school = School(model, source.manifest, lessons, None)
    learned = learn_codes(school, rounded, options)
    assert learned.history[-1] < learned.history[0]
    before, after = (mean_divergence(source, of, frames(1000, 12)) for of in (rounded, learned))
    print(f"{decoder}: {before:.1f} millinats by rounding, {after:.1f} trained")
    assert after < 0.8 * before


def test_the_teacher_agrees_with_itself_and_other_outputs_are_no_lesson() -> None:
    source = network("class-map")
    twin = to_torch(onnx.load_from_string(source.model)).module
    task = imitation(twin, frames(0, 3), frames(3, 2), source.manifest)
    inputs, wanted = task.batch(torch.arange(3), None)
    assert wanted.shape == (3, 10, SIZE // 8, SIZE // 8)
    with torch.no_grad():
        assert float(task.loss(twin(inputs), (inputs, wanted))) == pytest.approx(0, abs=1e-6)
        assert float(task.loss(-wanted, (inputs, wanted))) > 0.01
    assert task.metric(twin) == 1.0
    turned = source.manifest.input.model_copy(update={"layout": "NHWC"})
    with pytest.raises(InvalidInput, match="NHWC input cannot be imitated"):
        imitation(twin, [], [], source.manifest.model_copy(update={"input": turned}))
