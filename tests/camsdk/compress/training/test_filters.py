"""Removing filters leaves outputs as zeroing them did, and makes the size that was predicted."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from camsdk.compress.graph.layers import list_layers
from camsdk.compress.options import Saved
from camsdk.compress.training.filter_search import find_filter_groups
from camsdk.compress.training.filters import (
    FilterGroups,
    remove_filters,
    zero_filters,
)
from camsdk.compress.training.twin import to_torch
from camsdk.errors import InvalidInput
from camsdk.zoo.mobilenetv2 import MobileNetV2
from camsdk.zoo.resnet import resnet20

EXAMPLE = torch.zeros(1, 3, 9, 9)


class RandomNet(nn.Module):
    """Residual sums, concatenations, depthwise and plain convolutions in a random order."""

    def __init__(self, seed: int, steps: int = 5) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.steps: list[tuple[str, int]] = []
        self.layers = nn.ModuleList()
        channels = [int(rng.integers(2, 7))]
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 3), nn.BatchNorm2d(channels[0]))
        for _ in range(steps):
            kind = str(rng.choice(["conv", "depthwise", "residual", "concat", "prelu"]))
            source = int(rng.integers(len(channels)))
            inner = channels[-1]
            after = inner
            if kind == "conv":
                after = int(rng.integers(2, 7))
                layer: nn.Module = nn.Conv2d(inner, after, 3, padding=1, bias=bool(rng.integers(2)))
            elif kind == "depthwise":
                layer = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
            elif kind == "prelu":
                layer = nn.PReLU(inner)
            elif kind == "residual":
                layer = nn.Conv2d(inner, channels[source], 1)
                after = channels[source]
            else:
                layer = nn.Identity()
                after = inner + channels[source]
            self.layers.append(layer)
            self.steps.append((kind, source))
            channels.append(after)
        self.head = nn.Linear(channels[-1] * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        values = [torch.relu(self.stem(x))]
        for layer, (kind, source) in zip(self.layers, self.steps, strict=True):
            if kind == "concat":
                values.append(torch.cat([values[-1], values[source]], 1))
            elif kind == "residual":
                values.append(torch.relu(layer(values[-1]) + values[source]))
            else:
                values.append(torch.relu(layer(values[-1])))
        # Flattened, so that one filter is four inputs of the linear layer.
        pooled = nn.functional.adaptive_avg_pool2d(values[-1], 2)
        logits: Tensor = self.head(torch.flatten(pooled, 1))
        return logits


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """With BatchNorm statistics as after a training: fresh ones would hide mistakes."""
    torch.manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            for tensor in (child.running_mean, child.weight, child.bias):
                nn.init.normal_(tensor)
            nn.init.uniform_(child.running_var, 0.5, 2)
    return module.eval()


def count_macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates by the plain formula, from the shapes of what runs."""
    total = 0

    def add(child: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        if isinstance(child, nn.Conv2d):
            kernel = child.kernel_size[0] * child.kernel_size[1]
            per_pixel = kernel * inputs[0].shape[1] // child.groups
            total += output.numel() * per_pixel
        elif isinstance(child, nn.Linear):
            total += output.numel() * inputs[0].shape[-1]

    hooks = [child.register_forward_hook(add) for child in module.modules()]
    module(example)
    for hook in hooks:
        hook.remove()
    return total


def check_removal(module: nn.Module, example: Tensor, groups: FilterGroups, seed: int) -> None:
    """Drop random filters: same outputs as zeroed ones, size as predicted."""
    rng = np.random.default_rng(seed)
    kept = [rng.random(group.count) < 0.5 for group in groups.groups]
    for mask in kept:
        mask[rng.integers(len(mask))] = True
    zeroed = copy.deepcopy(module)
    zero_filters(zeroed, groups, kept)
    small = copy.deepcopy(zeroed)
    remove_filters(small, groups, kept)
    x = torch.randn(2, *example.shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(small(x), zeroed(x), atol=1e-4, rtol=1e-4)
        assert count_macs(small, example) == groups.size(kept).macs
    assert sum(p.numel() for p in small.parameters()) == groups.size(kept).parameters
    masks = groups.masks(kept)
    for before, after in zip(kept, groups.kept_by(masks), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_shrink_as_predicted(seed: int) -> None:
    module = shaken(RandomNet(seed), seed)
    groups = find_filter_groups(module, EXAMPLE)
    check_removal(module, EXAMPLE, groups, seed)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: resnet20(width=8), lambda: MobileNetV2(width=0.25)])
def test_zoo_networks_shrink_as_predicted(make: object) -> None:
    example = torch.zeros(1, 1, 16, 16)
    module = shaken(make(), 0)  # type: ignore[operator]
    groups = find_filter_groups(module, example)
    # All of ResNet-20's filters can go: 9 inner layers and 3 residual streams.
    assert len(groups.groups) >= 10
    check_removal(module, example, groups, 1)


def test_sums_with_the_input_and_outputs_keep_their_filters() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Conv2d(3, 3, 3, padding=1)
            self.inner = nn.Conv2d(3, 8, 3)
            self.boxes, self.classes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.relu(self.inner(x + self.same(x)))
            return self.boxes(x), self.classes(x)

    groups = find_filter_groups(Detector().eval(), EXAMPLE)
    assert [group.root for group in groups.groups] == ["inner"]


def test_group_convolutions_keep_their_filters() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    assert find_filter_groups(module.eval(), EXAMPLE).groups == ()


def test_finding_groups_changes_neither_mode_nor_weights() -> None:
    module = resnet20(width=4).train()
    for parameter in module.stem.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    find_filter_groups(module, torch.zeros(1, 1, 8, 8))
    assert module.training
    assert module.stem.training
    assert not next(module.stem.parameters()).requires_grad
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.fixture
def groups() -> FilterGroups:
    return find_filter_groups(resnet20(width=4), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("of", ["weights", "macs"])
def test_the_fewest_least_important_filters_go(groups: FilterGroups, of: Saved) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.random(group.count) for group in groups.groups]
    kept = groups.choose(scores, 0.5, of=of)
    full = getattr(groups.size(groups.all()), of)
    assert getattr(groups.size(kept), of) <= full / 2
    gone = np.concatenate([s[~k] for s, k in zip(scores, kept, strict=True)])
    stay = np.concatenate([np.sort(s[k])[:-1] for s, k in zip(scores, kept, strict=True)])
    assert gone.max() < stay.min()
    # The last one to go was needed.
    for score, mask in zip(scores, kept, strict=True):
        mask[score == gone.max()] = True
    assert getattr(groups.size(kept), of) > full / 2


def test_scores_are_squared_importance_per_weight_over_all_slices(groups: FilterGroups) -> None:
    index = next(i for i, g in enumerate(groups.groups) if g.root == "blocks.0.conv1")
    ones = {name: np.ones(shape) for name, shape in groups.shapes.items()}
    everything = groups.scores(ones)[index]
    np.testing.assert_allclose(everything, 1)
    only_norm = groups.scores({"blocks.0.norm1.weight": np.arange(4.0)})[index]
    # 4 x 9 own weights, BatchNorm's two, 4 x 9 that read it.
    np.testing.assert_allclose(only_norm, np.arange(4.0) ** 2 / (36 + 2 + 36))
    # 8 x 8 positions of each weight, and none of BatchNorm's.
    per_mac = groups.scores({"blocks.0.norm1.weight": np.arange(4.0)}, of="macs")[index]
    np.testing.assert_allclose(per_mac, np.arange(4.0) ** 2 / ((36 + 36) * 64))


def test_too_much_says_what_is_possible(groups: FilterGroups) -> None:
    scores = [np.zeros(group.count) for group in groups.groups]
    with pytest.raises(InvalidInput, match=r"at most 0\.9"):
        groups.choose(scores, 0.999)


def onnx_model() -> onnx.ModelProto:
    """A stem, a depthwise block with a residual sum, a concatenation, a linear layer."""
    rng = np.random.default_rng(0)
    weights = {
        "stem": (8, 3, 3, 3),
        "expand": (12, 8, 1, 1),
        "depthwise": (12, 1, 3, 3),
        "project": (8, 12, 1, 1),
        "side": (5, 8, 1, 1),
        "linear": (4, 13),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "stem"], ["s"], "stem", pads=[1, 1, 1, 1]),
        node("Conv", ["s", "expand"], ["e"], "expand"),
        node("Relu", ["e"], ["er"], "relu"),
        node("Conv", ["er", "depthwise"], ["d"], "depthwise", group=12, pads=[1, 1, 1, 1]),
        node("Conv", ["d", "project"], ["p"], "project"),
        node("Add", ["p", "s"], ["sum"], "add"),
        node("Conv", ["sum", "side"], ["side_"], "side"),
        node("Concat", ["sum", "side_"], ["cat"], "concat", axis=1),
        node("GlobalAveragePool", ["cat"], ["pool"], "pool"),
        node("Flatten", ["pool"], ["flat"], "flatten"),
        node("Gemm", ["flat", "linear"], ["y"], "linear", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 9, 9])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_twin_that_lost_filters_is_written_back_as_a_smaller_model() -> None:
    model = onnx_model()
    twin = to_torch(model)
    twin.module.eval()
    groups = find_filter_groups(twin.module, EXAMPLE)
    assert sorted(group.count for group in groups.groups) == [5, 8, 12]
    importance = {name: p.detach().numpy() for name, p in twin.module.named_parameters()}
    kept = groups.choose(groups.scores(importance), 0.5)
    remove_filters(twin.module, groups, kept)
    small = twin.write_back()
    sizes = {layer.name: layer for layer in list_layers(small)}
    assert sum(np.prod(layer.shape) for layer in sizes.values()) == groups.size(kept).weights
    assert sum(layer.macs for layer in sizes.values()) == groups.size(kept).macs
    assert sizes["depthwise"].groups == sizes["expand"].shape[0] < 12
    x = torch.randn(EXAMPLE.shape)
    session = onnxruntime.InferenceSession(small.SerializeToString())
    found = session.run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, twin.module(x).detach().numpy(), atol=1e-4)
