"""Average precision by hand and by law."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camsdk.compress.evaluate import average_precision
from camsdk.compress.figures import Agreement, Figure
from camsdk.vision.results import Detections

Row = tuple[int, float, int]
"""Place, score, class: boxes of different places do not overlap."""


def boxes(*rows: Row, shift: float = 0.0) -> Detections:
    ordered = sorted(rows, key=lambda row: -row[1])
    xyxy = [(place * 20 + shift, 0, place * 20 + 10 + shift, 10) for place, _, _ in ordered]
    return Detections(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in ordered], np.float32),
        np.array([class_id for _, _, class_id in ordered], np.int64),
    )


def test_by_hand() -> None:
    truth = [boxes((0, 0.9, 0), (1, 0.8, 0)), boxes((0, 0.9, 0), (2, 0.7, 0))]
    # Ranked: hit .9, miss .8, hit .7, hit .6; the fourth box is never found.
    found = [boxes((0, 0.9, 0), (5, 0.8, 0)), boxes((0, 0.7, 0), (2, 0.6, 0))]
    # Precision at the hits 1, 2/3, 3/4, monotone from the right 1, 3/4, 3/4; each worth 1/4.
    assert average_precision(truth, found) == pytest.approx((1 + 0.75 + 0.75) / 4)


def test_a_box_counts_once_and_must_overlap_by_half_and_have_the_class() -> None:
    truth = [boxes((0, 0.9, 0))]
    assert average_precision(truth, [boxes((0, 0.9, 0), shift=3)]) == 1.0  # IoU 7/13
    assert average_precision(truth, [boxes((0, 0.9, 0), shift=4)]) == 0.0  # IoU 6/14
    assert average_precision(truth, [boxes((0, 0.9, 1))]) == 0.0
    assert average_precision(truth, [boxes((0, 0.9, 0), (0, 0.8, 0))]) == 1.0  # miss after the hit
    twice = average_precision([boxes((0, 0.9, 0), (1, 0.8, 0))], [boxes((0, 0.9, 0), (0, 0.8, 0))])
    assert twice == 0.5


def test_one_class_alone() -> None:
    truth = [boxes((0, 0.9, 0), (1, 0.9, 2))]
    found = [boxes((0, 0.9, 0), (3, 0.95, 2))]
    assert average_precision(truth, found, class_id=0) == 1.0
    assert average_precision(truth, found, class_id=2) == 0.0


@pytest.mark.parametrize("found", [[], [boxes()], [boxes((0, 0.9, 0))]])
def test_nothing_to_find_is_no_figure_and_never_a_perfect_one(found: list[Detections]) -> None:
    value = average_precision([boxes()] * len(found), found)
    assert math.isnan(value)
    assert math.isnan(average_precision([boxes((0, 0.9, 0))] * len(found), found, class_id=7))
    counts = {"frames": len(found), "boxes": 0}
    agreement = Agreement(Figure("ap50", value, "all"), (), counts, 2.0, 1.0)
    assert agreement.values == {}
    assert "ap50_vs_reference_all" not in agreement.as_metrics()
    assert agreement.as_metrics()["evaluated_boxes"] == 0.0


ROWS = st.lists(
    st.tuples(st.integers(0, 30), st.floats(0.1, 0.99), st.integers(0, 2)),
    max_size=12,
    unique_by=lambda row: row[0],
)
FRAMES = st.lists(ROWS, min_size=1, max_size=6)


@given(FRAMES)
def test_a_detector_agrees_with_itself(frames: list[list[Row]]) -> None:
    same = [boxes(*rows) for rows in frames]
    expected = 1.0 if any(frames) else math.nan
    assert average_precision(same, same) == pytest.approx(expected, nan_ok=True)


@given(FRAMES, FRAMES)
def test_it_lies_between_none_and_all_and_extra_boxes_at_the_end_change_nothing(
    true: list[list[Row]], found: list[list[Row]]
) -> None:
    count = min(len(true), len(found))
    truth = [boxes(*rows) for rows in true[:count]]
    candidates = [boxes(*rows) for rows in found[:count]]
    value = average_precision(truth, candidates)
    if not any(len(frame) for frame in truth):
        return
    assert 0 <= value <= 1 + 1e-9
    with_noise = [boxes(*rows, (99, 0.01, 0)) for rows in found[:count]]
    assert average_precision(truth, with_noise) == pytest.approx(value)


def test_figures_for_a_manifest_carry_their_units() -> None:
    of_all, of_persons = Figure("ap50", 0.98, "all"), Figure("ap50", 0.99, "person")
    agreement = Agreement(of_all, (of_persons,), {"frames": 50, "boxes": 200}, 14.0, 7.0)
    assert agreement.speedup == 2.0
    assert agreement.as_metrics() == {
        "ap50_vs_reference_person": 0.99,
        "ap50_vs_reference_all": 0.98,
        "evaluated_frames": 50.0,
        "evaluated_boxes": 200.0,
        "reference_cpu_ms": 14.0,
        "cpu_ms": 7.0,
    }
