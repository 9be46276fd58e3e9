"""The first and the last layers keep their bits."""

import numpy as np
from onnx import helper

from camsdk.compress.options import (
    ActivationOptions,
    CodeSet,
    LayerOptions,
    QuantizeOptions,
    WeightOptions,
)
from camsdk.compress.ptq.edges import EDGE_BITS, find_edges, with_precise_edges

from .networks import build, chain


def test_a_chain_has_two_edges() -> None:
    assert find_edges(chain()) == ("first", "last")


def test_every_head_is_an_edge() -> None:
    weights = {name: np.ones((3, 3, 1, 1), np.float32) for name in ("a", "b", "c", "d")}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], name="stem"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "b"], ["m"], name="middle"),
        helper.make_node("Conv", ["m", "c"], ["left"], name="head.a"),
        helper.make_node("Conv", ["m", "d"], ["right"], name="head.b"),
        helper.make_node("Add", ["left", "right"], ["y"], name="add"),
    ]
    assert find_edges(build(nodes, weights, (1, 3, 12, 12))) == ("stem", "head.a", "head.b")


def test_only_edges_that_nobody_named_change() -> None:
    own = LayerOptions(WeightOptions(CodeSet(2)), None)
    options = QuantizeOptions(
        WeightOptions(CodeSet(3), "tensor"), ActivationOptions(4), layers={"last": own}
    )
    made = with_precise_edges(chain(), options)
    assert made.of("last") == own
    assert made.of("first").weights == WeightOptions(CodeSet(EDGE_BITS), "tensor")
    assert made.of("first").activations == ActivationOptions(8)
    assert made.of("deep") == options.of("deep")
    plain = QuantizeOptions()
    assert with_precise_edges(chain(), plain).of("first") == plain.of("first")
