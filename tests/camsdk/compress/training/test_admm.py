"""ADMM on problems whose optimum is known; what is exported; a training that is resumed."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from camsdk.compress.codes import project
from camsdk.compress.options import (
    ActivationOptions,
    CodeSet,
    Filter,
    LayerOptions,
    PruneOptions,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from camsdk.compress.training.admm import AdmmMethod, AdmmOptions
from camsdk.compress.training.tasks import Batch, Classification
from camsdk.compress.training.trainer import Progress, train
from camsdk.errors import InvalidInput

TERNARY = WeightOptions(CodeSet(2))
ONLY_TERNARY_WEIGHTS = LayerOptions(TERNARY, None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4, 3),
    )


def small_task() -> Classification:
    random = np.random.default_rng(1)
    labels = torch.from_numpy(random.integers(0, 3, 96))
    images = torch.from_numpy(random.normal(size=(96, 1, 8, 8)).astype(np.float32))
    images += labels[:, None, None, None] - 1.0
    return Classification(images, labels, images, labels)


def quantize(bits: int = 2, activation_bits: int = 4) -> QuantizeOptions:
    return QuantizeOptions(WeightOptions(CodeSet(bits)), ActivationOptions(activation_bits))


class Toy:
    """f(w) = 1/2 (w - wish) A (w - wish) over one row w, A positive definite; a task as well."""

    def __init__(self, seed: int, size: int = 6) -> None:
        random = np.random.default_rng(seed)
        factor = random.normal(size=(size, size))
        self.matrix = factor @ factor.T / size + 0.3 * np.eye(size)
        self.wish = random.normal(size=size)

    def value(self, weight: np.ndarray) -> float:
        gap = weight.reshape(-1) - self.wish
        return float(0.5 * gap @ self.matrix @ gap)

    def optimum(self) -> float:
        """Over all 3^6 ternary codes, each with its own best scale."""
        best = self.value(np.zeros_like(self.wish))
        for code in itertools.product((-1.0, 0.0, 1.0), repeat=len(self.wish)):
            q = np.array(code)
            if q.any():
                scale = max(0.0, q @ self.matrix @ self.wish / (q @ self.matrix @ q))
                best = min(best, self.value(scale * q))
        return best

    def layer(self) -> nn.Linear:
        """At the float optimum."""
        layer = nn.Linear(len(self.wish), 1, bias=False)
        layer.weight.data = torch.tensor(self.wish[None], dtype=torch.float32)
        return layer

    def __len__(self) -> int:
        return 1

    def digest(self) -> str:
        return "toy"

    def batch(self, indices: Tensor, generator: Generator | None) -> Batch:
        """The identity: the layer's outputs are its weights."""
        return (torch.eye(len(self.wish)),)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        gap = outputs.reshape(-1) - torch.tensor(self.wish, dtype=torch.float32)
        value: Tensor = 0.5 * gap @ torch.tensor(self.matrix, dtype=torch.float32) @ gap
        return value

    def metric(self, module: nn.Module) -> float:
        return 0.0

    def solve(self, steps: int) -> float:
        """f of what the trainer and ADMM with all its defaults, for the whole training, end in."""
        module = nn.Sequential(self.layer())
        options = QuantizeOptions(layers={"0": ONLY_TERNARY_WEIGHTS})
        method = AdmmMethod(options, admm=AdmmOptions(share=1.0))
        train(
            module, self, method,
            TrainOptions(epochs=steps, batch_size=1, learning_rate=0.001, weight_decay=0.0),
        )  # fmt: skip
        return self.value(method.coded_weights()["0"].values)

    def rest(self, pull: float, steps: int) -> tuple[np.ndarray, ...]:
        """W, G and u after plain gradient steps of size 0.1 at one pull."""
        layer = self.layer()
        options = QuantizeOptions(layers={"0": ONLY_TERNARY_WEIGHTS})
        method = AdmmMethod(options, admm=AdmmOptions(1.0, 0, pull, pull))
        method.attach(nn.Sequential(layer), torch.zeros(1, len(self.wish)))
        weight: Any = layer.parametrizations.weight.original  # type: ignore[union-attr] # a parametrized Linear
        for step in range(steps):
            slope = self.matrix @ (layer.weight[0].detach().numpy() - self.wish)
            weight.data -= 0.1 * torch.tensor(slope[None], dtype=torch.float32)
            method.after_step(step / steps)
        state = method.state_dict()
        pair = [state["target/0"], state["dual/0"]]
        arrays = [value[0].numpy() for value in pair if isinstance(value, Tensor)]
        return weight[0].detach().numpy(), arrays[0], arrays[1]


def test_admm_comes_nearer_to_the_optimum_than_the_projection_of_the_float_optimum() -> None:
    """Over 8 problems, as the product steps; the projection is what no training gives."""
    trained, projected = [], []
    for seed in range(8):
        toy = Toy(seed)
        best = toy.optimum()
        trained.append(toy.solve(150) - best)
        projected.append(toy.value(project(toy.wish[None], TERNARY.code_set).values) - best)
    assert min(trained) > -1e-4, "nothing is better than the optimum"
    assert np.mean(trained) < 0.5 * np.mean(projected)
    assert sum(gap < 1e-3 for gap in trained) >= 4


