"""Equalization keeps the float function and narrows the weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camsdk.compress.graph.layers import list_layers
from camsdk.compress.ptq.equalize import apply, equalize, find_pairs, unbind
from camsdk.compress.ptq.folding import prepare, weights_of
from camsdk.compress.ptq.probing import probe
from camsdk.compress.sessions import Session

from .networks import chain, inputs


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spread=st.floats(0, 3),
    activation=st.sampled_from(["Relu", "LeakyRelu"]),
)
def test_the_function_stays(seed: int, spread: float, activation: str) -> None:
    before = prepare(chain(seed, spread=spread, activation=activation)).model
    after = prepare(before).model
    apply(after, equalize(after))
    for tensor in inputs(3, seed):
        expected = Session(before.SerializeToString()).infer(tensor)["y"]
        found = Session(after.SerializeToString()).infer(tensor)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_filters_come_to_one_size() -> None:
    model = prepare(chain(spread=3)).model

    def unevenness() -> float:
        weights = weights_of(model, list_layers(model))["first"]
        sizes = np.abs(weights).reshape(8, -1).max(axis=1)
        return float(sizes.max() / sizes.min())

    uneven = unevenness()
    apply(model, equalize(model))
    assert unevenness() < uneven / 3


def test_pairs_reach_through_depthwise_layers_and_pooling() -> None:
    pairs = find_pairs(prepare(chain()).model)
    assert [(pair.before.name, pair.after.name) for pair in pairs] == [
        ("first", "deep"),
        ("deep", "point"),
        ("point", "last"),
    ]


def test_a_bounded_clip_parts_layers_unless_its_peaks_are_known() -> None:
    model = prepare(chain(activation="Clip")).model
    assert set(equalize(model)) == {"point"}
    peaks = {"c1": np.array([7.0] + [3.0] * 7), "c2": np.full(8, 3.0)}
    factors = equalize(model, peaks)
    assert factors["first"][0] == 1
    assert (factors["first"][1:] >= 0.5).all()
    assert factors["first"].std() > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_clip_goes_on_doing_what_it_did(seed: int) -> None:
    before = prepare(chain(seed, activation="Clip", spread=2)).model
    tensors = inputs(4, seed)
    peaks: dict[str, np.ndarray] = {}
    for found in probe(before, ["c1", "c2"], tensors):
        for name, value in found.items():
            peaks[name] = np.maximum(peaks.get(name, 0.0), value.max(axis=(0, 2, 3)))
    after = prepare(before).model
    apply(after, equalize(after, peaks))
    for tensor in tensors:
        expected = Session(before.SerializeToString()).infer(tensor)["y"]
        found_y = Session(after.SerializeToString()).infer(tensor)["y"]
        np.testing.assert_allclose(found_y, expected, rtol=1e-4, atol=1e-4)


def test_without_bounds_a_clip_is_a_relu_and_layers_are_equalized() -> None:
    model = prepare(chain(activation="Clip", spread=2)).model
    unbind(model)
    assert [node.op_type for node in model.graph.node].count("Relu") == 2
    assert set(equalize(model)) == {"first", "deep", "point"}
    tensor = inputs(1)[0]
    plain = prepare(chain(activation="Relu", spread=2)).model
    np.testing.assert_array_equal(
        Session(model.SerializeToString()).infer(tensor)["y"],
        Session(plain.SerializeToString()).infer(tensor)["y"],
    )
