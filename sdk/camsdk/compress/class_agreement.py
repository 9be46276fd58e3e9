"""How well one classifier or one segmentation network agrees with another.

What the reference says is truth: this measures what compression changed, not how good either is.
Where pictures lie in folders that are named like the classes, those are truth as well.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.decode import class_logits
from camsdk.compress.comparing import Answer
from camsdk.compress.figures import Figure
from camsdk.vision.frames import Frame


class ClassJudge:
    """Share of frames with the same best class, and the divergence of all scores.

    Args:
        labels: Class id by frame index, of the frames that have one.
    """

    def __init__(self, labels: Mapping[int, int] | None = None) -> None:
        self._labels = labels or {}
        self._same: list[bool] = []
        self._divergences: list[float] = []
        self._right: list[tuple[bool, bool]] = []

    def see(self, frame: Frame, reference: Answer, candidate: Answer) -> None:
        """One more frame."""
        wanted, given = (class_logits(of.outputs, of.manifest) for of in (reference, candidate))
        best = int(wanted.argmax()), int(given.argmax())
        self._same.append(best[0] == best[1])
        self._divergences.append(float(divergence(wanted, given)))
        label = self._labels.get(frame.index)
        if label is not None:
            self._right.append((best[0] == label, best[1] == label))

    def figures(self) -> tuple[Figure, ...]:
        """The same best class, the divergence and, where there are labels, the accuracy."""
        figures = [
            Figure("top1", _mean(self._same)),
            Figure(
                "kl_millinats", 1000 * _mean(self._divergences), reference=0.0, is_better_low=True
            ),
        ]
        if self._right:
            before, after = (float(share) for share in np.mean(self._right, axis=0))
            figures.append(Figure("accuracy", after, reference=before, is_labelled=True))
        return tuple(figures)

    def counts(self) -> dict[str, int]:
        """Frames, and those with a label if there are any."""
        labelled = {"labelled_frames": len(self._right)} if self._right else {}
        return {"frames": len(self._same), **labelled}


class MapJudge:
    """Mean IoU over the classes that either map has anywhere, and the share of equal cells.

    Args:
        class_count: Of both.
    """

    def __init__(self, class_count: int) -> None:
        self._table = np.zeros((class_count, class_count), np.int64)
        self._frames = 0

    def see(self, frame: Frame, reference: Answer, candidate: Answer) -> None:
        """One more frame."""
        wanted, given = (
            class_logits(of.outputs, of.manifest).argmax(axis=0) for of in (reference, candidate)
        )
        np.add.at(self._table, (wanted, given), 1)
        self._frames += 1

    def figures(self) -> tuple[Figure, ...]:
        """All cells of all frames together."""
        total = int(self._table.sum())
        equal = float(np.trace(self._table)) / total if total else math.nan
        return Figure("mean_iou", mean_iou(self._table)), Figure("equal_cells", equal)

    def counts(self) -> dict[str, int]:
        """Frames and cells."""
        return {"frames": self._frames, "cells": int(self._table.sum())}


def divergence(wanted: NDArray[np.float32], given: NDArray[np.float32]) -> np.float64:
    """Kullback-Leibler divergence of the softmax of ``given`` from that of ``wanted``, in nats.

    Args:
        wanted, given: Logits (classes,), finite.
    """
    log_wanted, log_given = (_log_softmax(x.astype(np.float64)) for x in (wanted, given))
    return np.float64(np.sum(np.exp(log_wanted) * (log_wanted - log_given)))


def mean_iou(table: NDArray[np.int64]) -> float:
    """Intersection over union, mean over the classes that occur; NaN if none does.

    Args:
        table: int64 (classes, classes), cells by class in truth, then in the answer.
    """
    shared = np.diagonal(table)
    either = table.sum(axis=0) + table.sum(axis=1) - shared
    if not either.any():
        return math.nan
    return float(np.mean(shared[either > 0] / either[either > 0]))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _mean(values: list[bool] | list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
