"""What each term of a distillation is 0 for, and what it is not."""

import math

import pytest
import torch
from torch import nn

from camsdk.compress.options import DistillOptions
from camsdk.compress.training.distill import (
    Distiller,
    attention_loss,
    imitation_loss,
    last_of_each_resolution,
    logit_loss,
)
from camsdk.errors import InvalidInput
from support.training_child import network


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_logits_are_compared_as_softened_distributions() -> None:
    logits = torch.tensor([[2.0, 0.0]])
    other = torch.tensor([[0.0, 0.0]])
    p = 1 / (1 + math.exp(-1.0))  # at temperature 2
    divergence = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    assert float(logit_loss(logits, other, 2.0)) == pytest.approx(4 * divergence)
    assert float(logit_loss(logits, logits + 3, 2.0)) == pytest.approx(0, abs=1e-6)


def test_attention_does_not_depend_on_size_or_number_of_channels() -> None:
    feature = torch.randn(2, 4, 5, 5)
    assert float(attention_loss(feature, torch.cat([3 * feature, feature], 1))) < 1e-9
    first, second = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    first[..., 0], second[..., 1] = 1.0, 1.0
    assert float(attention_loss(first, second)) == pytest.approx(2.0)


def heads(*sizes: int) -> list[torch.Tensor]:
    return [torch.randn(2, channels, size, size) for size in sizes for channels in (3, 4 * 8)]


def test_imitation_has_its_minimum_at_the_teacher() -> None:
    target = heads(4, 2)
    given = [x.clone().requires_grad_() for x in target]
    loss = imitation_loss(given, target)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert all(float(x.grad.abs().max()) < 1e-6 for x in given)
    assert float(imitation_loss(heads(4, 2), target)) > 0.1


def test_distances_count_only_where_the_teacher_sees_something() -> None:
    logits = torch.full((1, 2, 2, 2), -20.0)
    logits[0, 1, 0, 0] = 20.0
    target = [logits, torch.zeros(1, 32, 2, 2)]
    there, elsewhere = torch.zeros(1, 32, 2, 2), torch.zeros(1, 32, 2, 2)
    there[0, 0, 0, 0] = 5.0
    elsewhere[0, 0, 1, 1] = 5.0
    assert float(imitation_loss([logits, elsewhere], target)) < 1e-5
    assert float(imitation_loss([logits, there], target)) > 0.1


def test_features_are_taken_from_the_last_convolution_of_each_resolution() -> None:
    assert last_of_each_resolution(network(), torch.zeros(1, 1, 12, 12)) == ("4",)


def test_an_output_is_no_feature() -> None:
    """Of a head, as a detector has, the layer before counts, also behind a Split."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.tower = nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 4, 1)
            self.head, self.second = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 2, 3, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            x = self.tower(self.body(x).relu()).relu()
            return *self.head(x).split([2, 4], 1), self.second(x).flatten(2).sigmoid()

    with torch.no_grad():
        assert last_of_each_resolution(Heads(), torch.zeros(1, 1, 16, 16)) == ("tower",)


def test_the_gradient_reaches_the_student_alone() -> None:
    teacher, student = network(1), network(2)
    inputs = torch.randn(4, 1, 12, 12)
    distiller = Distiller(DistillOptions(logits=1.0, features=1.0), teacher, student, inputs)
    student.train()
    distiller(student(inputs), inputs).backward()
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(float(p.grad.abs().sum()) > 0 for p in student[4].parameters())
    distiller.close()
    assert not student[4]._forward_hooks


def test_every_term_counts_with_its_weight() -> None:
    teacher, student = network(1), network(2).eval()
    inputs = torch.randn(4, 1, 12, 12)

    def loss(**weights: float) -> float:
        distiller = Distiller(DistillOptions(**weights), teacher, student, inputs)
        try:
            return float(distiller(student(inputs), inputs).detach())
        finally:
            distiller.close()

    logits, features = loss(logits=1.0), loss(logits=0.0, features=1.0)
    assert logits > 0 < features
    assert loss(logits=2.0, features=3.0) == pytest.approx(2 * logits + 3 * features, rel=1e-5)


def test_what_cannot_be_compared_is_refused() -> None:
    inputs = torch.zeros(1, 1, 12, 12)
    with pytest.raises(InvalidInput, match="nowhere"):
        Distiller(DistillOptions(features=1.0), network(), network(), inputs, ["nowhere"])
    with pytest.raises(InvalidInput, match="imitate"):
        imitation_loss(heads(4), heads(4, 2))

    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    distiller = Distiller(DistillOptions(), Two(), Two(), inputs)
    with pytest.raises(InvalidInput, match="one output"):
        distiller((inputs, inputs), inputs)
