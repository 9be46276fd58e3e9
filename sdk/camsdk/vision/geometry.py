"""Plane geometry of boxes, lines and polygons: pure functions over arrays.

Points are (x, y) pixels, x right, y down. A directed line runs from ``start`` to ``end``; its left
is the left hand of someone who stands at ``start`` and looks to ``end``, as seen on the picture.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

_SMALLEST_LENGTH: Final = 1e-12


def foot_points(xyxy: Floats) -> F64:
    """Where objects stand: the middle of each box's lower edge.

    Args:
        xyxy: (n, 4) boxes.

    Returns:
        float64 (n, 2).
    """
    feet = np.empty((len(xyxy), 2))
    feet[:, 0] = (xyxy[:, 0].astype(np.float64) + xyxy[:, 2]) / 2.0
    feet[:, 1] = xyxy[:, 3]
    return feet


def offsets_from_line(points: Floats, start: Floats, end: Floats) -> tuple[F64, F64]:
    """Coordinates of points relative to a directed line.

    Args:
        points: (n, 2).
        start, end: (2,), different.

    Returns:
        ``distance``, float64 (n,): signed distance to the infinite line, in the points' unit,
        positive on the left; ``position``, float64 (n,): where the point projects onto the line,
        0 at ``start`` and 1 at ``end``.
    """
    direction = np.asarray(end, np.float64) - start
    length = max(float(np.hypot(direction[0], direction[1])), _SMALLEST_LENGTH)
    relative = np.asarray(points, np.float64) - start
    # y points down, so the left hand of (dx, dy) is (dy, -dx).
    distance = (relative[:, 0] * direction[1] - relative[:, 1] * direction[0]) / length
    position = (relative @ direction) / length**2
    return distance, position


def points_in_polygon(points: Floats, polygon: Floats) -> Bools:
    """Which points lie inside a polygon, by the even-odd rule.

    Args:
        points: (n, 2).
        polygon: (m, 2) vertices in order, m >= 3; the last edge closes it.

    Returns:
        bool (n,). On a boundary either answer is possible, but it is always the same one.
    """
    x, y = np.asarray(points, np.float64).T[:, :, None]
    corner = np.asarray(polygon, np.float64)
    before = np.roll(corner, 1, axis=0)
    spans = (corner[:, 1] > y) != (before[:, 1] > y)
    rise = before[:, 1] - corner[:, 1]
    slope = (before[:, 0] - corner[:, 0]) / np.where(rise == 0.0, 1.0, rise)
    crosses = spans & (x < corner[:, 0] + (y - corner[:, 1]) * slope)
    inside: Bools = (np.count_nonzero(crosses, axis=1) % 2).astype(np.bool_)
    return inside


def box_areas(xyxy: Floats) -> F64:
    """Areas, float64 (n,); a box with crossed corners has none."""
    sides = np.maximum(np.asarray(xyxy[:, 2:], np.float64) - xyxy[:, :2], 0.0)
    areas: F64 = sides[:, 0] * sides[:, 1]
    return areas


def intersections(a: Floats, b: Floats) -> F64:
    """Areas shared by each pair of boxes.

    Args:
        a: (n, 4).
        b: (m, 4).

    Returns:
        float64 (n, m).
    """
    left, top, right, bottom = np.asarray(a, np.float64).T[:, :, None]
    sides_x = np.minimum(right, b[:, 2]) - np.maximum(left, b[:, 0])
    sides_y = np.minimum(bottom, b[:, 3]) - np.maximum(top, b[:, 1])
    shared: F64 = np.maximum(sides_x, 0.0) * np.maximum(sides_y, 0.0)
    return shared


def iou(a: Floats, b: Floats) -> F64:
    """Intersection over union of each pair of boxes, 0 to 1.

    Args:
        a: (n, 4).
        b: (m, 4).

    Returns:
        float64 (n, m); 0 where both boxes are empty.
    """
    shared = intersections(a, b)
    union = box_areas(a)[:, None] + box_areas(b) - shared
    ratio: F64 = shared / np.maximum(union, _SMALLEST_LENGTH)
    return ratio


def polygon_area(polygon: Floats) -> float:
    """Area enclosed by a simple polygon (m, 2), by the shoelace formula."""
    corner = np.asarray(polygon, np.float64)
    after = np.roll(corner, -1, axis=0)
    return abs(float(np.sum(corner[:, 0] * after[:, 1] - after[:, 0] * corner[:, 1]))) / 2.0


def is_simple_polygon(polygon: Floats) -> bool:
    """Whether no two edges of a polygon (m, 2) cross or touch, neighbours apart."""
    corner = np.asarray(polygon, np.float64)
    count = len(corner)
    for first in range(count):
        for second in range(first + 1, count):
            if second - first in (1, count - 1):
                continue
            edges = (corner[first], corner[(first + 1) % count])
            others = (corner[second], corner[(second + 1) % count])
            if _segments_meet(edges, others):
                return False
    return True


def _segments_meet(one: tuple[F64, F64], other: tuple[F64, F64]) -> bool:
    """Whether two closed segments share a point."""
    turns = (_turn(*one, other[0]), _turn(*one, other[1]))
    back_turns = (_turn(*other, one[0]), _turn(*other, one[1]))
    if turns[0] * turns[1] > 0.0 or back_turns[0] * back_turns[1] > 0.0:
        return False
    # What is left crosses, or is collinear: then the bounding boxes decide.
    low = np.maximum(np.minimum(*one), np.minimum(*other))
    high = np.minimum(np.maximum(*one), np.maximum(*other))
    return bool(np.all(low <= high))


def _turn(start: F64, end: F64, point: F64) -> float:
    """Positive if ``point`` lies to one side of the line, negative on the other, 0 on it."""
    along, towards = end - start, point - start
    return float(along[0] * towards[1] - along[1] * towards[0])
