"""What moves which parameter, and how far."""

import pytest
import torch
from torch import nn

from camsdk.compress.options import CodeSet, TrainOptions, WeightOptions
from camsdk.compress.training.optimizers import Optimizers
from camsdk.compress.training.quantizers import InputQuantizer, WeightQuantizer

OPTIONS = TrainOptions(learning_rate=0.1, momentum=0.0, weight_decay=0.0)


class Layer(nn.Module):
    """A weight, a bias, and the quantizers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.of_weight = WeightQuantizer(self.linear.weight, WeightOptions(CodeSet(3)))
        self.of_input = InputQuantizer(torch.tensor([-1.0, 2.0]), 4)


def test_adam_moves_weights_by_the_rate_and_ranges_by_their_gradient() -> None:
    layer = Layer()
    optimizers = Optimizers(layer, OPTIONS, "adam")
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    gradients = {"linear.weight": -3.0, "linear.bias": 1e-3, "of_weight.scale": 0.5,
                 "of_input.step": -0.25, "of_input.low": 2.0}  # fmt: skip
    for name, parameter in layer.named_parameters():
        parameter.grad = torch.full_like(parameter, gradients[name])
    optimizers.set_rate(0.05)
    optimizers.step()
    moved = {name: p.detach() - before[name] for name, p in layer.named_parameters()}
    expected = {"linear.weight": 0.01, "linear.bias": -0.01, "of_weight.scale": -0.025,
                "of_input.step": 0.0125, "of_input.low": -0.1}  # fmt: skip
    for name, change in expected.items():
        wanted = torch.full_like(moved[name], change)
        torch.testing.assert_close(moved[name], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_parameter_is_moved_once(optimizer: str) -> None:
    layer = Layer()
    layer.linear.bias.requires_grad = False
    moved = Optimizers(layer, OPTIONS, optimizer).parameters()  # type: ignore[arg-type] # a literal
    expected = {id(p) for p in layer.parameters() if p.requires_grad}
    assert len(moved) == len(expected) == 4
    assert {id(parameter) for parameter in moved} == expected
