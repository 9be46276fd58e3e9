"""How well one detector agrees with another, and what each costs.

``average_precision`` takes the boxes of one as truth. Between a compressed model and the model that
it was made from this measures what compression changed, not how good either is: call it agreement.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from camsdk.artifact.decode import decode
from camsdk.artifact.manifest import Manifest
from camsdk.artifact.preprocess import make_input
from camsdk.compress.sessions import Array, Session
from camsdk.vision import geometry
from camsdk.vision.frames import Frame
from camsdk.vision.results import Detections

REFERENCE_SCORE: Final = 0.35
"""Boxes of the reference from here on count as truth: what an application would act upon."""

RANKED_SCORE: Final = 0.05
"""Boxes of the candidate from here on are ranked; below, they do not move the curve."""

MATCH_IOU: Final = 0.5


@dataclass(frozen=True)
class Agreement:
    """One detector against another on the same frames.

    Attributes:
        frame_count: Frames compared.
        box_count: Boxes of the reference that count as truth.
        ap50: By class name, and over all classes together as ``all``; NaN without a box of it.
        reference_ms, candidate_ms: Median CPU time of one inference on one thread, interleaved.
    """

    frame_count: int
    box_count: int
    ap50: Mapping[str, float]
    reference_ms: float
    candidate_ms: float

    @property
    def speedup(self) -> float:
        """Above 1 when the candidate is faster."""
        return self.reference_ms / self.candidate_ms

    @property
    def measured_ap50(self) -> dict[str, float]:
        """``ap50`` without what could not be measured."""
        return {name: value for name, value in self.ap50.items() if math.isfinite(value)}

    def as_metrics(self) -> dict[str, float]:
        """For a manifest, each name with its unit; without what could not be measured."""
        return {
            **{f"ap50_vs_reference_{name}": ap for name, ap in self.measured_ap50.items()},
            "evaluated_frames": float(self.frame_count),
            "evaluated_boxes": float(self.box_count),
            "reference_cpu_ms": self.reference_ms,
            "cpu_ms": self.candidate_ms,
        }


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


@dataclass(frozen=True, eq=False)
class Contender:
    """A model with the manifest that says how to use it."""

    manifest: Manifest
    session: Session


def compare(
    reference: Contender,
    candidate: Contender,
    frames: Iterable[Frame],
    *,
    class_names: Sequence[str] = ("person",),
    on_frame: Callable[[int], None] | None = None,
) -> Agreement:
    """Run both on every frame, in turn.

    Args:
        reference: Whose boxes from ``REFERENCE_SCORE`` on are taken as truth.
        candidate: Whose boxes are judged.
        frames: Should not be those that the candidate was calibrated on.
        class_names: Classes that get a figure of their own.
        on_frame: Called with the number of frames done.
    """
    truth: list[Detections] = []
    found: list[Detections] = []
    times_ms: list[tuple[float, float]] = []
    for count, frame in enumerate(frames, start=1):
        boxes, reference_ms = _detect(reference, frame)
        truth.append(boxes[boxes.scores >= REFERENCE_SCORE])
        boxes, candidate_ms = _detect(candidate, frame)
        found.append(boxes)
        times_ms.append((reference_ms, candidate_ms))
        if on_frame is not None:
            on_frame(count)
    ids = {name: reference.manifest.classes.index(name) for name in class_names}
    ap50 = {name: average_precision(truth, found, class_id=ids[name]) for name in class_names}
    medians = np.median(times_ms, axis=0)
    return Agreement(
        len(truth),
        sum(len(boxes) for boxes in truth),
        {**ap50, "all": average_precision(truth, found)},
        float(medians[0]),
        float(medians[1]),
    )


def _detect(contender: Contender, frame: Frame) -> tuple[Detections, float]:
    """Boxes from ``RANKED_SCORE`` on, and CPU milliseconds of the inference alone."""
    manifest = contender.manifest
    tensor = make_input(frame, manifest.input)
    outputs, spent_ms = _timed(contender.session, tensor)
    output = manifest.output.model_copy(update={"score_threshold": RANKED_SCORE})
    ranked = manifest.model_copy(update={"output": output})
    return decode(outputs, ranked, frame.width, frame.height), spent_ms


def _timed(session: Session, tensor: Array) -> tuple[Mapping[str, Array], float]:
    # One-thread sessions compute in the calling thread, so its CPU time is theirs: steadier than
    # the clock on a machine that does other things too.
    start_ns = time.thread_time_ns()
    outputs = session.infer(tensor)
    return outputs, (time.thread_time_ns() - start_ns) / 1e6
