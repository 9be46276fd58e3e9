"""Figures add up over restarts."""

import pytest

from camagent.stats import StageClock
from camagent.totals import CameraTotals


def test_pipelines_are_summed() -> None:
    totals = CameraTotals()
    for frames, calls in ((10, 4), (30, 16)):
        clock = StageClock()
        clock.frame_count, clock.detector_calls, clock.runtime_cpu_s = frames, calls, 0.1
        clock._cpu_s |= {"track": 0.02, "detect": 0.05}
        totals += clock.snapshot(
            is_online=True,
            is_finished=False,
            reconnects=1,
            dropped_frames=2,
            undecodable_packets=0,
            source_thread_cpu_s=0.0,
        )
    assert (totals.frame_count, totals.detector_calls) == (40, 20)
    assert (totals.reconnects, totals.dropped_frames) == (2, 4)
    assert totals.cpu_ms_per_frame == pytest.approx(1000 * 0.04 / 40)
    assert totals.detector_cpu_ms == pytest.approx(1000 * (0.1 + 0.2) / 20)


def test_no_calls_cost_nothing() -> None:
    assert CameraTotals().detector_cpu_ms == 0.0
    assert CameraTotals().cpu_ms_per_frame == 0.0
