"""Geometry: known values, and laws that hold for any input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from camsdk.vision import geometry

COORDINATE = st.floats(-1000, 1000, allow_nan=False, width=32)
POINT = arrays(np.float64, 2, elements=COORDINATE)
POINTS = arrays(np.float64, (5, 2), elements=COORDINATE)
BOXES = arrays(np.float64, (4, 4), elements=COORDINATE).map(
    lambda corners: np.concatenate(
        (
            np.minimum(corners[:, :2], corners[:, 2:]),
            np.maximum(corners[:, :2], corners[:, 2:]) + 1,
        ),
        axis=1,
    )
)


def test_foot_point_is_bottom_centre() -> None:
    feet = geometry.foot_points(np.array([[10, 20, 30, 80]], np.float32))
    assert feet.tolist() == [[20.0, 80.0]]


def test_left_of_a_downward_line_is_the_right_of_the_picture() -> None:
    start, end = np.array([100.0, 0.0]), np.array([100.0, 200.0])
    points = np.array([[130.0, 50.0], [90.0, 200.0], [100.0, 300.0]])
    distance, position = geometry.offsets_from_line(points, start, end)
    assert distance.tolist() == [30.0, -10.0, 0.0]
    assert position.tolist() == [0.25, 1.0, 1.5]


@given(points=POINTS, start=POINT, end=POINT)
def test_reversing_a_line_changes_the_side_and_nothing_else(points, start, end) -> None:
    if np.hypot(*(end - start)) < 1.0:
        end = start + 1.0
    distance, position = geometry.offsets_from_line(points, start, end)
    back_distance, back_position = geometry.offsets_from_line(points, end, start)
    np.testing.assert_allclose(back_distance, -distance, atol=1e-6)
    np.testing.assert_allclose(back_position, 1.0 - position, atol=1e-6)


def test_points_in_a_concave_polygon() -> None:
    polygon = np.array([[0, 0], [10, 0], [10, 10], [5, 4], [0, 10]], float)
    points = np.array([[5, 2], [5, 6], [1, 7], [9, 7], [-1, 5], [5, 11]], float)
    inside = geometry.points_in_polygon(points, polygon)
    assert inside.tolist() == [True, False, True, True, False, False]


@given(points=POINTS, shift=st.integers(0, 4), is_reversed=st.booleans())
def test_polygon_does_not_depend_on_where_its_corners_start(points, shift, is_reversed) -> None:
    polygon = np.array([[0, 0], [400.5, -10], [300, 500], [90, 200], [-200, 300.25]])
    other = np.roll(polygon[::-1] if is_reversed else polygon, shift, axis=0)
    expected = geometry.points_in_polygon(points, polygon)
    near_edge = _distance_to_edges(points, polygon) < 1e-6
    actual = geometry.points_in_polygon(points, other)
    assert (actual == expected)[~near_edge].all()


def _distance_to_edges(points, polygon):
    least = np.full(len(points), np.inf)
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        distance, _ = geometry.offsets_from_line(points, start, end)
        least = np.minimum(least, np.abs(distance))
    return least


@given(a=BOXES, b=BOXES)
def test_iou_is_symmetric_bounded_and_one_with_itself(a, b) -> None:
    ratio = geometry.iou(a, b)
    np.testing.assert_allclose(ratio, geometry.iou(b, a).T, atol=1e-12)
    assert ((ratio >= 0.0) & (ratio <= 1.0 + 1e-12)).all()
    np.testing.assert_allclose(np.diag(geometry.iou(a, a)), 1.0)


def test_iou_of_known_boxes_and_of_none() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    np.testing.assert_allclose(geometry.iou(a, b), [[1 / 3, 0.0, 0.0]])
    assert geometry.iou(a[:0], b).shape == (0, 3)
    assert geometry.iou(a, b[:0]).shape == (1, 0)
    assert geometry.iou(b[2:], b[2:]).tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("polygon", "is_simple"),
    [
        ([[0, 0], [1, 0], [1, 1], [0, 1]], True),
        ([[0, 0], [1, 1], [1, 0], [0, 1]], False),
        ([[0, 0], [4, 0], [4, 4], [2, 0], [0, 4]], False),  # a corner on another edge
        ([[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]], True),
        ([[0, 0], [2, 0], [2, 2], [0, 2], [0, 0], [1, 1]], False),  # a corner twice
        ([[0, 0], [1, 0], [0, 1]], True),
    ],
)
def test_simple_polygons(polygon, is_simple) -> None:
    assert geometry.is_simple_polygon(np.array(polygon, float)) is is_simple


def test_area() -> None:
    assert geometry.polygon_area(np.array([[0, 0], [4, 0], [4, 3]], float)) == 6.0
    assert geometry.polygon_area(np.array([[0, 0], [4, 3], [4, 0]], float)) == 6.0
