"""How well one detector agrees with another.

``average_precision`` takes the boxes of one as truth. Between a compressed model and the model that
it was made from this measures what compression changed, not how good either is: call it agreement.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from camsdk.artifact.decode import decode
from camsdk.artifact.manifest import Manifest
from camsdk.compress.comparing import Answer
from camsdk.compress.figures import Figure
from camsdk.compress.sessions import Array
from camsdk.vision import geometry
from camsdk.vision.frames import Frame
from camsdk.vision.results import Detections

REFERENCE_SCORE: Final = 0.35
"""Boxes of the reference from here on count as truth: what an application would act upon."""

RANKED_SCORE: Final = 0.05
"""Boxes of the candidate from here on are ranked; below, they do not move the curve."""

MATCH_IOU: Final = 0.5


def average_precision(
    truth: Sequence[Detections], found: Sequence[Detections], *, class_id: int | None = None
) -> float:
    """Area under the precision-recall curve at IoU 0.5.

    Boxes are matched per frame and class, best score first, each true box once. Precision is made
    monotone from the right and integrated over every step of recall (PASCAL VOC from 2010 on).

    Args:
        truth: Per frame.
        found: Per frame, best first.
        class_id: Only this class, or all, ranked in one list.

    Returns:
        0 to 1; NaN when there is nothing to find, whatever was found: that says nothing.
    """
    scores: list[np.ndarray] = []
    hits: list[np.ndarray] = []
    total = 0
    for true, candidates in zip(truth, found, strict=True):
        if class_id is not None:
            true = true[true.class_ids == class_id]
            candidates = candidates[candidates.class_ids == class_id]
        total += len(true)
        scores.append(candidates.scores)
        hits.append(_matched(true, candidates))
    if not total:
        return math.nan
    ranking = np.argsort(-np.concatenate(scores), kind="stable")
    is_hit = np.concatenate(hits)[ranking]
    recall = np.cumsum(is_hit) / total
    precision = np.cumsum(is_hit) / np.arange(1, len(is_hit) + 1)
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * monotone))


def _matched(true: Detections, found: Detections) -> np.ndarray:
    """bool (n,): which of the found boxes, best first, take a true box."""
    is_hit = np.zeros(len(found), np.bool_)
    if not len(true):
        return is_hit
    overlaps = geometry.iou(found.xyxy, true.xyxy)
    overlaps[found.class_ids[:, np.newaxis] != true.class_ids] = 0
    for index, row in enumerate(overlaps):
        best = int(row.argmax())
        if row[best] >= MATCH_IOU:
            is_hit[index] = True
            overlaps[:, best] = 0  # a view of the rows to come: taken
    return is_hit


class BoxJudge:
    """Average precision of the candidate's boxes with the reference's as truth.

    Args:
        reference: Whose boxes from ``REFERENCE_SCORE`` on are taken as truth.
        class_names: Classes that get a figure of their own.
    """

    def __init__(self, reference: Manifest, class_names: Sequence[str] = ()) -> None:
        self._ids = {name: reference.classes.index(name) for name in class_names}
        self._truth: list[Detections] = []
        self._found: list[Detections] = []

    def see(self, frame: Frame, reference: Answer, candidate: Answer) -> None:
        """One more frame."""
        boxes, found = (
            ranked_boxes(of.outputs, of.manifest, frame.width, frame.height)
            for of in (reference, candidate)
        )
        self._truth.append(boxes[boxes.scores >= REFERENCE_SCORE])
        self._found.append(found)

    def figures(self) -> tuple[Figure, ...]:
        """Over all classes together, then of each named class."""
        truth, found = self._truth, self._found
        return (
            Figure("ap50", average_precision(truth, found), "all"),
            *(
                Figure("ap50", average_precision(truth, found, class_id=class_id), name)
                for name, class_id in self._ids.items()
            ),
        )

    def counts(self) -> dict[str, int]:
        """Frames, and boxes that count as truth."""
        return {"frames": len(self._truth), "boxes": sum(len(boxes) for boxes in self._truth)}


def ranked_boxes(
    outputs: Mapping[str, Array], manifest: Manifest, width: int, height: int
) -> Detections:
    """``decode`` with boxes from ``RANKED_SCORE`` on, whatever the manifest's own threshold."""
    output = manifest.output.model_copy(update={"score_threshold": RANKED_SCORE})
    return decode(outputs, manifest.model_copy(update={"output": output}), width, height)
