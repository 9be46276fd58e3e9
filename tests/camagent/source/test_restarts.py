"""Memory and threads over many openings: what a source takes, it gives back."""

import gc
import threading
from pathlib import Path

import psutil
import pytest

from camagent.config import CameraSettings
from camagent.source import open_source
from support.clips import encode, scene, write_video
from support.rtsp_server import RtspServer

pytestmark = pytest.mark.slow

MIB = 1 << 20


def rss() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def test_a_thousand_openings_of_a_recording_grow_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "scene.mp4", scene(320, 240, 5))
    settings = CameraSettings("cam", str(path), pace="fast", start_time_s=0.0)

    def open_many(count: int) -> None:
        for _ in range(count):
            assert len(list(open_source(settings).frames())) == 5

    open_many(200)
    before = rss()
    open_many(1000)
    assert rss() - before <= 4 * MIB


def test_a_hundred_connections_to_a_camera_grow_nothing() -> None:
    with RtspServer(encode(scene(320, 240, 20), rate_hz=50)) as server:
        settings = CameraSettings("cam", server.url)

        def connect_many(count: int) -> None:
            for _ in range(count):
                frames = open_source(settings).frames()
                assert next(frames).index == 0
                frames.close()

        connect_many(20)
        threads, before = threading.active_count(), rss()
        connect_many(100)
        assert rss() - before <= 4 * MIB
        assert threading.active_count() <= threads + 2


def test_what_is_held_pins_its_own_buffer_only(tmp_path: Path) -> None:
    """Zero-copy planes: holding ten pictures of a long clip costs ten pictures."""
    path = write_video(tmp_path / "long.mp4", scene(1280, 720, 200))
    settings = CameraSettings("cam", str(path), pace="fast", start_time_s=0.0)
    for _ in open_source(settings).frames():
        pass
    before = rss()
    held = [frame for frame in open_source(settings).frames() if frame.index % 20 == 0]
    picture = 1280 * 720 * 3 // 2
    assert len(held) == 10
    assert rss() - before <= 10 * picture + 12 * MIB
