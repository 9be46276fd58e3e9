"""Memory and threads over many openings: what a source takes, it gives back."""

from pathlib import Path

import pytest

from support import openings
from support.clips import encode, scene, write_video
from support.openings import in_fresh_process
from support.rtsp_server import RtspServer

pytestmark = pytest.mark.slow

MIB = 1 << 20


def test_a_thousand_openings_of_a_recording_grow_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "scene.mp4", scene(320, 240, 5))
    assert in_fresh_process(openings.grown_by_reading, str(path), 200, 1000) <= 4 * MIB


def test_a_hundred_connections_to_a_camera_grow_nothing() -> None:
    with RtspServer(encode(scene(320, 240, 20), rate_hz=50)) as server:
        grown, threads = in_fresh_process(openings.grown_by_connecting, server.url, 20, 100)
    assert grown <= 4 * MIB
    assert threads <= 2


def test_what_is_held_pins_its_own_buffer_only(tmp_path: Path) -> None:
    """Zero-copy planes: holding ten pictures of a long clip costs ten pictures."""
    path = write_video(tmp_path / "long.mp4", scene(1280, 720, 200))
    held, taken = in_fresh_process(openings.taken_by_holding, str(path), 20)
    assert held == 10
    assert taken <= 10 * (1280 * 720 * 3 // 2) + 12 * MIB
