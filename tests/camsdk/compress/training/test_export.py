"""What is exported computes what was trained, for whole networks and down to one bit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Generator, Tensor, nn

from camsdk import assets
from camsdk.artifact.preprocess import make_input
from camsdk.artifact.reference import Reference
from camsdk.compress import nanodet
from camsdk.compress.clips import read_frames
from camsdk.compress.graph.layers import constants, list_layers
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.importers.pytorch import import_pytorch
from camsdk.compress.options import ActivationOptions, CodeSet, QuantizeOptions, WeightOptions
from camsdk.compress.training.admm import AdmmMethod
from camsdk.compress.training.folding import Folded, fold
from camsdk.compress.training.twin import Twin, to_torch
from camsdk.zoo.mobilenetv2 import MobileNetV2
from camsdk.zoo.resnet import resnet20
from support.onnx_graphs import run, run_torch

SIZE = (1, 1, 20, 20)
IMAGES = 12


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def random_images(count: int, seed: int) -> Tensor:
    return torch.randn(count, *SIZE[1:], generator=Generator().manual_seed(seed))


@torch.no_grad()
def unusual(net: nn.Module) -> onnx.ModelProto:
    """The network with BatchNorm that turns signs and moves values, as trained ones do."""
    generator = Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            draw = torch.rand(len(module.weight), generator=generator)
            module.weight.copy_((0.5 + draw) * torch.where(draw < 0.2, -1.0, 1.0))
            module.bias.copy_(0.3 * torch.randn(len(draw), generator=generator))
    net.train()
    for seed in range(10):
        net(random_images(16, seed))
    return import_pytorch(net.eval(), {"x": SIZE})


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    torch.manual_seed(0)
    return {
        "resnet": unusual(resnet20(width=8)),
        "mobilenet": unusual(MobileNetV2(width=0.25)),
    }


def exported(
    model: onnx.ModelProto, bits: int, activation_bits: int, images: Tensor
) -> tuple[Twin, Folded, onnx.ModelProto]:
    """Quantized, with the statistics of the quantized network in its BatchNorm, untrained."""
    twin = to_torch(model)
    options = QuantizeOptions(WeightOptions(CodeSet(bits)), ActivationOptions(activation_bits))
    method = AdmmMethod(options)
    method.attach(twin.module, images)
    twin.module.train()
    with torch.no_grad():
        for _ in range(6):
            twin.module(images)
    method.finish()
    twin.module.eval()
    folded = fold(twin, method.coded_weights(), method.activation_ranges(), [images[:2]])
    return twin, folded, emit_qdq(folded.model, folded.weights, folded.activations)


@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (3, 4), (2, 2), (1, 2)])
@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_whole_networks_compute_what_was_trained(
    models: dict[str, onnx.ModelProto], name: str, bits: int, activation_bits: int
) -> None:
    twin, folded, emitted = exported(models[name], bits, activation_bits, random_images(16, 20))
    step = float(folded.activations[emitted.graph.output[0].name].scale)
    inputs = [x[np.newaxis] for x in random_images(IMAGES, 21).numpy()]
    trained = [run_torch(twin, x)[0] for x in inputs]
    errors = np.array(
        [np.abs(run(emitted, x)[0] - y).max() for x, y in zip(inputs, trained, strict=True)]
    )
    assert np.std(trained) > 10 * step
    # Float sums in another order round one value in a hundred thousand the other way, which at few
    # bits then moves all that follows: it may befall one image, but no more.
    assert np.sum(errors > 0.01 * step) <= (IMAGES // 2 if activation_bits == 8 else 1)
    assert np.sum(errors > 1.01 * step) <= 1
    reference = Reference(emitted.SerializeToString())
    output = emitted.graph.output[0].name
    got = reference.run({emitted.graph.input[0].name: inputs[0]})[output]
    assert np.abs(got - trained[0]).max() <= 1.01 * step


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "activation_bits"), [(4, 8), (3, 4), (2, 2)])
def test_a_detector_computes_what_was_trained(
    vtest_path: Path, bits: int, activation_bits: int
) -> None:
    size = (192, 128)
    files = assets.pull("nanodet.json"), assets.pull("nanodet.bin")
    spec = nanodet.import_float(*files, size=size).manifest.input
    frames = read_frames(vtest_path, range(0, 200, 50))
    images = torch.from_numpy(np.concatenate([make_input(frame, spec) for frame in frames]))
    twin, folded, emitted = exported(
        nanodet.import_onnx(*files, size=size), bits, activation_bits, images
    )
    # One value that rounds the other way, by the order of float sums, moves much of what follows
    # it in that frame. So each layer gets the inputs that the exported one has.
    worst, compared = [], 0
    for x in images[:, np.newaxis].numpy():
        for apart, from_edge in layer_differences(twin, folded, emitted, x):
            compared += 1
            assert apart.max(initial=0.0) <= 1
            assert np.count_nonzero(apart) <= 1e-3 * apart.size
            assert from_edge.max(initial=0.0) < 1e-3
        errors = [
            np.abs(got - trained).max() / np.diff(np.unique(trained)).min()
            for got, trained in zip(run(emitted, x), run_torch(twin, x), strict=True)
        ]
        worst.append(max(errors))
    layers = len(list_layers(folded.model))
    assert compared == len(images) * layers, (compared, layers)
    assert min(worst) <= 1.01


def layer_differences(
    twin: Twin, folded: Folded, emitted: onnx.ModelProto, x: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each layer's output codes, and how far from halves those lie that differ, in steps."""
    values, steps, limits = quantized_tensors(emitted, x)
    readers = {node.input[0]: node for node in folded.model.graph.node if node.input}
    raw: dict[str, np.ndarray] = {}
    hooks = []
    for layer in list_layers(folded.model):
        if layer.input not in values:
            continue
        module = twin.module.get_submodule(twin.module_of[layer.name])
        given = torch.from_numpy(values[layer.input])

        def feed(_: nn.Module, inputs: tuple[Tensor], given: Tensor = given) -> tuple[Tensor]:
            assert inputs[0].shape == given.shape
            return (given,)

        def keep(_: nn.Module, __: object, made: Tensor, name: str = layer.output) -> None:
            raw[name] = made.numpy()

        hooks += [module.register_forward_pre_hook(feed), module.register_forward_hook(keep)]
    run_torch(twin, x)
    for hook in hooks:
        hook.remove()
    for name, made in raw.items():
        after = readers.get(name)
        if name not in values and after is not None and after.op_type in ("Relu", "Clip"):
            name = after.output[0]
        if name in values:
            (scale, zero), largest = steps[name], limits[name]
            exact = made / scale + zero
            codes = np.clip(np.rint(exact), 0, largest)
            apart = np.abs(codes - np.rint(values[name] / scale + zero))
            yield apart, np.abs(exact - np.floor(exact) - 0.5)[apart > 0]


def quantized_tensors(
    emitted: onnx.ModelProto, x: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]], dict[str, int]]:
    """Values of every quantized activation by its name in the float model, its step and zero
    point, and the largest code."""
    held = constants(emitted)
    made_by = {output: node for node in emitted.graph.node for output in node.output}
    found, steps, limits = {}, {}, {}
    open_model = onnx.ModelProto()
    open_model.CopyFrom(emitted)
    for node in emitted.graph.node:
        before = made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        largest = 255
        if before is not None and before.op_type == "Clip":
            largest, before = int(held[before.input[2]]), made_by[before.input[0]]
        if before is not None and before.op_type == "QuantizeLinear":
            name = before.input[0]
            found[name], limits[name] = node.output[0], largest
            steps[name] = float(held[node.input[1]]), float(held[node.input[2]])
    given = {value.name for value in emitted.graph.output}
    for name in sorted(set(found.values()) - given):
        open_model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    names = [value.name for value in open_model.graph.output]
    values = dict(zip(names, run(open_model, x), strict=True))
    return {name: values[output] for name, output in found.items()}, steps, limits
