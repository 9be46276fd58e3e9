"""Masks over a training: the sparsity asked for, nothing revives, a resumed run goes on alike."""

import copy
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from camsdk.compress.graph.layers import count_macs
from camsdk.compress.options import (
    Block,
    Element,
    Filter,
    Importance,
    LayerOptions,
    NOfM,
    PruneGranularity,
    PruneOptions,
    QuantizeOptions,
    TrainOptions,
)
from camsdk.compress.sparsity import cubic_sparsity
from camsdk.compress.training.admm import AdmmMethod
from camsdk.compress.training.filter_search import find_filter_groups
from camsdk.compress.training.importance import ImportanceEstimate
from camsdk.compress.training.method import Method
from camsdk.compress.training.pruning import MaskSchedule, PruneMethod, prunable_weights
from camsdk.compress.training.tasks import Classification
from camsdk.compress.training.trainer import train
from camsdk.compress.training.twin import to_torch
from camsdk.errors import InvalidInput

STEPS = 60


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


class Training:
    """A few steps of SGD with momentum on a fixed task: which quadrant is brightest."""

    def __init__(self, module: nn.Module, method: Method, seed: int = 0) -> None:
        self.module, self.method = module, method
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(64, 1, 6, 6, generator=generator)
        pooled = functional.adaptive_avg_pool2d(self.images, 2)
        self.labels = torch.flatten(pooled, 1).argmax(1)
        method.attach(module, self.images[:1])
        self.optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
        self.step = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            progress = self.step / STEPS
            self.optimizer.zero_grad()
            part = slice(self.step % 4 * 16, self.step % 4 * 16 + 16)
            logits = self.module(self.images[part])
            functional.cross_entropy(logits, self.labels[part]).backward()
            self.method.after_backward(progress)
            self.optimizer.step()
            self.step += 1
            self.method.after_step(self.step / STEPS)


def zeros(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight == 0 for name, weight in prunable_weights(module).items()}


def share(masks: Mapping[str, Tensor]) -> float:
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


@pytest.mark.parametrize("importance", ["magnitude", "taylor-1", "taylor-2"])
@pytest.mark.parametrize("granularity", [Element(), Block(4), NOfM(1, 4)])
def test_training_ends_at_the_sparsity_asked_for(
    importance: Importance, granularity: PruneGranularity
) -> None:
    options = PruneOptions(0.8, granularity, importance)
    module = network()
    training = Training(module, PruneMethod(options))
    training.run(STEPS)
    training.method.finish()
    found = zeros(module)
    if isinstance(granularity, NOfM):
        assert not found.pop("0").any()  # it has one input
    total = sum(mask.numel() for mask in found.values())
    # Blocks of 4 may leave up to 3 weights of the target.
    assert share(found) == pytest.approx(0.8, abs=4 / total)
    for weight in prunable_weights(module).values():
        assert not (weight.signbit() & (weight == 0)).any()


def test_sparsity_follows_the_schedule_and_pruned_weights_stay_zero_in_between() -> None:
    options = PruneOptions(0.9, begin=0.2, end=0.7, regrow=0.0)
    module = network()
    training = Training(module, PruneMethod(options))
    total = sum(weight.numel() for weight in prunable_weights(module).values())
    before = zeros(module)
    for step in range(1, STEPS + 1):
        training.run(1)
        wanted = cubic_sparsity(step / STEPS, 0.9, begin=0.2, end=0.7)
        # The masks change at 50 moments, so sparsity lags by less than one of them.
        assert wanted - 0.9 * 3 / 50 - 1 / total <= share(zeros(module)) <= wanted + 1 / total
        after = zeros(module)
        assert all((before[name] <= after[name]).all() for name in before)
        before = after


def test_momentum_does_not_revive_weights_after_the_end() -> None:
    options = PruneOptions(0.7, end=0.5)
    module = network()
    training = Training(module, PruneMethod(options))
    training.run(STEPS // 2 + 1)
    before = zeros(module)
    training.run(5)
    assert all(torch.equal(before[name], after) for name, after in zeros(module).items())
    for name, weight in prunable_weights(module).items():
        assert not weight.grad[before[name]].any(), name


def test_a_weight_that_the_gradient_asks_for_comes_back_only_with_regrowth() -> None:
    def places(regrow: float) -> tuple[Tensor, Tensor]:
        weight = nn.Parameter(torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2]]))
        schedule = MaskSchedule(
            PruneOptions(0.5, importance="magnitude", end=1.0, regrow=regrow), updates=10
        )
        schedule.attach({"w": weight}, 1)
        weight.grad = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 9.0]])
        for _ in range(30):
            schedule.after_backward(0.0)
        early = schedule.masks(0.4)["w"].clone()
        return early, schedule.masks(1.0)["w"]

    early, final = places(0.0)
    assert not early[0, 7]
    early, final = places(0.8)
    assert early[0, 7]
    # At the end importance alone decides.
    assert final.tolist() == [[True] * 4 + [False] * 4]


