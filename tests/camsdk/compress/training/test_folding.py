"""Codes stay codes when BatchNorm is folded, and the QDQ model answers as the trained twin."""

import numpy as np
import pytest
import torch

from camsdk.compress.graph.layers import list_layers
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.options import TrainOptions
from camsdk.compress.training.folding import fold
from camsdk.compress.training.tasks import Classification
from camsdk.compress.training.trainer import train
from camsdk.compress.training.twin import Twin, to_torch
from camsdk.errors import InvalidInput
from support.onnx_graphs import Graph, chain, residual, rounded, run, run_torch
from support.rounding import Rounding


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def trained(method: Rounding, graph: Graph) -> tuple[Twin, torch.Tensor]:
    twin = to_torch(graph.model())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(96, 3, 12, 12, generator=generator)
    outputs = twin.module(images[:1])
    labels = torch.randint(0, 5, (96, *outputs.shape[2:]), generator=generator)
    task = Classification(images, labels, images[:8], labels[:8])
    train(twin.module, task, method, TrainOptions(epochs=2, batch_size=32))
    return twin, images


@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (4, 8), (3, 4), (1, 2)])
def test_the_emitted_model_answers_as_the_trained_network(bits: int, activation_bits: int) -> None:
    method = Rounding(bits, activation_bits)
    twin, images = trained(method, chain())
    folded = fold(twin, method.coded_weights(), method.activation_ranges(), [images])
    emitted = emit_qdq(folded.model, folded.weights, folded.activations)
    operators = [node.op_type for node in emitted.graph.node]
    assert "BatchNormalization" not in operators
    assert "QuantizeLinear" in operators
    step = float(folded.activations[emitted.graph.output[0].name].scale)
    errors = np.array(
        [np.abs(run(emitted, x)[0] - run_torch(twin, x)[0]) for x in images[:16, None].numpy()]
    )
    # Not all: a value halfway between two codes may become either, and moves what follows.
    assert np.mean(errors <= step) > 0.9


@pytest.mark.parametrize(("bits", "activation_bits"), [(3, 4), (2, 2), (1, 2)])
def test_what_a_layer_is_fed_beside_a_shortcut_is_rounded_for_it_alone(
    bits: int, activation_bits: int
) -> None:
    method = Rounding(bits, activation_bits)
    twin, images = trained(method, residual())
    folded = fold(twin, method.coded_weights(), method.activation_ranges(), [images])
    entering = {layer.input: folded.activations[layer.input] for layer in list_layers(folded.model)}
    model = rounded(folded.model, entering)
    for index in range(16):
        x = images[index : index + 1].numpy()
        np.testing.assert_allclose(run(model, x)[0], run_torch(twin, x)[0], rtol=1e-3, atol=1e-4)


def test_sums_of_a_residual_network_get_ranges_and_cost_little() -> None:
    method = Rounding(8, 8)
    twin, images = trained(method, residual())
    folded = fold(twin, method.coded_weights(), method.activation_ranges(), [images])
    tensors = {t for node in folded.model.graph.node for t in node.output}
    assert tensors <= folded.activations.keys()
    emitted = emit_qdq(folded.model, folded.weights, folded.activations)
    step = float(folded.activations[emitted.graph.output[0].name].scale)
    errors = [np.abs(run(emitted, x)[0] - run_torch(twin, x)[0]) for x in images[:16, None].numpy()]
    assert np.mean(errors) <= step


def test_folding_alone_changes_nothing() -> None:
    method = Rounding(3)
    twin, images = trained(method, residual())
    folded = fold(twin, method.coded_weights(), {}, [images])
    x = images[:1].numpy()
    np.testing.assert_allclose(
        run(folded.model, x)[0], run(twin.write_back(), x)[0], rtol=1e-4, atol=1e-5
    )


def test_names_that_are_no_layers_are_refused() -> None:
    twin = to_torch(residual().model())
    with pytest.raises(InvalidInput, match="nowhere"):
        fold(twin, {}, {"nowhere": (0.0, 1.0, 8)}, [torch.zeros(1, 3, 12, 12)])
    with pytest.raises(InvalidInput, match="no inputs"):
        fold(twin, {}, {}, [])
