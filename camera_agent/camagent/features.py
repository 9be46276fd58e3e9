"""Tracks get appearance codes: at birth, every few seconds, and at death.

A code costs a crop of the planes and a histogram, so a track is looked at rarely: once a second at
most. A look is *good* if the box lies inside the frame, is large enough and is not covered by a
nearer one. ``BIRTH`` is sent at the first good look, at the latest ``birth_wait_s`` after the track
appeared and then with the best there is; ``REFRESH`` every ``refresh_s`` after it, with a good look
of that frame; ``DEATH`` repeats the last good code, for the object is gone by then.

Invariant: time comes from the frame; a replay gives the same codes.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.vision.appearance import SIZE, crop_rgb, hsv_stripes
from camsdk.vision.frames import Frame
from camsdk.vision.geometry import box_areas, intersections
from camsdk.vision.results import BIRTH, DEATH, REFRESH, Embeddings, Tracks

I8 = NDArray[np.int8]
_TIME_SLACK_S: Final = 1e-6


@dataclass(frozen=True)
class FeatureSettings:
    """When codes are taken.

    Attributes:
        refresh_s: Seconds between codes that are sent for one track (5: the bandwidth budget).
        look_s: Seconds between looks at one track; a death can be this stale.
        birth_wait_s: How long the first code may wait for a good look, seconds.
        min_height_px: A lower box is not a good look: a stripe needs a few rows.
        max_covered: Share of a box that other boxes may cover in a good look.
        max_outside: Share of a box that may lie outside the frame in a good look.
    """

    refresh_s: float = 5.0
    look_s: float = 1.0
    birth_wait_s: float = 1.0
    min_height_px: float = 24.0
    max_covered: float = 0.3
    max_outside: float = 0.05


@dataclass
class _Looks:
    """What is remembered of one track.

    Attributes:
        first_s: When it appeared.
        code: Its last good code, or the first of any kind.
        look_s: When ``code`` was taken.
        sent_s: When a code was last sent, or None.
    """

    first_s: float
    code: I8 | None = None
    look_s: float = -np.inf
    sent_s: float | None = None


@dataclass
class _Sheet:
    """Codes of one frame, being collected."""

    track_id: list[int] = field(default_factory=list)
    codes: list[I8] = field(default_factory=list)
    reasons: list[int] = field(default_factory=list)

    def add(self, track_id: int, code: I8, reason: int) -> None:
        self.track_id.append(track_id)
        self.codes.append(code)
        self.reasons.append(reason)

    def embeddings(self) -> Embeddings:
        if not self.codes:
            return Embeddings.empty(SIZE)
        return Embeddings(
            np.array(self.track_id, np.int64),
            np.stack(self.codes),
            np.array(self.reasons, np.uint8),
        )


class Features:
    """The ``features`` stage of one camera: ``embeddings = features(frame, tracks)``."""

    def __init__(self, settings: FeatureSettings | None = None) -> None:
        self._settings = settings or FeatureSettings()
        self._looks: dict[int, _Looks] = {}

    def __call__(self, frame: Frame, tracks: Tracks) -> Embeddings:
        """Codes that are due with this frame.

        Args:
            frame: Its planes are read only around the boxes that are due.
            tracks: Of this frame; those that ended give their last code.
        """
        sheet = _Sheet()
        due = self._due(tracks, frame.timestamp_s)
        if due:
            is_good = self._is_good(frame, tracks)
            for row in due:
                self._look(frame, tracks, row, bool(is_good[row]), sheet)
        for track_id in tracks.ended.tolist():
            looks = self._looks.pop(track_id, None)
            if looks is not None and looks.code is not None:
                sheet.add(track_id, looks.code, DEATH)
        return sheet.embeddings()

    def _due(self, tracks: Tracks, timestamp_s: float) -> list[int]:
        """Rows whose last good look is old enough."""
        oldest_s = timestamp_s - self._settings.look_s + _TIME_SLACK_S
        rows = []
        for row, track_id in enumerate(tracks.track_id.tolist()):
            looks = self._looks.setdefault(track_id, _Looks(timestamp_s))
            if looks.look_s <= oldest_s:
                rows.append(row)
        return rows

    def _is_good(self, frame: Frame, tracks: Tracks) -> NDArray[np.bool_]:
        """Which boxes (n,) show their object well."""
        boxes = tracks.xyxy.astype(np.float64)
        areas = np.maximum(box_areas(boxes), 1.0)
        picture = np.array([[0.0, 0.0, frame.width, frame.height]])
        outside = 1.0 - intersections(boxes, picture)[:, 0] / areas
        shared = intersections(boxes, boxes)
        np.fill_diagonal(shared, 0.0)
        # Whose feet are lower stands nearer to the camera: only those hide somebody.
        is_nearer = boxes[None, :, 3] > boxes[:, None, 3]
        covered = (shared * is_nearer).sum(axis=1) / areas
        good: NDArray[np.bool_] = (
            (outside <= self._settings.max_outside)
            & (covered <= self._settings.max_covered)
            & (boxes[:, 3] - boxes[:, 1] >= self._settings.min_height_px)
        )
        return good

    def _look(self, frame: Frame, tracks: Tracks, row: int, is_good: bool, sheet: _Sheet) -> None:
        """Look at one track and send what is due of it."""
        track_id, now_s = int(tracks.track_id[row]), frame.timestamp_s
        looks = self._looks[track_id]
        if is_good or looks.code is None:
            crop = crop_rgb(frame, tracks.xyxy[row])
            if crop is None:
                return
            looks.code = hsv_stripes(crop)
        if is_good:
            looks.look_s = now_s
        waited_s = now_s - looks.first_s + _TIME_SLACK_S
        if looks.sent_s is None:
            if is_good or waited_s >= self._settings.birth_wait_s:
                sheet.add(track_id, looks.code, BIRTH)
                looks.sent_s = now_s
        elif is_good and now_s - looks.sent_s + _TIME_SLACK_S >= self._settings.refresh_s:
            sheet.add(track_id, looks.code, REFRESH)
            looks.sent_s = now_s