@pytest.mark.parametrize("granularity", [Element(), Filter()])
def test_a_resumed_training_gives_the_same_weights(granularity: PruneGranularity) -> None:
    options = PruneOptions(0.6, granularity)
    whole = Training(network(), PruneMethod(options))
    whole.run(STEPS)

    first = Training(network(), PruneMethod(options))
    first.run(25)
    second = Training(copy.deepcopy(first.module), PruneMethod(options))
    second.method.load_state_dict(copy.deepcopy(first.method.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.step = first.step
    second.run(STEPS - 25)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name


def test_state_of_another_model_is_refused() -> None:
    first = MaskSchedule(PruneOptions(0.5))
    first.attach({"w": nn.Parameter(torch.ones(2, 3))}, 1)
    second = MaskSchedule(PruneOptions(0.5))
    second.attach({"w": nn.Parameter(torch.ones(2, 4))}, 1)
    with pytest.raises(InvalidInput, match="mask/w"):
        second.load_state_dict(first.state_dict())


def test_a_training_cut_short_still_ends_sparse() -> None:
    module = network()
    training = Training(module, PruneMethod(PruneOptions(0.75)))
    training.run(5)
    training.method.finish()
    assert share(zeros(module)) == pytest.approx(0.75, abs=2e-3)


def test_filters_leave_a_smaller_network_with_the_same_outputs() -> None:
    module = network()
    before = sum(weight.numel() for weight in prunable_weights(module).values())
    method = PruneMethod(PruneOptions(0.5, Filter()))
    training = Training(module, method)
    training.run(STEPS)
    module.eval()
    masked = module(training.images)
    method.finish()
    torch.testing.assert_close(module(training.images), masked, atol=1e-5, rtol=1e-5)
    after = sum(weight.numel() for weight in prunable_weights(module).values())
    assert after <= before / 2
    assert module[0].out_channels < 8 or module[3].out_channels < 8


def test_sparsity_by_layer_is_reached_in_each() -> None:
    module = network()
    wanted = {"0": 0.25, "3": 0.75, "6": 0.5}
    training = Training(module, PruneMethod(PruneOptions(0.5), layer_sparsity=wanted))
    training.run(STEPS)
    training.method.finish()
    for name, mask in zeros(module).items():
        assert int(mask.sum()) == round(wanted[name] * mask.numel())


def test_dense_layers_keep_all_weights_and_the_others_reach_the_sparsity() -> None:
    module = network()
    training = Training(module, PruneMethod(PruneOptions(0.75, dense=("0", "6"))))
    training.run(STEPS)
    training.method.finish()
    assert {name: int(mask.sum()) for name, mask in zeros(module).items()} == {
        "0": 0,
        "3": round(0.75 * 8 * 8 * 9),
        "6": 0,
    }


def test_the_share_of_multiply_accumulates_asked_for_is_saved() -> None:
    module = network()
    uses = {"0": 16, "3": 4, "6": 1}
    total = sum(w.numel() * uses[name] for name, w in prunable_weights(module).items())
    training = Training(module, PruneMethod(PruneOptions(0.75, saves="macs")))
    training.run(STEPS)
    training.method.finish()
    saved = sum(int(mask.sum()) * uses[name] for name, mask in zeros(module).items())
    assert 0.75 * total - 16 < saved <= round(0.75 * total)


def test_importance_is_weighed_against_what_a_weight_saves() -> None:
    weights = {name: nn.Parameter(torch.full((2, 2), 1.0)) for name in ("often", "seldom")}
    weights["often"].data[0, 0] = 3.0
    schedule = MaskSchedule(PruneOptions(0.5, importance="magnitude", saves="macs"))
    schedule.attach(weights, 1, {"often": 5, "seldom": 1})
    gone = {name: int((~mask).sum()) for name, mask in schedule.masks(1.0).items()}
    # Half of 24: with equal importance, 2 that are used 5 times go before those used once.
    assert gone == {"often": 2, "seldom": 0}


def test_filters_save_the_share_of_multiply_accumulates_asked_for() -> None:
    module = network()
    example = torch.zeros(1, 1, 6, 6)
    groups = find_filter_groups(module, example)
    full = groups.size(groups.all()).macs
    training = Training(module, PruneMethod(PruneOptions(0.5, Filter(), saves="macs")))
    training.run(STEPS)
    training.method.finish()
    groups = find_filter_groups(module, example)
    # No more is removed than one filter beyond the target; one of the first saves most.
    one_more = (1 * 9 * 16 + 8 * 9 * 4) + full / 2
    assert full - one_more <= groups.size(groups.all()).macs <= full / 2


def test_what_cannot_be_pruned_is_said() -> None:
    with pytest.raises(InvalidInput, match="no such layer to keep dense: head"):
        PruneMethod(PruneOptions(0.5, dense=("head",))).attach(network(), torch.zeros(1, 1, 6, 6))
    with pytest.raises(InvalidInput, match="each weight is used is not known"):
        MaskSchedule(PruneOptions(0.5, saves="macs")).attach(prunable_weights(network()), 1)
    with pytest.raises(InvalidInput, match="leave dense empty"):
        PruneOptions(0.5, Filter(), dense=("0",))
    with pytest.raises(InvalidInput, match="no convolution"):
        PruneMethod(PruneOptions(0.5)).attach(nn.ReLU(), torch.zeros(1))
    with pytest.raises(InvalidInput, match="filters and inputs"):
        MaskSchedule(PruneOptions(0.5)).attach({"bias": nn.Parameter(torch.ones(3))}, 1)
    with pytest.raises(InvalidInput, match="filters are tied"):
        PruneMethod(PruneOptions(0.5, Filter()), layer_sparsity={})
    with pytest.raises(InvalidInput, match="more than the filters allow"):
        PruneMethod(PruneOptions(0.99, Filter())).attach(network(), torch.zeros(1, 1, 6, 6))


def test_taylor_importance_is_the_root_mean_square_of_weight_times_gradient() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, -1.0, 0.0]]))
    first = ImportanceEstimate("taylor-1", decay=0.5)
    second = ImportanceEstimate("taylor-2", decay=0.5)
    for estimate in (first, second):
        estimate.attach({"w": weight}, batch_size=3)
        for gradient in ([[1.0, 4.0, 1.0]], [[-3.0, 2.0, 1.0]]):
            weight.grad = torch.tensor(gradient)
            estimate.update()
    # Averages weigh 1/3 and 2/3 after the correction for their start from 0.
    square = np.array([1 + 2 * 9, 16 + 2 * 4, 3]) / 3
    mean = np.array([1 - 2 * 3, 4 + 2 * 2, 3]) / 3
    w = np.array([2.0, -1, 0])
    np.testing.assert_allclose(first.scores()["w"][0], np.abs(w) * np.sqrt(square), rtol=1e-5)
    expected = np.abs(w * mean - 3 * square * w**2 / 2)
    np.testing.assert_allclose(second.scores()["w"][0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        PruneMethod(PruneOptions(0.5, importance="taylor-2")),
        AdmmMethod(
            QuantizeOptions(layers={"0": LayerOptions(None, None)}),
            PruneOptions(0.5, importance="taylor-2"),
        ),
    ],
)
def test_second_order_importance_knows_the_size_of_the_batch(method: Method) -> None:
    """|2 g^2 - g| for weights of 1 in batches of 4; in larger ones the first would stay."""
    module = nn.Sequential(nn.Linear(2, 1, bias=False))
    nn.init.ones_(module[0].weight)
    method.attach(module, torch.ones(4, 2))
    module[0].weight.grad = torch.tensor([[0.5, 0.1]])
    method.after_backward(0.0)
    method.finish()
    assert module[0].weight.tolist() == [[0.0, 1.0]]


