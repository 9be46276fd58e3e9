"""Whether what was trained is kept, or what was rounded without training.

The two are compared on frames of their own (``ClipSplit.choice``). On the frames that figures are
reported of, only the one that was kept is measured: the better of two on the same frames would look
better than it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from camsdk.compress.allocate import UNITS
from camsdk.compress.figures import Agreement
from camsdk.compress.options import Budget

Way = Literal["rounding", "training"]


@dataclass(frozen=True)
class Choice:
    """What is kept.

    Attributes:
        kept: How it was made.
        reason: A sentence without its stop; empty where nothing was trained.
        agreements: Of both, on the frames to choose by; empty where there are none.
    """

    kept: Way
    reason: str = ""
    agreements: Mapping[Way, Agreement] = field(default_factory=dict)

    def as_metrics(self) -> dict[str, float]:
        """For a manifest."""
        metrics: dict[str, float] = {}
        for way, of in self.agreements.items():
            metrics |= {f"choice_{what}": float(count) for what, count in of.counts.items()}
            metrics |= {f"choice_{figure.metric}_{way}": figure.value for figure in of.measured}
        return metrics


def choose(
    agreements: Mapping[Way, Agreement], trained_cost: float, budget: Budget | None
) -> Choice:
    """Training only where it agrees better than rounding, within the budget.

    Args:
        agreements: By way, on the frames to choose by; empty where there are none.
        trained_cost: Of the model that was trained, in the budget's unit. It may be above that of
            rounding: weights that rounding alone made 0 need not be 0 after a training.
    """
    if not agreements:
        return Choice("rounding", "the recording is too short for frames to choose by")
    trained, rounded = (agreements[way] for way in ("training", "rounding"))
    frames = f"the {rounded.counts['frames']} frames to choose by"
    if not (trained.main.is_measured and rounded.main.is_measured):
        reason = f"the float model found nothing on {frames}"
        return Choice("rounding", reason, agreements)
    if trained.rank <= rounded.rank:
        reason = f"training agrees no better with the float model on {frames}"
        return Choice("rounding", reason, agreements)
    if budget is not None and trained_cost > budget.limit:
        reason = (
            f"what was trained costs {trained_cost:.10g} {UNITS[budget.kind]}, more than the "
            f"{budget.limit:.10g} that it may, though it agrees better with the float model on "
            f"{frames}"
        )
        return Choice("rounding", reason, agreements)
    reason = f"training agrees better with the float model on {frames}"
    return Choice("training", reason, agreements)
