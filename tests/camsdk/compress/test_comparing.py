"""Two scripted models compared: whose boxes count from which score on, and whose time is whose."""

import time
from collections.abc import Mapping

import numpy as np
import pytest

from camsdk.compress.comparing import Contender, compare
from camsdk.compress.evaluate import BoxJudge
from camsdk.compress.figures import Agreement
from camsdk.compress.sessions import Array, Session
from camsdk.vision.frames import Frame
from support.artifacts import make_manifest

Row = tuple[int, float, int]
"""Place, score, class: boxes of different places do not overlap."""


class Script(Session):
    """Says the same of every frame, and takes its time.

    Args:
        cost_ms: Of the calling thread's CPU time.
    """

    def __init__(self, *rows: Row, cost_ms: float = 0.0) -> None:
        self._rows, self._cost_ms = rows, cost_ms

    def infer(self, tensor: Array) -> Mapping[str, Array]:
        """Boxes of 6 x 6 pixels in a row."""
        end_ns = time.thread_time_ns() + self._cost_ms * 1e6
        while time.thread_time_ns() < end_ns:
            pass
        places, scores, class_ids = zip(*self._rows, strict=True)
        xyxy = [(8 * place, 0, 8 * place + 6, 6) for place in places]
        return {
            "boxes": np.array([xyxy], np.float32),
            "scores": np.array([scores], np.float32),
            "classes": np.array([class_ids], np.float32),
        }


def compared(reference: Script, candidate: Script, frames: int = 2) -> Agreement:
    manifest = make_manifest()  # its own threshold is 0.35
    y, u, v = (np.zeros(size, np.uint8) for size in ((32, 32), (16, 16), (16, 16)))
    return compare(
        Contender(manifest, reference),
        Contender(manifest, candidate),
        [Frame(index, float(index), y, u, v) for index in range(frames)],
        BoxJudge(manifest, ("person", "bicycle")),
    )


def test_truth_begins_at_the_application_s_score_and_ranking_far_below() -> None:
    reference = Script((0, 0.9, 0), (1, 0.4, 0), (2, 0.3, 0))  # the last is no truth
    agreement = compared(reference, Script((0, 0.8, 0), (1, 0.06, 0), (2, 0.04, 0)))
    assert agreement.values["ap50_all"] == 1.0  # 0.06 finds the second; 0.04 is not ranked
    assert agreement.counts == {"frames": 2, "boxes": 4}
    below = compared(reference, Script((0, 0.8, 0), (1, 0.04, 0)))
    assert below.values["ap50_all"] == 0.5
    # The faint box that the reference has no truth for is ranked above the second: 1, then 2/3.
    fooled = compared(reference, Script((0, 0.8, 0), (2, 0.2, 0), (1, 0.1, 0)))
    assert fooled.values["ap50_all"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_box_of_another_class_is_no_hit() -> None:
    reference = Script((0, 0.9, 0), (1, 0.8, 1))
    agreement = compared(reference, Script((0, 0.9, 0), (1, 0.8, 0)))
    assert agreement.values == {"ap50_all": 0.5, "ap50_person": 1.0, "ap50_bicycle": 0.0}


def test_each_model_has_its_own_time() -> None:
    agreement = compared(Script((0, 0.9, 0), cost_ms=12.0), Script((0, 0.9, 0), cost_ms=3.0))
    assert agreement.reference_ms >= 12.0
    assert 3.0 <= agreement.candidate_ms < 12.0
    assert agreement.as_metrics()["cpu_ms"] == agreement.candidate_ms
    assert agreement.speedup > 1
