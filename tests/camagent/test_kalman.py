"""The vectorised filter is the textbook filter, and does not depend on how time is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camagent.kalman import BoxFilter, to_cxcyah

START = np.array([[100.0, 50.0, 140.0, 170.0], [400.0, 300.0, 420.0, 340.0]])


class TextbookFilter:
    """The same model as 8x8 matrices: x <- F x, P <- F P F' + Q, K = P H' (H P H' + R)^-1."""

    def __init__(self, box: np.ndarray) -> None:
        self.x = np.concatenate((to_cxcyah(box[None])[0], np.zeros(4)))
        self.p = np.diag(self._variances(2 / 20, 1e-2, 10 / 160, 1e-5))

    def _variances(self, position, aspect, velocity, aspect_velocity) -> np.ndarray:
        h = self.x[3]
        std = [position * h, position * h, aspect, position * h]
        std += [velocity * h, velocity * h, aspect_velocity, velocity * h]
        return np.square(std)

    def predict(self) -> None:
        f = np.eye(8) + np.eye(8, k=4)
        q = np.diag(self._variances(1 / 20, 1e-2, 1 / 160, 1e-5))
        self.x = f @ self.x
        self.p = f @ self.p @ f.T + q

    def update(self, box: np.ndarray) -> None:
        h = np.eye(4, 8)
        r = np.diag(self._variances(1 / 20, 1e-1, 0, 0)[:4])
        gain = self.p @ h.T @ np.linalg.inv(h @ self.p @ h.T + r)
        self.x = self.x + gain @ (to_cxcyah(box[None])[0] - h @ self.x)
        self.p = self.p - gain @ h @ self.p


def test_equals_the_textbook_filter() -> None:
    rng = np.random.default_rng(1)
    boxes = BoxFilter.born(START)
    textbook = [TextbookFilter(box) for box in START]
    seen = np.ones(2, bool)
    for step in range(20):
        measured = START + np.multiply(step, (3.0, 1.0, 3.2, 1.1)) + rng.normal(0, 1, (2, 4))
        boxes.predict(1.0, seen)
        boxes.update(np.arange(2), measured)
        for one, box in zip(textbook, measured, strict=True):
            one.predict()
            one.update(box)
    for row, one in enumerate(textbook):
        np.testing.assert_allclose(boxes.position[row], one.x[:4], rtol=1e-9)
        np.testing.assert_allclose(boxes.velocity[row], one.x[4:], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(boxes.var_position[row], np.diag(one.p)[:4], rtol=1e-9)
        np.testing.assert_allclose(boxes.covariance[row], np.diag(one.p, 4), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(boxes.var_velocity[row], np.diag(one.p)[4:], rtol=1e-9)


@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_prediction_composes(cuts: list[int]) -> None:
    seen = np.ones(2, bool)
    whole, pieces = BoxFilter.born(START), BoxFilter.born(START)
    for boxes in (whole, pieces):
        boxes.velocity[:, :2] = [[3.0, -1.0], [0.5, 2.0]]
    whole.predict(float(sum(cuts)), seen)
    for cut in cuts:
        pieces.predict(float(cut), seen)
    np.testing.assert_allclose(whole.position, pieces.position, rtol=1e-12)
    np.testing.assert_allclose(whole.var_position, pieces.var_position, rtol=1e-9)
    np.testing.assert_allclose(whole.covariance, pieces.covariance, rtol=1e-9)
    np.testing.assert_allclose(whole.var_velocity, pieces.var_velocity, rtol=1e-9)


@given(periods=st.floats(0.0, 60.0))
def test_variances_never_shrink_by_prediction(periods: float) -> None:
    boxes = BoxFilter.born(START)
    before = boxes.var_position.copy()
    boxes.predict(periods, np.ones(2, bool))
    assert (boxes.var_position >= before).all()


def test_an_unseen_box_keeps_its_height() -> None:
    boxes = BoxFilter.born(START)
    boxes.velocity[:, 3] = 5.0
    boxes.predict(2.0, np.array([True, False]))
    assert (boxes.position[:, 3] - to_cxcyah(START)[:, 3]).tolist() == [10.0, 0.0]


def test_boxes_survive_the_round_trip_and_degenerate_input() -> None:
    np.testing.assert_allclose(BoxFilter.born(START).xyxy(), START)
    flat = BoxFilter.born(np.array([[5.0, 5.0, 5.0, 5.0]]))
    flat.predict(1.0, np.ones(1, bool))
    flat.update(np.array([0]), np.array([[5.0, 5.0, 5.0, 5.0]]))
    assert np.isfinite(flat.xyxy()).all()


@pytest.mark.parametrize("fps", [5.0, 10.0, 30.0])
def test_velocity_is_per_period_at_any_frame_rate(fps: float) -> None:
    boxes = BoxFilter.born(START)
    speed = np.array([60.0, 12.0, 60.0, 12.0])  # pixels per second
    for step in range(1, int(4 * fps)):
        boxes.predict(30.0 / fps, np.ones(2, bool))
        boxes.update(np.arange(2), START + speed * (step / fps))
    np.testing.assert_allclose(boxes.velocity[:, :2], [[2.0, 0.4]] * 2, rtol=0.02)