def test_codes_stay_where_the_loss_asks_for_nothing() -> None:
    """With whole dual steps a third of them changes within 60 rounds, though f is constant."""
    torch.manual_seed(0)
    layer = nn.Linear(144, 32, bias=False)
    before = project(layer.weight.detach().numpy(), TERNARY.code_set)
    options = QuantizeOptions(layers={"0": ONLY_TERNARY_WEIGHTS})
    method = AdmmMethod(options, admm=AdmmOptions(1.0))
    method.attach(nn.Sequential(layer), torch.zeros(1, 144))
    for step in range(60):
        method.after_step(step / 60)
    method.finish()
    after = method.coded_weights()["0"]
    assert np.mean(before.codes != after.codes) < 0.01
    np.testing.assert_allclose(after.scale, before.scale, rtol=0.02)


def test_admm_ends_in_a_saddle_point_of_the_augmented_lagrangian() -> None:
    """There W = G (primal) and the gradient of f is -rho u (dual)."""
    toy, pull = Toy(3), 0.3
    weight, target, dual = toy.rest(pull, 400)
    np.testing.assert_allclose(weight, target, atol=1e-3)
    gradient = toy.matrix @ (weight - toy.wish)
    rho = pull / (1 - pull) / 0.1
    np.testing.assert_allclose(gradient, -rho * dual, atol=5e-3)
    assert np.abs(gradient).max() > 0.01, "not the float optimum, where all of this is trivial"


class Saddle(nn.Module):
    """x y, to be made small by x and large by y: both go to 0, and plain steps spiral away."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for layer in (self.x, self.y):
            nn.init.constant_(layer.weight, 1.0)

    def forward(self, inputs: Tensor) -> Tensor:
        x, y = self.x(inputs), self.y(inputs)
        loss: Tensor = x * y.detach() - x.detach() * y
        return loss


class SaddleTask:
    """The one example of ``Saddle``."""

    def __len__(self) -> int:
        return 1

    def digest(self) -> str:
        return "saddle"

    def batch(self, indices: Tensor, generator: Generator | None) -> Batch:
        return (torch.ones(1, 1),)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return outputs.sum()

    def metric(self, module: nn.Module) -> float:
        return 0.0


def test_extra_gradient_converges_to_a_saddle_that_plain_gradients_leave() -> None:
    """min over x, max over y of x y (Korpelevich 1976); the saddle is (0, 0), the start (1, 1)."""
    eight = LayerOptions(WeightOptions(CodeSet(8)), None)
    distances = {}
    for has_extra_gradient in (False, True):
        module = Saddle()
        method = AdmmMethod(
            QuantizeOptions(layers={"x": eight, "y": eight}),
            admm=AdmmOptions(1.0, 0, 1e-9, 1e-9, "weights", has_extra_gradient),
        )
        options = TrainOptions(
            epochs=140, batch_size=1, learning_rate=0.3, momentum=0.0, weight_decay=0.0
        )
        train(module, SaddleTask(), method, options)
        x, y = float(module.x.weight.detach()), float(module.y.weight.detach())
        distances[has_extra_gradient] = float(np.hypot(x, y))
    assert distances[True] < 0.2 < np.sqrt(2) < distances[False]


@pytest.mark.parametrize(
    ("bits", "admm", "sparsity"),
    [
        (1, AdmmOptions(0.5), 0.0),
        (2, AdmmOptions(0.0), 0.0),
        (3, AdmmOptions(1.0, 0), 0.6),
        (1, AdmmOptions(0.2, 0), 0.6),
        (2, AdmmOptions(1.0, 0, gradient_at="weights"), 0.6),
    ],
)
def test_the_finished_network_computes_what_is_exported(
    bits: int, admm: AdmmOptions, sparsity: float
) -> None:
    prune = PruneOptions(sparsity, saves="macs", dense=("0",)) if sparsity else None
    method = AdmmMethod(quantize(bits), prune, admm)
    options = TrainOptions(epochs=3, batch_size=32)
    module = train(small_network(), small_task(), method, options).module
    coded, ranges = method.coded_weights(), method.activation_ranges()
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    assert list(coded) == ["0", "3", "7"] == list(ranges)
    assert [coded[name].code_set.bit_width for name in coded] == [7, bits, 7]
    assert [width for _, _, width in ranges.values()] == [8, 4, 8]
    assert ranges["0"][0] < 0
    assert ranges["3"][0] == 0
    for name, tensor in coded.items():
        np.testing.assert_array_equal(parameters[f"{name}.weight"], tensor.values)
        assert np.isin(tensor.codes, [*tensor.code_set.levels, 0]).all()
    if sparsity:
        uses = {"3": 16, "7": 1}
        saved = sum(int((coded[name].codes == 0).sum()) * count for name, count in uses.items())
        assert saved > 0.6 * sum(coded[n].codes.size * count for n, count in uses.items()) - 16
        assert (coded["0"].codes == 0).mean() < 0.3
    # The same by hand, from what is exported and nothing else.
    x = small_task().batch(torch.arange(8), None)[0]
    low, high, width = ranges["0"]
    step = (high - low) / (2**width - 1)
    zero = round(-low / step)
    codes = (x / step).round().add(zero).clamp(0, 2**width - 1) - zero
    weight = torch.from_numpy(coded["0"].values)
    by_hand = nn.functional.conv2d(codes * step, weight, None, 2, 1)
    torch.testing.assert_close(module.get_submodule("0")(x), by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("admm", "prune"),
    [
        (AdmmOptions(0.0), PruneOptions(0.7)),
        (AdmmOptions(0.7, 0), PruneOptions(0.7)),
        (AdmmOptions(0.7, 0), None),
        (AdmmOptions(0.7, 0, gradient_at="weights"), None),
    ],
)
def test_a_resumed_training_ends_in_the_same_bits(
    tmp_path: Path, admm: AdmmOptions, prune: PruneOptions | None
) -> None:
    options = TrainOptions(epochs=3, batch_size=32, checkpoint_every_s=0.0)

    def ended(checkpoint: Path | None, stop_at: int) -> dict[str, Tensor] | None:
        def stop(progress: Progress) -> None:
            if progress.step == stop_at:
                raise KeyboardInterrupt

        method = AdmmMethod(quantize(), prune, admm)
        try:
            trained = train(
                small_network(),
                small_task(),
                method,
                options,
                checkpoint=checkpoint,
                on_progress=stop,
            )
        except KeyboardInterrupt:
            return None
        return dict(trained.module.state_dict())

    whole = ended(None, -1)
    assert ended(tmp_path / "state", 5) is None
    resumed = ended(tmp_path / "state", -1)
    assert whole is not None
    assert resumed is not None
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_transposed_convolution_has_one_scale_a_filter(share: float) -> None:
    """Its weights are stored inputs first; codes are exported filters first."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1),
        nn.ConvTranspose2d(4, 6, 2, 2),
        nn.Conv2d(6, 3, 8),
        nn.Flatten(),
    )
    method = AdmmMethod(quantize(2, 8), PruneOptions(0.5, dense=("0",)), AdmmOptions(share, 0))
    train(module, small_task(), method, TrainOptions(epochs=2, batch_size=32))
    coded = method.coded_weights()["1"]
    assert coded.codes.shape == (6, 4, 2, 2)
    assert coded.scale.shape == (6,)
    stored = module.get_parameter("1.weight").detach()
    np.testing.assert_array_equal(stored.transpose(0, 1), coded.values)
    assert np.mean(method.coded_weights()["2"].codes == 0) >= 0.5


