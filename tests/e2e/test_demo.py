"""``camctl demo --fast --json``: one object with every figure that was promised, all in bounds."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

COUNTED = yaml.safe_load(
    (Path(__file__).parents[1] / "golden" / "vtest_crossings.yaml").read_text()
)["totals"]
FLOAT_DETECTOR_MS = 14.6
"""CPU time of an inference in float where the promises were measured (benchmarks/detector.py)."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def played(
    vtest_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    """The whole clip, as a user plays it, with a short part at real pace."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "camsdk.cli.main", "demo", "--fast", "--json"]
    return subprocess.run(
        [*command, "--out", str(out), "--video", str(vtest_path), "--live-seconds", "15"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def figures(played: subprocess.CompletedProcess[str]) -> Mapping[str, Any]:
    assert played.returncode == 0, played.stderr[-2000:]
    values: Mapping[str, Any] = json.loads(played.stdout)  # one object and nothing beside it
    return values


def test_the_clip_was_counted_as_by_hand(figures: Mapping[str, Any]) -> None:
    assert figures["frames"] == 795
    entries = figures["entries"]
    assert abs(sum(entries.values()) - COUNTED["all"]) <= 1
    assert figures["events_by_kind"]["line_crossed"] == sum(entries.values())
    assert figures["events_by_kind"]["out_of_bounds"] > 0
    assert figures["reconnects"] == 0


def test_it_costs_what_was_promised(figures: Mapping[str, Any]) -> None:
    """Time was promised on one machine; a slower one has more, by the float detector's own time."""
    assert 0 < figures["detector_calls_per_frame"] <= 1.2
    without = figures["cpu_ms_per_frame_without_detector"]
    slowness = figures["model"]["metrics"]["reference_cpu_ms"] / FLOAT_DETECTOR_MS
    assert 0 < without <= 2.5 * max(1.0, slowness)
    assert figures["cpu_ms_per_frame_with_detector"] > without + 1.0
    memory = figures["memory"]
    assert 0 < memory["idle_mib"] * 2**20 <= 120e6
    assert 0 < memory["peak_model_mib"] < memory["peak_mib"]
    assert memory["peak_mib"] * 2**20 <= 250e6


def test_it_ships_what_was_promised(figures: Mapping[str, Any]) -> None:
    shipped, h264 = figures["bytes_by_kind"], figures["h264"]
    assert (h264["crf"], h264["frame_count"]) == (23, figures["frames"])
    small = shipped["tracks"] + shipped["embeddings"] + shipped["envelope"]
    assert figures["ratio_to_h264"] == round(h264["size_bytes"] / small, 1) >= 170
    everything = sum(shipped.values())
    assert figures["ratio_to_h264_all"] == round(h264["size_bytes"] / everything, 1)
    assert shipped["crops"] == 0  # its rules ask for none


def test_events_reach_a_subscriber_in_time(figures: Mapping[str, Any]) -> None:
    latency = figures["latency"]
    assert latency["event_count"] >= 3
    assert 0 < latency["p50_ms"] <= latency["p95_ms"] <= 250


def test_every_device_runs_the_deployed_model(figures: Mapping[str, Any]) -> None:
    digest = figures["model"]["digest"]
    assert figures["model_digest_by_device"] == {"gate-1": digest, "gate-2": digest}
    assert figures["rollout"]["state"] == "completed"
    assert figures["rollout"]["executions"] == {"gate-1": "succeeded"}
    assert {hit["camera_id"] for hit in figures["search"]["hits"]} == {"gate-1", "gate-2"}


def test_the_sheet_is_a_picture(figures: Mapping[str, Any]) -> None:
    sheet = Path(figures["contact_sheet"]).read_bytes()
    assert sheet.startswith(b"\x89PNG\r\n")
    assert len(sheet) > 10_000
