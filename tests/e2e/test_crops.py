"""A picture of who crossed, from a real camera through a real cloud to an application; or none."""

import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from camsdk.cli.demo.clip import cut_clip
from camsdk.client import EventRecord
from camsdk.errors import NotFound
from support.stack import FLEET, Stack, eventually

RULES = """\
version: 1
cameras:
  "*":
    lines:
      - {name: asked, from: [0.677, 0.26], to: [0.677, 0.79], in: right, crops: true}
      - {name: silent, from: [0.677, 0.26], to: [0.677, 0.79], in: right}
"""
SECONDS = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def decoded(jpeg: bytes) -> np.ndarray:
    """RGB of a JPEG, uint8 (height, width, 3)."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def pictures(clip: Path) -> list[np.ndarray]:
    """All frames of a clip as RGB."""
    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def difference(crop: np.ndarray, frame: np.ndarray, event: EventRecord) -> float:
    """Mean difference between a crop and the same part of a frame, grey levels."""
    left, top, right, bottom = event.xyxy
    margin = 0.1 * max(right - left, bottom - top)
    first = np.maximum(np.floor([left - margin, top - margin]).astype(int) // 2 * 2, 0)
    part = frame[first[1] : first[1] + crop.shape[0], first[0] : first[0] + crop.shape[1]]
    assert part.shape == crop.shape
    return float(np.abs(part.astype(int) - crop).mean())


def test_a_crop_comes_with_an_event_only_where_a_rule_asks(tmp_path, vtest_path, int8_detector):
    clip = cut_clip(vtest_path, tmp_path / "clip.avi", SECONDS)
    with Stack(tmp_path) as stack:
        stack.client.create_fleet(FLEET)
        stack.client.apply_rules(FLEET, RULES)
        model = stack.push(*int8_detector)
        stack.enrol("gate")
        agent = stack.start_agent("gate", clip)
        stack.wait_connected("gate")
        stack.client.deploy(model.reference, fleet=FLEET).wait(timeout_s=90)
        agent.wait(90)
        eventually(lambda: stack.client.status().bus_depth == 0, 30, "analysis")

        events = stack.client.list_events(fleet=FLEET).events
        asked = [event for event in events if event.rule == "asked"]
        silent = [event for event in events if event.rule == "silent"]
        assert len(asked) == len(silent) >= 1
        for event in silent:
            with pytest.raises(NotFound, match="has no crop"):
                stack.client.event_crop(event)
        frames = pictures(clip)
        total_bytes = 0
        for event in asked:
            jpeg = stack.client.event_crop(event)
            total_bytes += len(jpeg)
            crop = decoded(jpeg)
            print(f"frame {event.frame_index}: {crop.shape}, {len(jpeg)} bytes")
            assert 1_000 < len(jpeg) < 40_000
            assert 40 < crop.shape[0] <= 320
            assert crop.shape[1] < crop.shape[0], "somebody who walks is taller than wide"
            same = difference(crop, frames[event.frame_index], event)
            later = difference(crop, frames[event.frame_index + 3], event)
            print(f"difference to its frame {same:.1f}, to one 0.3 s later {later:.1f}")
            assert same < 5
            assert same < later
        shipped = stack.client.ingest_stats(device="gate").bytes_by_kind["crops"]
        assert total_bytes < shipped < total_bytes + 100 * len(asked)

        path = tmp_path / "crop.jpg"
        words = ["events", "show", asked[0].event_id, "--save-crop", str(path)]
        subprocess.run(
            [sys.executable, "-m", "camsdk.cli.main", *words, "--data", str(stack.data)],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        assert path.read_bytes() == stack.client.event_crop(asked[0])
