"""Moments of unfolded inputs are those of what onnxruntime multiplies."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from camsdk.compress.graph.layers import list_layers
from camsdk.compress.ptq.inputs import Inputs
from camsdk.compress.ptq.moments import gather, unfold, window
from camsdk.compress.sessions import Session

from .networks import SHAPE, build, chain, inputs


@pytest.mark.parametrize(
    "given",
    [
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"dilations": [2, 3], "group": 3},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ],
)
def test_unfolded_windows_times_weights_are_the_convolution(given: dict[str, object]) -> None:
    groups = int(given.get("group", 1))  # type: ignore[call-overload] # of the test's own making
    weights = np.random.default_rng(0).normal(size=(6, 3 // groups, 2, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="layer", **given)
    probe_model = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", 1, SHAPE)],
            [helper.make_tensor_value_info("y", 1, None)],
            [numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    tensor = inputs(1)[0]
    expected = Session(probe_model.SerializeToString()).infer(tensor)["y"]
    model = build([node], {"w": weights}, expected.shape)
    windows = unfold(tensor, window(node, weights.shape, SHAPE))
    grouped = windows.reshape(groups, 3 // groups, *windows.shape[1:])
    filters = weights.reshape(groups, 6 // groups, *weights.shape[1:])
    found = np.einsum("gchwij,gfcij->gfhw", grouped, filters).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    with Inputs([tensor], SHAPE) as given_inputs:
        moments = gather(model, list_layers(model), given_inputs, seed=0, with_second=True)["layer"]
    mean = np.einsum("gk,gfk->gf", moments.first, filters.reshape(groups, 6 // groups, -1))
    np.testing.assert_allclose(mean.reshape(-1), expected.mean(axis=(0, 2, 3)), atol=1e-5)
    assert moments.second is not None
    rows = filters.reshape(groups, 6 // groups, -1).astype(np.float64)
    power = np.einsum("gfk,gkl,gfl->gf", rows, moments.second, rows)
    # every place was taken, so this is exact too
    np.testing.assert_allclose(power.reshape(-1), (expected**2).mean(axis=(0, 2, 3)), rtol=1e-4)


def test_many_rows_add_up_to_the_moments_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are multiplied at a time; with a reference, of both models."""
    model, changed = chain(), chain(seed=1)
    layers = [layer for layer in list_layers(model) if layer.name in ("deep", "point", "last")]
    found = []
    for most in (1, 100_000):
        monkeypatch.setattr("camsdk.compress.ptq.moments._ROWS_AT_A_TIME", most)
        with Inputs(inputs(6), SHAPE) as given_inputs:
            found.append(
                gather(changed, layers, given_inputs, seed=0, with_second=True, reference=model)
            )
    with Inputs(inputs(6), SHAPE) as given_inputs:
        own = gather(changed, layers, given_inputs, seed=0, with_second=True)
    for layer in layers:
        few, many = (moments[layer.name].about_means for moments in found)
        assert few.second is not None
        assert few.cross is not None
        np.testing.assert_allclose(few.second, many.second, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(few.cross, many.cross, rtol=1e-4, atol=1e-5)
        assert np.abs(few.cross - few.second).max() > 1e-2
        assert own[layer.name].cross is None
        np.testing.assert_allclose(own[layer.name].about_means.second, few.second, atol=1e-5)
