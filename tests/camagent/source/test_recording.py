"""Recordings: identical replays, pace, typed errors, planes that stay valid."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from camagent.config import CameraSettings
from camagent.source import open_source
from camsdk.errors import SourceError
from support.clips import scene, still, write_video


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    return write_video(folder / "scene.mp4", scene(162, 122, 30), rate_hz=10)


def settings(path: Path, **changes: Any) -> CameraSettings:
    fields: dict[str, Any] = {"pace": "fast", "start_time_s": 1000.0}
    return CameraSettings("cam", str(path), **(fields | changes))


def test_gives_every_frame_in_order_with_its_time(clip_path: Path) -> None:
    source = open_source(settings(clip_path))
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(30))
    assert np.allclose([f.timestamp_s for f in frames], 1000.0 + 0.1 * np.arange(30))
    assert frames[0].is_keyframe
    assert source.is_recording
    assert source.is_finished
    assert source.dropped_frames == 0
    assert not any(frame.is_corrupt for frame in frames)


def test_the_sessions_start_goes_before_the_settings(clip_path: Path) -> None:
    source = open_source(settings(clip_path), start_s=5.0)
    assert next(iter(source.frames())).timestamp_s == 5.0


def test_without_a_start_it_is_the_wall_clock(clip_path: Path) -> None:
    source = open_source(settings(clip_path, start_time_s=None), wall_clock=lambda: 77.0)
    assert next(iter(source.frames())).timestamp_s == 77.0


def test_planes_match_a_decode_with_copies_and_outlive_the_source(clip_path: Path) -> None:
    """All frames are held, the source is closed, and other clips are decoded in between."""
    source = open_source(settings(clip_path))
    frames = list(source.frames())
    source.close()
    for _ in range(3):
        for other in open_source(settings(clip_path)).frames():
            assert other.y.any()
    with av.open(str(clip_path)) as container:
        for frame, reference in zip(frames, container.decode(video=0), strict=True):
            planes = reference.to_ndarray(format="yuv420p")
            assert np.array_equal(frame.y, planes[:122])
            chroma = np.concatenate((frame.u.ravel(), frame.v.ravel()))
            assert np.array_equal(chroma, planes[122:].ravel())


def test_planes_are_views_that_nobody_can_write_to(clip_path: Path) -> None:
    frame = next(iter(open_source(settings(clip_path)).frames()))
    for plane in (frame.y, frame.u, frame.v):
        assert plane.base is not None
        with pytest.raises(ValueError, match="read-only"):
            plane[0, 0] = 1


def test_real_pace_takes_real_time_and_drops_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", still(64, 48, 11), rate_hz=20)
    started_s = time.monotonic()
    frames = list(open_source(settings(path, pace="realtime")).frames())
    took_s = time.monotonic() - started_s
    assert len(frames) == 11
    assert 0.5 <= took_s < 2.0


def test_stop_ends_it_without_finishing(clip_path: Path) -> None:
    source, stop = open_source(settings(clip_path)), threading.Event()
    frames = source.frames(stop)
    next(frames)
    stop.set()
    assert list(frames) == []
    assert not source.is_finished


def test_close_from_another_thread_ends_a_wait_for_the_next_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slow.mp4", still(64, 48, 3), rate_hz=1)
    source = open_source(settings(path, pace="realtime"))
    timer = threading.Timer(0.1, source.close)
    timer.start()
    started_s = time.monotonic()
    assert len(list(source.frames())) == 1
    assert time.monotonic() - started_s < 0.9
    timer.join()


def test_is_read_once(clip_path: Path) -> None:
    source = open_source(settings(clip_path))
    assert len(list(source.frames())) == 30
    with pytest.raises(SourceError, match="open it again"):
        next(source.frames())


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no recording"):
        open_source(settings(tmp_path / "none.avi"))


def test_a_folder_a_pipe_and_a_device_are_no_recordings(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(SourceError, match="there is no recording"):
            open_source(settings(path))


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(write_video(tmp_path / "whole.mp4", still(64, 48, 5)).read_bytes()[:200])
    with pytest.raises(SourceError, match="no video that can be read"):
        open_source(settings(path))


@pytest.mark.parametrize("content", [b"", b"hello, I am a text\n" * 50, bytes(range(256)) * 64])
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="no video that can be read"):
        open_source(settings(path))


@pytest.mark.parametrize(
    "playlist",
    [
        b"ffconcat version 1.0\nfile scene.mp4\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nscene.mp4\n#EXT-X-ENDLIST\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    ],
)
def test_a_playlist_opens_no_other_file(clip_path: Path, playlist: bytes) -> None:
    path = clip_path.parent / "list.mp4"
    path.write_bytes(playlist)
    with pytest.raises(SourceError):
        open_source(settings(path))


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="no video"):
        open_source(settings(path))


def test_other_pixel_formats_become_planar_limited_range(tmp_path: Path) -> None:
    path = tmp_path / "jpeg.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj422p"
        white = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255, np.uint8), format="rgb24")
        container.mux(stream.encode(white.reformat(format="yuvj422p", dst_color_range="JPEG")))
        container.mux(stream.encode(None))
    frame = next(iter(open_source(settings(path)).frames()))
    assert frame.u.shape == (24, 32)
    assert not frame.is_full_range
    assert abs(int(frame.y.mean()) - 235) <= 2


def test_full_range_is_told(tmp_path: Path) -> None:
    path = tmp_path / "jpeg.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        white = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255, np.uint8), format="rgb24")
        container.mux(stream.encode(white.reformat(format="yuvj420p", dst_color_range="JPEG")))
        container.mux(stream.encode(None))
    frame = next(iter(open_source(settings(path)).frames()))
    assert frame.is_full_range
    assert int(frame.y.mean()) >= 253
