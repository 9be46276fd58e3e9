"""Joints are where integer kernels round and no layer's own quantizer does."""

import onnx
import pytest
import torch

from camsdk.compress.graph.layers import list_layers
from camsdk.compress.options import (
    ActivationOptions,
    CodeSet,
    LayerOptions,
    QuantizeOptions,
    WeightOptions,
)
from camsdk.compress.training.admm import AdmmMethod
from camsdk.compress.training.joints import Joint, joint_ranges
from camsdk.compress.training.placement import Placement, place
from camsdk.compress.training.quantizers import InputQuantizer
from camsdk.compress.training.twin import Twin, to_torch
from support.onnx_graphs import Graph, residual


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def placed(model: onnx.ModelProto, bits: int) -> Placement:
    return place(model, {layer.name: bits for layer in list_layers(model)})


def folded_chain(*between: tuple[str, dict[str, list[int]]]) -> Graph:
    """Conv, operators, Conv."""
    graph = Graph((1, 3, 12, 12))
    graph.add("Conv", graph.random(8, 3, 3, 3), pads=[1] * 4)
    for operator, given in between:
        graph.add(operator, **given)
    graph.add("Conv", graph.random(5, 8, 1, 1))
    return graph


def test_in_a_chain_only_the_output_is_a_joint() -> None:
    graph = folded_chain(("Relu", {}), ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}))
    assert placed(graph.model(), 4) == Placement((graph.last,), {}, frozenset(), ())


def test_a_relu_is_part_of_what_is_before_it_and_a_leaky_one_is_not() -> None:
    graph = folded_chain(("LeakyRelu", {}))
    assert placed(graph.model(), 4).joints == ("Conv/0:0", graph.last)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_shortcut_makes_joints_of_all_that_meets_it(bits: int) -> None:
    graph = Graph((1, 8, 6, 6))
    shortcut = graph.add("Relu")
    inner = graph.add("Conv", graph.random(8, 8, 1, 1))
    graph.add("Add", shortcut)
    output = graph.add("Relu")
    found = placed(graph.model(), bits)
    assert found.joints == (shortcut, inner, output)
    assert found.covered == ({"Conv/1"} if bits == 8 else set())


def test_layers_that_read_one_tensor_alone_read_the_same_codes() -> None:
    graph = Graph((1, 8, 6, 6))
    before = graph.add("Relu")
    first = graph.add("Conv", graph.random(8, 8, 1, 1))
    second = graph.add("Conv", inputs=[before, graph.random(8, 8, 1, 1)])
    graph.add("Add", first, inputs=[second, first])
    found = placed(graph.model(), 4)
    assert found.shared == (("Conv/1", "Conv/2"),)
    assert before not in found.joints


def test_what_mixes_the_values_of_a_joint_is_rounded_again_to_its_steps() -> None:
    graph = folded_chain(("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}))
    found = placed(graph.model(), 8)
    assert found.repeated == {"AveragePool/1:0": "Conv/0:0"}
    assert found.covered == {"Conv/2"}


def attached(bits: int) -> tuple[Twin, AdmmMethod]:
    twin = to_torch(residual(batch=2).model())
    method = AdmmMethod(QuantizeOptions(WeightOptions(CodeSet(4)), ActivationOptions(bits)))
    generator = torch.Generator().manual_seed(0)
    method.attach(twin.module, torch.randn(2, 3, 12, 12, generator=generator))
    return twin, method


def test_joints_are_parameters_that_a_resumed_training_finds_again() -> None:
    twin, _ = attached(4)
    other, _ = attached(4)
    with torch.no_grad():
        for module in twin.module.modules():
            if isinstance(module, Joint):
                module.step.mul_(1.5)
    assert joint_ranges(twin.module) != joint_ranges(other.module)
    other.module.load_state_dict(twin.module.state_dict())
    assert joint_ranges(twin.module) == joint_ranges(other.module)


def test_a_step_that_an_optimizer_took_below_zero_comes_back() -> None:
    twin, _ = attached(4)
    joint = next(m for m in twin.module.modules() if isinstance(m, Joint))
    with torch.no_grad():
        joint.step.fill_(-1.0)
    twin.module(torch.randn(2, 3, 12, 12))
    assert joint.step > 0


def test_a_layer_that_reads_a_joint_of_its_bits_has_no_quantizer_of_its_own() -> None:
    own = {
        bits: sum(
            isinstance(getattr(module, "input_quantizer", None), InputQuantizer)
            for module in attached(bits)[0].module.modules()
        )
        for bits in (4, 8)
    }
    assert own[4] == own[8] + 1


def test_weights_alone_need_no_joints() -> None:
    twin = to_torch(residual(batch=2).model())
    of = {
        twin.module_of[layer.name]: LayerOptions(WeightOptions(CodeSet(4)), None)
        for layer in list_layers(twin.model)
    }
    AdmmMethod(QuantizeOptions(layers=of)).attach(twin.module, torch.randn(2, 3, 12, 12))
    assert not joint_ranges(twin.module)