def test_magnitude_stands_in_before_the_first_gradient() -> None:
    estimate = ImportanceEstimate("taylor-1")
    estimate.attach({"w": nn.Parameter(torch.tensor([[2.0, -3.0]]))}, 1)
    assert estimate.scores()["w"].tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize("granularity", [Block(4), Filter()])
def test_the_trainer_prunes_a_model_that_came_as_onnx(granularity: PruneGranularity) -> None:
    twin = to_torch(onnx_model())
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(48, 1, 6, 6, generator=generator)
    labels = torch.flatten(functional.adaptive_avg_pool2d(images, 2), 1).argmax(1)
    method = PruneMethod(PruneOptions(0.5, granularity))
    options = TrainOptions(epochs=4, batch_size=16, learning_rate=0.05)
    train(twin.module, Classification(images, labels, images, labels), method, options)
    result = twin.write_back()
    before, after = count_macs(onnx_model()), count_macs(result)
    if isinstance(granularity, Filter):
        # The model itself is smaller, dense as before.
        assert after.total < before.total
    else:
        assert after.total == before.total
        assert after.nonzero < 0.75 * before.nonzero
    session = onnxruntime.InferenceSession(result.SerializeToString())
    found = session.run(None, {"x": images[:1].numpy()})[0]
    np.testing.assert_allclose(found, twin.module(images[:1]).detach().numpy(), atol=1e-4)


def onnx_model() -> onnx.ModelProto:
    """Two convolutions, the first one normalised, and a linear layer."""
    rng = np.random.default_rng(0)
    arrays = {
        "w1": rng.normal(size=(8, 1, 3, 3)),
        "gamma": np.ones(8), "beta": np.zeros(8), "mean": np.zeros(8), "var": np.ones(8),
        "w2": rng.normal(size=(8, 8, 3, 3)) / 8,
        "w3": rng.normal(size=(4, 32)) / 8,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv1"),
        helper.make_node(
            "BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["n"], "norm"
        ),
        helper.make_node("Relu", ["n"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "conv2"),
        helper.make_node("Flatten", ["c"], ["d"], "flatten"),
        helper.make_node("Gemm", ["d", "w3"], ["y"], "linear", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 6, 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
