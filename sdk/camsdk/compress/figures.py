"""How far one model agrees with another: named figures, of which one decides."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TITLES: Final[Mapping[str, str]] = {
    "ap50": "AP50 against float",
    "top1": "same class as float",
    "kl_millinats": "divergence from float, millinats",
    "mean_iou": "mean IoU against float",
    "equal_cells": "same class as float, share of cells",
    "accuracy": "accuracy",
}
"""For people, by what was measured."""


@dataclass(frozen=True)
class Figure:
    """One thing that was measured of the candidate.

    Attributes:
        what: A key of ``TITLES``.
        value: NaN where there was nothing to measure on.
        of: What it is about, such as a class; empty where there is only one.
        reference: The same of the reference: against itself, or against labels.
        is_labelled: Whether truth was somebody's labels, not the reference.
        is_better_low: Whether less of it is better.
    """

    what: str
    value: float
    of: str = ""
    reference: float = 1.0
    is_labelled: bool = False
    is_better_low: bool = False

    @property
    def name(self) -> str:
        """Such as ``ap50_person``, or ``top1``."""
        return f"{self.what}_{self.of}" if self.of else self.what

    @property
    def metric(self) -> str:
        """In a manifest, such as ``ap50_vs_reference_person``."""
        middle = "" if self.is_labelled else "_vs_reference"
        return f"{self.what}{middle}_{self.of}" if self.of else f"{self.what}{middle}"

    @property
    def title(self) -> str:
        """In a report."""
        return f"{TITLES[self.what]}, {self.of}" if self.of else TITLES[self.what]

    @property
    def is_measured(self) -> bool:
        """Whether there was anything to measure on."""
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Agreement:
    """One model against another on the same frames.

    Attributes:
        main: The figure that choices are made by: 0 to 1, better when higher.
        others: Further figures; where the main one is the same, they decide in turn.
        counts: What was compared, by its plural: ``frames``, and of detectors ``boxes``, those of
            the reference that count as truth.
        reference_ms, candidate_ms: Median CPU time of one inference on one thread, interleaved.
    """

    main: Figure
    others: tuple[Figure, ...]
    counts: Mapping[str, int]
    reference_ms: float
    candidate_ms: float

    @property
    def speedup(self) -> float:
        """Above 1 when the candidate is faster."""
        return self.reference_ms / self.candidate_ms

    @property
    def measured(self) -> tuple[Figure, ...]:
        """All figures without what could not be measured, the main one first."""
        return tuple(figure for figure in (self.main, *self.others) if figure.is_measured)

    @property
    def rank(self) -> tuple[float, ...]:
        """Better when higher, compared in turn."""
        return tuple(-of.value if of.is_better_low else of.value for of in self.measured)

    @property
    def values(self) -> dict[str, float]:
        """Of ``measured``, by name; of labelled figures the reference's own too."""
        values = {figure.name: figure.value for figure in self.measured}
        own = {f"reference_{of.name}": of.reference for of in self.measured if of.is_labelled}
        return values | own

    def as_metrics(self) -> dict[str, float]:
        """For a manifest, each name with its unit; without what could not be measured."""
        return {
            **{figure.metric: figure.value for figure in self.measured},
            **{f"reference_{of.metric}": of.reference for of in self.measured if of.is_labelled},
            **{f"evaluated_{what}": float(count) for what, count in self.counts.items()},
            "reference_cpu_ms": self.reference_ms,
            "cpu_ms": self.candidate_ms,
        }
