"""Operators of TensorFlow's own graphs, against its definitions."""

from typing import Any

import numpy as np
import pytest

from camsdk.compress.importers.tensorflow_operators import TENSORFLOW_OPERATORS
from camsdk.compress.importers.tfjs import convert_graph
from camsdk.compress.importers.tfjs_reader import TfGraph, TfNode
from camsdk.compress.sessions import Session
from camsdk.errors import UnsupportedModel
from support.tensorflow import Array, ints, text


def random(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def placeholder(*shape: int) -> TfNode:
    dims = {"dim": [{"size": length} for length in shape]}
    return TfNode("x", "Placeholder", (), {"shape": {"shape": dims}})


def computed(
    nodes: list[TfNode], constants: dict[str, Array], outputs: tuple[str, ...], x: Array
) -> dict[str, Any]:
    known = [TfNode(name, "Const", (), {}) for name in constants]
    rows = {node.name: node for node in [placeholder(*x.shape), *known, *nodes]}
    model = convert_graph(TfGraph(rows, constants, outputs), operators=TENSORFLOW_OPERATORS)
    return dict(Session(model.SerializeToString()).infer(x))


def test_the_bias_of_a_product_stays_with_those_that_add_it() -> None:
    x, w, b = random(2, 3), random(3, 3), np.float32([1, 2, 3])
    nodes = [
        TfNode("m", "MatMul", ("x", "w"), {}),
        TfNode("same", "StopGradient", ("m",), {}),
        TfNode("biased", "BiasAdd", ("same", "b"), {}),
        TfNode("negative", "Neg", ("same",), {}),
    ]
    found = computed(nodes, {"w": w, "b": b}, ("biased", "negative", "m"), x)
    np.testing.assert_allclose(found["biased"], x @ w + b, rtol=1e-5)
    np.testing.assert_allclose(found["negative"], -(x @ w), rtol=1e-5)
    np.testing.assert_allclose(found["m"], x @ w, rtol=1e-5)


def test_a_bias_along_the_other_axis_of_a_product_is_a_sum() -> None:
    x, w, b = random(3, 3), random(3, 3), np.float32([1, 2, 3])
    nodes = [
        TfNode("m", "MatMul", ("x", "w"), {}),
        TfNode("t", "Transpose", ("m", "order"), {}),
        TfNode("y", "AddV2", ("t", "b"), {}),
    ]
    found = computed(nodes, {"w": w, "b": b, "order": np.array([1, 0])}, ("y",), x)
    np.testing.assert_allclose(found["y"], (x @ w).T + b, rtol=1e-5)


def test_a_transposed_convolution_cuts_the_padding_that_is_stated() -> None:
    x, w = random(1, 3, 3, 1), random(3, 3, 1, 1)
    options = {
        "strides": ints(1, 1, 1, 1),
        "padding": text("EXPLICIT"),
        "explicit_paddings": ints(0, 0, 1, 0, 0, 2, 0, 0),
    }
    full = np.zeros((5, 5), np.float32)
    for row in range(3):
        for column in range(3):
            full[row : row + 3, column : column + 3] += x[0, row, column, 0] * w[:, :, 0, 0]
    nodes = [TfNode("y", "Conv2DBackpropInput", ("size", "w", "x"), options)]
    found = computed(nodes, {"size": np.array([1, 4, 3, 1]), "w": w}, ("y",), x)
    np.testing.assert_allclose(found["y"][0, :, :, 0], full[1:, :3], rtol=1e-5, atol=1e-6)


def test_a_bias_of_channels_first_is_refused() -> None:
    node = TfNode("y", "BiasAdd", ("x", "b"), {"data_format": text("NCHW")})
    with pytest.raises(UnsupportedModel, match=r"'y' .* has data format NCHW"):
        computed([node], {"b": random(4)}, ("y",), random(1, 4, 4, 4))


def test_gathering_in_batches_is_refused() -> None:
    nodes = [
        TfNode("g", "GatherV2", ("k", "i", "axis"), {"batch_dims": {"i": 1}}),
        TfNode("y", "Add", ("x", "g"), {}),
    ]
    stored = {"k": random(2, 2), "i": np.array([[0], [1]]), "axis": np.array(1)}
    with pytest.raises(UnsupportedModel, match=r"'g' .* in batches"):
        computed(nodes, stored, ("y",), random(1, 2, 2))
