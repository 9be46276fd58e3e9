"""How well two sets of identities agree: the measures of multiple-object tracking.

Both sides label the same detections, so a pair is a detection that both claim.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from camsdk.vision.geometry import iou
from camsdk.vision.results import Detections, Tracks

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """Of identities ``theirs`` with a reference.

    Attributes:
        idf1: Identity F1 (Ristani et al., ECCV workshops 2016): share of claimed detections that
            agree under the best one-to-one matching of identities.
        switches: How often a reference identity is continued by another one of theirs.
        links: Share of the steps from one detection of a reference identity to its next that
            theirs takes too. One swap costs IDF1 half a track, but only two links.
    """

    idf1: float
    switches: int
    links: float


def compare(reference: list[I64], theirs: list[I64]) -> Agreement:
    """Agreement of two labellings of the same detections.

    Args:
        reference, theirs: For each frame int64 (n,), an identity a detection, -1 for none.
    """
    ours = np.concatenate(theirs)
    truth = np.concatenate(reference)
    both = (ours >= 0) & (truth >= 0)
    pairs = Counter(zip(truth[both].tolist(), ours[both].tolist(), strict=True))
    rows = {label: i for i, label in enumerate(sorted({pair[0] for pair in pairs}))}
    columns = {label: i for i, label in enumerate(sorted({pair[1] for pair in pairs}))}
    shared = np.zeros((len(rows), len(columns)))
    for (one, other), count in pairs.items():
        shared[rows[one], columns[other]] = count
    chosen = linear_sum_assignment(shared, maximize=True)
    claimed = max(np.count_nonzero(truth >= 0) + np.count_nonzero(ours >= 0), 1)
    steps, switches = _steps(reference, theirs)
    return Agreement(
        idf1=float(2.0 * shared[chosen].sum() / claimed),
        switches=switches,
        links=1.0 - switches / max(steps, 1),
    )


def _steps(reference: list[I64], theirs: list[I64]) -> tuple[int, int]:
    """Steps along reference identities that both sides claim, and how many change theirs."""
    last: dict[int, int] = {}
    steps = switches = 0
    for truth, ours in zip(reference, theirs, strict=True):
        for one, other in zip(truth.tolist(), ours.tolist(), strict=True):
            if one < 0 or other < 0:
                continue
            if one in last:
                steps += 1
                switches += last[one] != other
            last[one] = other
    return steps, switches


def label(detections: Detections, tracks: Tracks, *, min_iou: float = 0.4) -> I64:
    """Which track claims each detection, int64 (n,), -1 for none; by overlap, one to one.

    Trackers give filtered boxes, so a track's box is near its detection, not equal to it.
    """
    labels = np.full(len(detections), -1)
    if len(detections) and len(tracks):
        overlap = iou(detections.xyxy, tracks.xyxy)
        for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
            if overlap[row, column] >= min_iou:
                labels[row] = tracks.track_id[column]
    return labels
