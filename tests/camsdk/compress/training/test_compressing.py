"""A training goes on from what rounding after training has found."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from camsdk.compress.coded_model import CodedModel
from camsdk.compress.graph.layers import constants
from camsdk.compress.options import (
    CodeSet,
    CompressOptions,
    DistillOptions,
    LayerOptions,
    NOfM,
    PruneOptions,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from camsdk.compress.ptq.quantizing import quantize_after_training
from camsdk.compress.training.compressing import School, learn_codes
from camsdk.vision.frames import Frame
from support.small_detector import SIZE, small_detector


def frames(count: int) -> list[Frame]:
    rng = np.random.default_rng(0)
    halves = np.full((SIZE // 2, SIZE // 2), 128, np.uint8)
    return [
        Frame(index, float(index), rng.integers(16, 236, (SIZE, SIZE), np.uint8), halves, halves)
        for index in range(count)
    ]


def test_pictures_are_dropped_as_soon_as_they_are_tensors() -> None:
    torch.set_num_threads(1)
    source = small_detector()
    model = onnx.load_from_string(source.model)
    made = quantize_after_training(model, QuantizeOptions(), seed=0)
    rounded = CodedModel(made.model, made.weights, made.activations)
    held: list[weakref.ref[Frame]] = []
    most = 0

    def taken() -> Iterator[Frame]:
        nonlocal most
        for _ in range(12):
            (frame,) = frames(1)
            held.append(weakref.ref(frame))
            most = max(most, sum(of() is not None for of in held))
            yield frame
            del frame

    train = TrainOptions(epochs=1, batch_size=4, learning_rate=1e-3)
    school = School(model, source.manifest, taken(), None)
    learn_codes(school, rounded, CompressOptions(QuantizeOptions(), train=train))
    assert len(held) == 12
    assert most <= 3  # the first, to test on; the one before; the one that comes


def with_batchnorm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A BatchNorm that turns signs behind every convolution but the head."""
    rng = np.random.default_rng(1)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for index in range(3):
        filters = constants(model)[f"w{index}"].shape[0]
        values = {
            "gamma": rng.choice([-1.0, 0.5, 2.0], filters), "beta": rng.normal(size=filters),
            "mean": rng.normal(size=filters), "var": rng.uniform(0.5, 2.0, filters),
        }  # fmt: skip
        names = [f"{name}{index}" for name in values]
        for name, value in zip(names, values.values(), strict=True):
            held = onnx.numpy_helper.from_array(value.astype(np.float32), name)
            result.graph.initializer.append(held)
        place = next(i for i, node in enumerate(result.graph.node) if node.name == f"conv{index}")
        result.graph.node[place + 1].input[0] = f"b{index}_out"
        norm = onnx.helper.make_node(
            "BatchNormalization", [f"c{index}", *names], [f"b{index}_out"], f"norm{index}"
        )
        result.graph.node.insert(place + 1, norm)
    onnx.checker.check_model(result, full_check=True)
    return result


def test_features_are_those_of_a_teacher_without_batchnorm_too() -> None:
    """At 8 bits next to nothing differs; before and behind BatchNorm, nearly everything would."""
    torch.set_num_threads(1)
    source = small_detector()
    model = with_batchnorm(onnx.load_from_string(source.model))
    made = quantize_after_training(model, QuantizeOptions(), seed=0)
    rounded = CodedModel(made.model, made.weights, made.activations)
    losses = []
    for features in (0.0, 1.0):
        options = CompressOptions(
            QuantizeOptions(),
            distill=DistillOptions(logits=0.0, features=features),
            train=TrainOptions(epochs=1, batch_size=2, learning_rate=1e-12),
        )
        school = School(model, source.manifest, frames(2), None)
        losses.append(learn_codes(school, rounded, options).history[0])
    assert 0 < losses[1] - losses[0] < 0.02


