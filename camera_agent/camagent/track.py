"""Detections become tracks: ByteTrack on arrays.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022,
section 3 and algorithm 1. Its idea: a box with a low score is no reason for a new track, but a good
reason to continue one, for an occluded object still has a box, only a doubtful one. So every frame

1. predicts all tracks, lost ones too, by a Kalman filter (``camagent.kalman``),
2. matches them to the detections with high scores by IoU, one to one,
3. matches the tracks that are left to the detections with low scores,
4. starts tracks from high detections that are left, and drops tracks lost for too long.

Where the paper is silent: classes are never mixed (one assignment, whose entries between classes
are forbidden); a track is shown, and gets its id, once it was seen in ``confirm_hits`` frames in a
row, and until then takes only what confirmed tracks left, as in the authors' code.

Invariants: time comes from the caller (a replay gives the same tracks, bit for bit); waiting times
are in seconds and motion noise in periods of ``reference_fps``, so a camera at 10 Hz is tracked
like one at 30 Hz; ids count from 1 and are never reused; an id that ended never comes back.
"""

from dataclasses import dataclass
from typing import Final

import lap
import numpy as np
from numpy.typing import NDArray

from camagent.kalman import BoxFilter
from camsdk.errors import InvalidInput
from camsdk.vision.geometry import iou
from camsdk.vision.results import Detections, Tracks

I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]
Pairs = tuple[I64, I64]

_TIME_SLACK_S: Final = 1e-6
_NONE: Final = np.zeros(0, np.int64)


@dataclass(frozen=True)
class TrackerSettings:
    """How the tracker decides.

    Attributes:
        high_score: Detections from here on are matched first (the paper's tau, 0.6 in section
            4.1). A detector whose scores run lower needs a lower one: tau belongs in the valley
            between the scores of objects and those of doubt.
        low_score: Below, a detection is ignored (0.1 in the authors' code).
        new_score: A new track needs this; 0.1 above ``high_score``, as in the authors' code.
        min_iou: Overlap that a first match needs (0.2, section 4.1).
        min_iou_low: Overlap that a match with a low detection needs (0.5 in the authors' code).
        max_lost_s: A track that nothing matched for longer ends (30 frames of 30 Hz, section 4.1).
        confirm_hits: Frames in a row that a new track must be seen before it is shown.
        reference_fps: Frame rate at which the Kalman filter's noise weights hold, Hz. They were
            published per frame, for sequences of 14 to 30 Hz. 20, because lower gives steadier
            speeds, so fewer swaps where people pass each other, and higher follows turns faster:
            compared on synthetic walkers and on vtest.avi with boxes disturbed at random.
        max_gap_s: A longer pause between frames predicts as if it were this long: velocities say
            nothing about what happened in between.
    """

    high_score: float = 0.6
    low_score: float = 0.1
    new_score: float = 0.7
    min_iou: float = 0.2
    min_iou_low: float = 0.5
    max_lost_s: float = 1.0
    confirm_hits: int = 2
    reference_fps: float = 20.0
    max_gap_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.low_score <= self.high_score <= self.new_score <= 1.0:
            raise InvalidInput(
                f"scores {self.low_score}, {self.high_score}, {self.new_score} are out of order",
                "give 0 <= low_score <= high_score <= new_score <= 1",
            )
        if not (0.0 < self.min_iou < 1.0 and 0.0 < self.min_iou_low < 1.0):
            raise InvalidInput(
                f"IoU bounds {self.min_iou}, {self.min_iou_low} are out of range",
                "give values between 0 and 1",
            )
        if min(self.max_lost_s, self.reference_fps, self.max_gap_s, self.confirm_hits) <= 0:
            raise InvalidInput("a tracker's times, rate and hits are positive numbers")


