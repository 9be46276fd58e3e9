"""A few bytes of a program do not make the importer fill memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from camsdk.compress.importers import aten_scope
from camsdk.compress.importers.pt2_reader import AtenGraph, AtenNode, Tensor
from camsdk.compress.importers.pytorch import convert_program
from camsdk.errors import DataCorrupted, ResourceExhausted

LONG = 1 << 23
"""Too long for one layer, and small enough to be made if nothing checked it."""
X = Tensor("x")
Shape = tuple[int, ...]


def program(target: str, arguments: Mapping[str, Any], shape: Shape, made: Shape) -> AtenGraph:
    """One call, ``y`` from ``x``."""
    node = AtenNode("y", target, arguments, ("y",), "part", "node 0 of the program")
    kinds = dict.fromkeys("xy", np.dtype(np.float32))
    return AtenGraph({"x": shape}, ("y",), (node,), {}, {}, {"x": shape, "y": made}, kinds)


ATTENTION = {"query": X, "key": X, "value": X, "is_causal": True}
WINDOWS = {"kernel_size": [4096, 1], "dilation": [1], "padding": [0], "stride": [1]}
CASES: dict[str, tuple[Mapping[str, Any], Shape, Shape]] = {
    "layer_norm": ({"input": X, "normalized_shape": [LONG]}, (1, LONG), (1, LONG)),
    "instance_norm": ({"input": X}, (1, LONG, 1), (1, LONG, 1)),
    "group_norm": ({"input": X, "num_groups": LONG}, (1, LONG, 1), (1, LONG, 1)),
    "batch_norm": ({"input": X, "running_mean": X, "running_var": X, "eps": 0.1}, (LONG,), (LONG,)),
    "scaled_dot_product_attention": (ATTENTION, (1, 4096, 2), (1, 4096, 2)),
    "unfold": ({"self": X, "dimension": 0, "size": LONG, "step": 1}, (LONG,), (1, LONG)),
    "im2col": ({"self": X, **WINDOWS}, (1, 1, 8191, 1), (1, 4096, 4096)),
    "arange": ({"end": LONG}, (1,), (LONG,)),
}


@pytest.mark.parametrize("target", CASES)
def test_a_constant_that_is_too_large_is_not_made(target: str) -> None:
    with pytest.raises(ResourceExhausted, match=rf"'part.*\({target}\) asks for a constant") as no:
        convert_program(program(target, *CASES[target]))
    assert "smaller input" in no.value.hint


def test_no_window_hides_a_long_one() -> None:
    arguments = {"self": X, "dimension": 0, "size": LONG, "step": 1}
    with pytest.raises(ResourceExhausted, match="unfold"):
        convert_program(program("unfold", arguments, (4,), (0, LONG)))


def test_many_constants_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aten_scope, "MAX_MADE_ELEMENTS", 30)
    norm = {"input": X, "normalized_shape": [4, 4]}
    with pytest.raises(ResourceExhausted, match="of 16 elements, after 16 in others"):
        convert_program(program("layer_norm", norm, (2, 4, 4), (2, 4, 4)))


@pytest.mark.parametrize("normalized", [[5], [4, 3], [2, 3, 4, 1], []])
def test_a_normalized_shape_is_the_end_of_the_inputs(normalized: list[int]) -> None:
    norm = {"input": X, "normalized_shape": normalized}
    with pytest.raises(DataCorrupted, match=r"layer_norm.*normalizes"):
        convert_program(program("layer_norm", norm, (2, 3, 4), (2, 3, 4)))