def test_what_rounding_left_stays_and_what_it_pruned_stays_away() -> None:
    torch.set_num_threads(1)
    source = small_detector()
    model = onnx.load_from_string(source.model)
    quantize = QuantizeOptions(WeightOptions(CodeSet(3)), rounding="gptq")
    prune = PruneOptions(0.5, importance="taylor-1", dense=("conv1",))
    made = quantize_after_training(model, quantize, seed=0, prune=prune)
    rounded = CodedModel(made.model, made.weights, made.activations)
    train = TrainOptions(epochs=4, batch_size=2, learning_rate=1e-3)
    school = School(model, source.manifest, frames(4), None)
    learned = learn_codes(school, rounded, CompressOptions(quantize, prune, train=train))
    for name, before in rounded.weights.items():
        gone, after = before.codes == 0, learned.weights[name].codes == 0
        if name == "conv1":
            assert gone.mean() < 0.4
        else:
            assert after[gone].all()
            assert after[~gone].mean() < 0.03


def test_zeros_of_a_layer_that_is_not_pruned_so_are_no_mask() -> None:
    torch.set_num_threads(1)
    source = small_detector()
    model = onnx.load_from_string(source.model)
    few = LayerOptions(WeightOptions(CodeSet(2)))
    quantize = QuantizeOptions(few.weights, layers={"conv0": few})
    prune = PruneOptions(0.5, NOfM(2, 4))  # conv0 reads three channels
    made = quantize_after_training(model, quantize, seed=0, prune=prune)
    rounded = CodedModel(made.model, made.weights, made.activations)
    train = TrainOptions(epochs=8, batch_size=2, learning_rate=0.1)
    school = School(model, source.manifest, frames(4), None)
    learned = learn_codes(school, rounded, CompressOptions(quantize, prune, train=train))
    came_back = {
        name: int(((before.codes == 0) & (learned.weights[name].codes != 0)).sum())
        for name, before in rounded.weights.items()
    }
    assert came_back["conv0"] > 0
    assert came_back["conv1"] == came_back["conv2"] == 0


def test_whatever_decides_about_a_training_gives_it_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    source = small_detector()
    other = onnx.load_from_string(small_detector(seed=1).model)
    model = onnx.load_from_string(source.model)
    quantize = QuantizeOptions(WeightOptions(CodeSet(3)))

    rounded = {}
    for sparsity in (0.5, 0.6):
        made = quantize_after_training(model, quantize, seed=0, prune=PruneOptions(sparsity))
        rounded[sparsity] = CodedModel(made.model, made.weights, made.activations)

    def learn(
        teacher: onnx.ModelProto = model,
        count: int = 2,
        sparsity: float = 0.5,
        layer_sparsity: dict[str, float] | None = None,
        **training: float,
    ) -> Path:
        train = replace(TrainOptions(epochs=1, batch_size=2, learning_rate=1e-3), **training)
        options = CompressOptions(quantize, PruneOptions(sparsity), train=train)
        told: list[Path] = []
        school = School(
            teacher, source.manifest, frames(count), tmp_path, on_checkpoint=told.append
        )
        learn_codes(school, rounded[sparsity], options, layer_sparsity)
        (checkpoint,) = told
        return checkpoint

    first = learn()
    different = [
        learn(teacher=other),
        learn(count=3),
        learn(sparsity=0.6),
        learn(layer_sparsity={"conv1": 0.5}),
        learn(seed=1),
        learn(learning_rate=2e-3),
    ]
    assert learn() == first
    assert len({first, *different}) == 7 == len(list(tmp_path.iterdir()))


def test_a_training_that_moves_nothing_keeps_the_codes_of_rounding() -> None:
    torch.set_num_threads(1)
    source = small_detector()
    model = onnx.load_from_string(source.model)
    quantize = QuantizeOptions(WeightOptions(CodeSet(3)), rounding="gptq")
    made = quantize_after_training(model, quantize, seed=0)
    rounded = CodedModel(made.model, made.weights, made.activations)
    train = TrainOptions(epochs=1, batch_size=2, learning_rate=1e-12)
    school = School(model, source.manifest, frames(2), None)
    learned = learn_codes(school, rounded, CompressOptions(quantize, train=train))
    for name in ("conv1", "conv2"):
        np.testing.assert_array_equal(learned.weights[name].codes, rounded.weights[name].codes)
        assert learned.weights[name].scale == pytest.approx(rounded.weights[name].scale, rel=1e-5)
    # The first and the last layer keep more bits, in rounding and in training alike.
    for name in ("conv0", "head"):
        assert learned.weights[name].code_set == rounded.weights[name].code_set == CodeSet(7)
        np.testing.assert_array_equal(learned.weights[name].codes, rounded.weights[name].codes)