@dataclass
class _Pool:
    """All tracks that live, side by side: n rows, oldest first.

    So ids ascend too: who was born first is confirmed first, or dropped before.

    Attributes:
        boxes: Their filters.
        track_id: int64 (n,), 0 until confirmed.
        class_ids: int64 (n,).
        scores: float32 (n,), of the last match.
        hits: int64 (n,), frames in a row in which it was seen, since birth.
        seen_s: float64 (n,), time of the last match.
        is_seen: bool (n,), whether the last frame matched it.
    """

    boxes: BoxFilter
    track_id: I64
    class_ids: I64
    scores: NDArray[np.float32]
    hits: I64
    seen_s: NDArray[np.float64]
    is_seen: NDArray[np.bool_]

    @staticmethod
    def born(detections: Detections, timestamp_s: float) -> "_Pool":
        count = len(detections)
        return _Pool(
            BoxFilter.born(detections.xyxy),
            np.zeros(count, np.int64),
            detections.class_ids.astype(np.int64),
            detections.scores.astype(np.float32),
            np.ones(count, np.int64),
            np.full(count, timestamp_s),
            np.ones(count, np.bool_),
        )

    def __len__(self) -> int:
        return len(self.track_id)

    def take(self, rows: I64 | NDArray[np.bool_]) -> "_Pool":
        return _Pool(
            self.boxes.take(rows),
            self.track_id[rows],
            self.class_ids[rows],
            self.scores[rows],
            self.hits[rows],
            self.seen_s[rows],
            self.is_seen[rows],
        )

    def joined(self, other: "_Pool") -> "_Pool":
        return _Pool(
            self.boxes.joined(other.boxes),
            np.concatenate((self.track_id, other.track_id)),
            np.concatenate((self.class_ids, other.class_ids)),
            np.concatenate((self.scores, other.scores)),
            np.concatenate((self.hits, other.hits)),
            np.concatenate((self.seen_s, other.seen_s)),
            np.concatenate((self.is_seen, other.is_seen)),
        )


