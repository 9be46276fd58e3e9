"""The motion model of the tracker: one Kalman filter over all boxes at once.

A box is (cx, cy, a, h): centre, aspect ratio width/height, height, with a constant velocity each,
as in DeepSORT (Wojke, Bewley, Paulus, ICIP 2017, section 2.1), whose noise weights ByteTrack keeps.
Transition, process and measurement noise couple a coordinate to its own velocity only, so the
8-state filter is exactly four filters of two states: covariances are three numbers a coordinate,
the innovation is a scalar, nothing is inverted, and all boxes are updated by the same few array
operations.

Time is counted in *periods*: the noise weights are meant per frame of 25-30 Hz video, so a filter
that sees every third frame predicts by three periods. Prediction composes: by 1 and by 1 again is
by 2 (while the height, which scales the noise, stays).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Rows = NDArray[np.int64] | NDArray[np.bool_]

# Standard deviations as shares of the height (DeepSORT's published weights); the aspect ratio has
# its own, without a unit. Order: cx, cy, a, h.
_POSITION_SHARE: Final = 1.0 / 20.0
_VELOCITY_SHARE: Final = 1.0 / 160.0
_ASPECT: Final = 2
_ASPECT_STD: Final = 1e-2
_ASPECT_VELOCITY_STD: Final = 1e-5
_ASPECT_MEASURED_STD: Final = 1e-1
_BIRTH_POSITION: Final = 2.0
_BIRTH_VELOCITY: Final = 10.0
_SMALLEST_SIDE_PX: Final = 1e-3


@dataclass
class BoxFilter:
    """State of n boxes; every array is float64 (n, 4) in the order cx, cy, a, h.

    Attributes:
        position, velocity: Means, pixels (a: ratio) and pixels per period.
        var_position, covariance, var_velocity: Of each coordinate with its own velocity.
    """

    position: F64
    velocity: F64
    var_position: F64
    covariance: F64
    var_velocity: F64

    @staticmethod
    def born(xyxy: NDArray[np.floating]) -> "BoxFilter":
        """Filters at rest at their first boxes (n, 4), xyxy pixels."""
        position = to_cxcyah(xyxy)
        position_std = _spread(position, _BIRTH_POSITION * _POSITION_SHARE, _ASPECT_STD)
        velocity_std = _spread(position, _BIRTH_VELOCITY * _VELOCITY_SHARE, _ASPECT_VELOCITY_STD)
        rest = np.zeros_like(position)
        return BoxFilter(position, rest, position_std**2, rest.copy(), velocity_std**2)

    def __len__(self) -> int:
        return len(self.position)

    def predict(self, periods: float, is_seen: NDArray[np.bool_]) -> None:
        """Advance all boxes in time.

        Args:
            periods: How far, >= 0.
            is_seen: bool (n,): whether the last step saw the box; an unseen one keeps its height,
                for a height that grows on by itself spoils every later overlap.
        """
        self.velocity[~is_seen, 3] = 0.0
        moved = _spread(self.position, _POSITION_SHARE, _ASPECT_STD) ** 2
        turned = _spread(self.position, _VELOCITY_SHARE, _ASPECT_VELOCITY_STD) ** 2
        self.position += periods * self.velocity
        # P <- F P F' + Q, summed over the periods in closed form.
        self.var_position += periods * (
            2.0 * self.covariance
            + periods * self.var_velocity
            + moved
            + turned * ((periods - 1.0) * (2.0 * periods - 1.0) / 6.0)
        )
        self.covariance += periods * (self.var_velocity + turned * ((periods - 1.0) / 2.0))
        self.var_velocity += periods * turned
        np.maximum(self.position[:, 2:], _SMALLEST_SIDE_PX, out=self.position[:, 2:])

    def update(self, rows: Rows, xyxy: NDArray[np.floating]) -> None:
        """Correct the boxes ``rows`` by what was measured.

        Args:
            rows: k rows.
            xyxy: (k, 4) pixels.
        """
        position, covariance = self.position[rows], self.covariance[rows]
        measured_std = _spread(position, _POSITION_SHARE, _ASPECT_MEASURED_STD)
        before = self.var_position[rows]
        innovation_var = before + measured_std**2
        gain, velocity_gain = before / innovation_var, covariance / innovation_var
        innovation = to_cxcyah(xyxy) - position
        self.position[rows] = position + gain * innovation
        self.velocity[rows] += velocity_gain * innovation
        self.var_velocity[rows] -= velocity_gain * covariance
        self.covariance[rows] = covariance * (1.0 - gain)
        self.var_position[rows] = before * (1.0 - gain)

    def take(self, rows: Rows) -> "BoxFilter":
        """Only these boxes."""
        return BoxFilter(*(array[rows] for array in self._arrays()))

    def joined(self, other: "BoxFilter") -> "BoxFilter":
        """These boxes and then the other's."""
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return BoxFilter(*(np.concatenate(pair) for pair in pairs))

    def xyxy(self) -> F64:
        """Means as boxes, float64 (n, 4) pixels."""
        boxes = np.empty_like(self.position)
        half_height = self.position[:, 3] / 2.0
        half_width = self.position[:, 2] * half_height
        boxes[:, 0] = self.position[:, 0] - half_width
        boxes[:, 1] = self.position[:, 1] - half_height
        boxes[:, 2] = self.position[:, 0] + half_width
        boxes[:, 3] = self.position[:, 1] + half_height
        return boxes

    def _arrays(self) -> Sequence[F64]:
        return (
            self.position,
            self.velocity,
            self.var_position,
            self.covariance,
            self.var_velocity,
        )


def to_cxcyah(xyxy: NDArray[np.floating]) -> F64:
    """Boxes (n, 4) xyxy as centre, aspect ratio and height, float64 (n, 4)."""
    boxes = np.asarray(xyxy, np.float64)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], _SMALLEST_SIDE_PX)
    converted = np.empty_like(boxes)
    converted[:, :2] = (boxes[:, :2] + boxes[:, 2:]) / 2.0
    converted[:, 2] = sides[:, 0] / sides[:, 1]
    converted[:, 3] = sides[:, 1]
    return converted


def _spread(position: F64, share: float, aspect_std: float) -> F64:
    """Standard deviations (n, 4): a share of the height, and the aspect ratio's own."""
    std = np.repeat(position[:, 3:4] * share, 4, axis=1)
    std[:, _ASPECT] = aspect_std
    return std