def test_grouped_transposed_convolutions_stay_in_float() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 4, 2, 2, groups=4))
    method = AdmmMethod(quantize())
    method.attach(module, torch.zeros(1, 1, 8, 8))
    method.finish()
    assert list(method.coded_weights()) == ["0"]


def test_a_phase_of_too_few_rounds_is_left_out() -> None:
    """Of 9 steps half are too few: they end about where they do without ADMM."""
    ended = []
    for admm in (AdmmOptions(0.0), AdmmOptions(0.5), AdmmOptions(0.5, 4, 0.05)):
        method = AdmmMethod(quantize(), admm=admm)
        train(small_network(), small_task(), method, TrainOptions(epochs=3, batch_size=32))
        ended.append(method.coded_weights()["3"])
    without, short, long = ended
    apart = [np.abs(of.values - without.values).mean() for of in (short, long)]
    assert apart[0] < 0.5 * apart[1]


def test_the_first_and_the_last_layer_keep_7_bits_unless_named() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    layers = {"2": LayerOptions(TERNARY, ActivationOptions(4))}
    method = AdmmMethod(QuantizeOptions(TERNARY, ActivationOptions(4), layers=layers))
    method.attach(module, torch.rand(1, 1, 8, 8))
    method.finish()
    made = method.coded_weights()
    assert [made[name].code_set for name in "012"] == [CodeSet(7), CodeSet(2), CodeSet(2)]
    assert [bits for _, _, bits in method.activation_ranges().values()] == [8, 4, 4]


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(InvalidInput, match="whole filters"):
        AdmmMethod(quantize(), PruneOptions(0.5, granularity=Filter()))
    with pytest.raises(InvalidInput, match="a share of"):
        AdmmOptions(share=1.5)
    with pytest.raises(InvalidInput, match="do not fall"):
        AdmmOptions(first_pull=0.5, last_pull=0.1)
    named = QuantizeOptions(layers={"nothing": LayerOptions()})
    with pytest.raises(InvalidInput, match="no such layers in the network: nothing"):
        AdmmMethod(named).attach(small_network(), torch.zeros(2, 1, 8, 8))
    damaged = small_network()
    nn.init.constant_(damaged[3].weight, float("nan"))  # type: ignore[arg-type] # of a Conv2d
    with pytest.raises(InvalidInput, match="no finite numbers"):
        AdmmMethod(quantize()).attach(damaged, torch.zeros(2, 1, 8, 8))