class ByteTracker:
    """The ``track`` stage: ``tracks = track(detections, timestamp_s)`` once per detected frame.

    For a frame on which the detector did not run, call ``hold``; at the end of a source, or when
    its resolution changes, ``finish``.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self._settings = settings or TrackerSettings()
        self._pool = _Pool.born(Detections.empty(), 0.0)
        self._next_id = 1
        self._last_s: float | None = None

    def __call__(self, detections: Detections, timestamp_s: float) -> Tracks:
        """Advance to the next frame.

        Args:
            detections: Of this frame.
            timestamp_s: Capture time; one that does not grow counts as no time passed.

        Returns:
            Confirmed tracks that this frame saw, ascending ids, boxes filtered; and the ids that
            ended with it.
        """
        pool = self._pool
        pool.boxes.predict(self._periods_until(timestamp_s), pool.is_seen)
        rows, columns, unused = self._match(detections)
        pool.is_seen[:] = False
        pool.is_seen[rows] = True
        pool.boxes.update(rows, detections.xyxy[columns])
        pool.scores[rows] = detections.scores[columns]
        pool.hits[rows] += 1
        pool.seen_s[rows] = timestamp_s
        self._confirm()
        ended = self._drop(timestamp_s)
        newborn = unused[detections.scores[unused] >= self._settings.new_score]
        if newborn.size:
            self._pool = self._pool.joined(_Pool.born(detections[newborn], timestamp_s))
            if self._settings.confirm_hits == 1:
                self._confirm()
        return self._shown(ended)

    def hold(self, timestamp_s: float) -> Tracks:
        """Advance past a frame in which nothing moved, so that no detector looked.

        Boxes stay where they are and tracks that were seen stay seen; lost ones grow older.
        """
        self._last_s = timestamp_s
        self._pool.seen_s[self._pool.is_seen] = timestamp_s
        return self._shown(self._drop(timestamp_s))

    def finish(self) -> Tracks:
        """End every track; the tracker is then as new, but goes on counting ids."""
        ended = self._pool.track_id[self._pool.track_id > 0]
        self._pool = _Pool.born(Detections.empty(), 0.0)
        self._last_s = None
        return self._shown(ended)

    def _periods_until(self, timestamp_s: float) -> float:
        gap_s = 0.0 if self._last_s is None else timestamp_s - self._last_s
        self._last_s = timestamp_s
        return min(max(gap_s, 0.0), self._settings.max_gap_s) * self._settings.reference_fps

    def _match(self, detections: Detections) -> tuple[I64, I64, I64]:
        """Algorithm 1: who continues whom.

        Returns:
            Rows of the pool with the detections that they take, and the high detections that
            nobody took.
        """
        pool, settings = self._pool, self._settings
        overlap = iou(pool.boxes.xyxy(), detections.xyxy)
        overlap[pool.class_ids[:, None] != detections.class_ids] = 0.0
        is_high = detections.scores >= settings.high_score
        is_low = ~is_high & (detections.scores >= settings.low_score)
        is_confirmed = pool.track_id > 0
        first = assign(overlap, is_confirmed, is_high, settings.min_iou)
        is_high[first[1]] = is_confirmed[first[0]] = False
        second = assign(overlap, is_confirmed, is_low, settings.min_iou_low)
        third = assign(overlap, pool.track_id == 0, is_high, settings.min_iou)
        is_high[third[1]] = False
        return (
            np.concatenate((first[0], second[0], third[0])),
            np.concatenate((first[1], second[1], third[1])),
            np.flatnonzero(is_high),
        )

    def _confirm(self) -> None:
        """Give an id to every track that has now been seen often enough."""
        pool = self._pool
        due = (pool.track_id == 0) & (pool.hits >= self._settings.confirm_hits)
        count = int(np.count_nonzero(due))
        pool.track_id[due] = np.arange(self._next_id, self._next_id + count)
        self._next_id += count

    def _drop(self, timestamp_s: float) -> I64:
        """Remove tracks lost for too long, and unconfirmed ones that were not seen at once.

        Returns:
            Ids that ended, ascending.
        """
        pool = self._pool
        is_confirmed = pool.track_id > 0
        is_fresh = timestamp_s - pool.seen_s <= self._settings.max_lost_s + _TIME_SLACK_S
        keep = pool.is_seen | (is_confirmed & is_fresh)
        if keep.all():
            return _NONE
        self._pool = pool.take(keep)
        return pool.track_id[~keep & is_confirmed]

    def _shown(self, ended: I64) -> Tracks:
        pool = self._pool
        rows = np.flatnonzero(pool.is_seen & (pool.track_id > 0))
        return Tracks(
            pool.track_id[rows],
            pool.boxes.take(rows).xyxy().astype(np.float32),
            pool.scores[rows],
            pool.class_ids[rows],
            ended,
        )


def assign(overlap: NDArray[np.float64], is_row: Bools, is_column: Bools, min_iou: float) -> Pairs:
    """The one-to-one matching that loses least, where staying alone costs ``1 - min_iou``.

    Jonker and Volgenant's algorithm (Computing 38, 1987), by ``lapx``.

    Args:
        overlap: float64 (n, m), IoU of every track with every detection.
        is_row, is_column: bool (n,) and (m,), who may be matched.
        min_iou: No pair that overlaps less is matched.

    Returns:
        Matched rows and their columns, int64 (k,) each.
    """
    rows, columns = np.flatnonzero(is_row), np.flatnonzero(is_column)
    if not rows.size or not columns.size:
        return _NONE, _NONE
    cost = 1.0 - overlap[rows[:, None], columns]
    taken, _ = lap.lapjv(cost, extend_cost=True, cost_limit=1.0 - min_iou, return_cost=False)
    matched = np.flatnonzero(taken >= 0)
    chosen = taken[matched]
    # The solver is indifferent between a pair at the limit and two singles.
    close = overlap[rows[matched], columns[chosen]] >= min_iou
    return rows[matched[close]], columns[chosen[close]]
