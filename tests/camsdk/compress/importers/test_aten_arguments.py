"""Arguments of ATen operators are taken over or refused, never left out."""

from typing import Any

import numpy as np
import pytest

from camsdk.compress.importers.pt2_reader import AtenGraph, AtenNode, Tensor
from camsdk.compress.importers.pytorch import convert_program
from camsdk.compress.sessions import Session
from camsdk.errors import UnsupportedModel

DATA = np.float32([[-3, -1, -0.25, 0, 0.5, 2]])


def computed(target: str, shape: tuple[int, ...] = (1, 6), **arguments: Any) -> np.ndarray:
    node = AtenNode("y", target, {"self": Tensor("x"), **arguments}, ("y",), "part", "node 0")
    kinds = dict.fromkeys("xy", np.dtype(np.float32))
    shapes = {"x": DATA.reshape(shape).shape, "y": DATA.reshape(shape).shape}
    graph = AtenGraph({"x": shapes["x"]}, ("y",), (node,), {}, {}, shapes, kinds)
    session = Session(convert_program(graph).SerializeToString())
    return np.asarray(session.infer(DATA.reshape(shape))["y"])


@pytest.mark.parametrize("alpha", [1.0, 1.6732632423543772])
@pytest.mark.parametrize("scale", [1, 1.0507009873554805])
@pytest.mark.parametrize("inner", [1, 0.5, 2.5])
def test_elu_has_three_numbers(alpha: float, scale: float, inner: float) -> None:
    """SELU and CELU are decomposed into it."""
    found = computed("elu.default", alpha=alpha, scale=scale, input_scale=inner)
    expected = scale * np.where(DATA > 0, DATA, alpha * np.expm1(inner * DATA))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_elu_that_grows_downwards_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="input scale -1"):
        computed("elu.default", input_scale=-1.0)


@pytest.mark.parametrize("value", [0.5, True, "mean"])
def test_an_argument_that_nothing_reads_is_refused(value: object) -> None:
    with pytest.raises(UnsupportedModel, match=rf"'part.* has unheard={value!r}, which cannot be"):
        computed("relu.default", unheard=value)


def test_an_argument_without_meaning_may_be_there() -> None:
    np.testing.assert_array_equal(
        computed("dropout.default", p=0.5, train=False, unheard=None), DATA
    )
