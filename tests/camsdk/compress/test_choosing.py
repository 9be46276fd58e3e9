"""Training is kept only where it is better, and the reason that is given is the true one."""

import math

import pytest

from camsdk.compress.choosing import Way, choose
from camsdk.compress.figures import Agreement, Figure
from camsdk.compress.options import Budget


def agreements(rounding: float, training: float) -> dict[Way, Agreement]:
    boxes = 0 if math.isnan(rounding) else 9
    values: dict[Way, float] = {"rounding": rounding, "training": training}
    return {
        way: Agreement(Figure("ap50", value, "all"), (), {"frames": 5, "boxes": boxes}, 2.0, 1.0)
        for way, value in values.items()
    }


@pytest.mark.parametrize(
    ("rounding", "training", "limit", "kept", "reason"),
    [
        (0.5, 0.6, None, "training", "training agrees better with the float model on the 5 frames"),
        (0.5, 0.6, 1000.0, "training", "training agrees better"),
        (0.5, 0.6, 999.0, "rounding", "costs 1000 bytes, more than the 999 that it may"),
        (0.6, 0.5, 999.0, "rounding", "training agrees no better"),
        (0.5, 0.5, None, "rounding", "training agrees no better"),
        (math.nan, math.nan, None, "rounding", "found nothing on the 5 frames to choose by"),
    ],
)
def test_the_choice_and_its_reason(
    rounding: float, training: float, limit: float | None, kept: str, reason: str
) -> None:
    budget = None if limit is None else Budget("bytes", limit)
    choice = choose(agreements(rounding, training), 1000, budget)
    assert choice.kept == kept
    assert reason in choice.reason
    metrics = choice.as_metrics()
    assert metrics["choice_frames"] == 5
    assert ("choice_ap50_vs_reference_all_training" in metrics) == (not math.isnan(training))


def test_every_kind_of_budget_is_kept_to() -> None:
    assert choose(agreements(0.1, 0.2), 10, Budget("macs", 10)).kept == "training"
    choice = choose(agreements(0.1, 0.2), 1000, Budget("macs", 10))
    assert choice.kept == "rounding"
    assert "costs 1000 non-zero multiply-accumulates" in choice.reason


def test_without_frames_to_choose_by_rounding_stays() -> None:
    choice = choose({}, 1000, None)
    assert choice.kept == "rounding"
    assert "too short" in choice.reason
    assert choice.as_metrics() == {}


def test_of_classifiers_that_say_the_same_the_nearer_one_is_kept() -> None:
    def judged(nearness: float) -> Agreement:
        apart = Figure("kl_millinats", nearness, reference=0.0, is_better_low=True)
        return Agreement(Figure("top1", 0.95), (apart,), {"frames": 20}, 2.0, 1.0)

    assert choose({"rounding": judged(3.0), "training": judged(2.0)}, 0, None).kept == "training"
    choice = choose({"rounding": judged(2.0), "training": judged(3.0)}, 0, None)
    assert choice.kept == "rounding"
    assert choice.as_metrics() == {
        "choice_frames": 20.0,
        "choice_top1_vs_reference_rounding": 0.95,
        "choice_top1_vs_reference_training": 0.95,
        "choice_kl_millinats_vs_reference_rounding": 2.0,
        "choice_kl_millinats_vs_reference_training": 3.0,
    }
