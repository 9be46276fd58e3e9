"""Classes and maps of two models compared, by hand and by law."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from camsdk.artifact.manifest import Manifest, OutputSpec
from camsdk.compress.class_agreement import ClassJudge, MapJudge, divergence, mean_iou
from camsdk.compress.comparing import Answer
from camsdk.compress.figures import Agreement
from camsdk.vision.frames import Frame
from support.artifacts import make_manifest


def manifest(decoder: str) -> Manifest:
    output = OutputSpec(decoder=decoder, tensors=("y",))  # type: ignore[arg-type] # one of two
    return make_manifest(classes=("a", "b", "c"), kind=output.kind, output=output)


def frame(index: int) -> Frame:
    planes = (np.zeros(size, np.uint8) for size in ((8, 8), (4, 4), (4, 4)))
    return Frame(index, float(index), *planes)


def judged(
    judge: ClassJudge | MapJudge,
    decoder: str,
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> Agreement:
    of = manifest(decoder)
    for index, pair in enumerate(pairs):
        wanted, given_ = (Answer(of, {"y": logits[np.newaxis]}) for logits in pair)
        judge.see(frame(index), wanted, given_)
    main, *others = judge.figures()
    return Agreement(main, tuple(others), judge.counts(), 2.0, 1.0)


def logits(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_classes_by_hand() -> None:
    pairs = [
        (logits(5, 0, 0), logits(1, 0, 0)),  # the same
        (logits(0, 5, 0), logits(0, 0, 5)),  # another
        (logits(0, 5, 0), logits(0, 5, 0)),
        (logits(0, 0, 5), logits(0, 0, 5)),
    ]
    agreement = judged(ClassJudge({0: 0, 1: 2, 3: 1}), "class-scores", pairs)
    assert agreement.values["top1"] == 0.75
    # Labelled are three: the float model is right on the first, the other on the first two.
    assert agreement.values["reference_accuracy"] == pytest.approx(1 / 3)
    assert agreement.values["accuracy"] == pytest.approx(2 / 3)
    assert agreement.counts == {"frames": 4, "labelled_frames": 3}
    expected = 250 * sum(float(divergence(*pair)) for pair in pairs)
    assert agreement.values["kl_millinats"] == pytest.approx(expected)
    assert set(agreement.as_metrics()) == {
        "top1_vs_reference", "kl_millinats_vs_reference", "accuracy", "reference_accuracy",
        "evaluated_frames", "evaluated_labelled_frames", "reference_cpu_ms", "cpu_ms",
    }  # fmt: skip


def test_divergence_by_hand() -> None:
    shares = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    given_ = [np.log(of).astype(np.float32) + 3 for of in shares]  # what is added changes nothing
    assert divergence(*given_) == pytest.approx(expected, rel=1e-5)
    assert divergence(logits(9e3, 0, 0), logits(0, 9e3, 0)) == pytest.approx(9e3)


LOGITS = arrays.arrays(np.float32, 3, elements=st.floats(-50, 50, width=32))


@given(LOGITS, LOGITS)
def test_divergence_is_never_below_nothing(wanted: NDArray[np.float32], other) -> None:
    assert divergence(wanted, other) >= -1e-9
    assert abs(divergence(wanted, wanted)) < 1e-9


def one_hot(rows: list[list[int]]) -> NDArray[np.float32]:
    return np.moveaxis(np.eye(3, dtype=np.float32)[rows], 2, 0)


def test_maps_by_hand() -> None:
    pairs = [
        (one_hot([[0, 0], [1, 1]]), one_hot([[0, 1], [1, 1]])),
        (one_hot([[0, 0], [0, 0]]), one_hot([[0, 0], [0, 0]])),
    ]
    agreement = judged(MapJudge(3), "class-map", pairs)
    # Class 0: 5 of 6 cells; class 1: 2 of 3; class 2 is nowhere and does not count.
    assert agreement.main.what == "mean_iou"
    assert agreement.main.value == pytest.approx((5 / 6 + 2 / 3) / 2)
    assert agreement.values["equal_cells"] == 7 / 8
    assert agreement.counts == {"frames": 2, "cells": 8}


@given(arrays.arrays(np.int64, (3, 3), elements=st.integers(0, 9)))
def test_mean_iou_is_a_share_and_whole_only_without_a_difference(table: NDArray[np.int64]) -> None:
    value = mean_iou(table)
    if not table.any():
        assert np.isnan(value)
        return
    is_same = table.sum() == np.trace(table)
    assert 0 <= value <= 1
    assert (value == 1) == is_same
