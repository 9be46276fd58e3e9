"""What a process has taken after many openings of a source; each runs in a process of its own.

A process that has run a thousand tests holds threads and caches that grow when they like: what is
measured there is not the source.
"""

import gc
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import psutil

from camagent.config import CameraSettings
from camagent.source import open_source
from camsdk.errors import SourceError

T = TypeVar("T")


def in_fresh_process(measure: Callable[..., T], *arguments: object) -> T:
    """What ``measure`` returns in a process that has done nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def grown_by_reading(path: str, warm_up: int, count: int) -> int:
    """Bytes that ``count`` readings of a clip to its end leave behind after those to warm up."""
    settings = CameraSettings("cam", path, pace="fast", start_time_s=0.0)

    def read(times: int) -> None:
        for _ in range(times):
            assert len(list(open_source(settings).frames())) == 5

    read(warm_up)
    before = _rss()
    read(count)
    return _rss() - before


def grown_by_connecting(url: str, warm_up: int, count: int) -> tuple[int, int]:
    """Bytes and threads that ``count`` connections to a camera leave behind."""
    settings = CameraSettings("cam", url)

    def connect(times: int) -> None:
        for _ in range(times):
            frames = open_source(settings).frames()
            assert next(frames).index == 0
            frames.close()

    connect(warm_up)
    threads, before = threading.active_count(), _rss()
    connect(count)
    return _rss() - before, threading.active_count() - threads


def taken_by_holding(path: str, every: int) -> tuple[int, int]:
    """Pictures that were held, one in ``every``, and the bytes that they took."""
    settings = CameraSettings("cam", path, pace="fast", start_time_s=0.0)
    for _ in open_source(settings).frames():
        pass
    before = _rss()
    held = [frame for frame in open_source(settings).frames() if frame.index % every == 0]
    return len(held), _rss() - before


def taken_by_refusing(good: str, path: str) -> tuple[str, int]:
    """Why a clip is refused, and what the most of memory rose by after a good one was read."""
    list(open_source(CameraSettings("cam", good, pace="fast")).frames())
    before = _most()
    try:
        list(open_source(CameraSettings("cam", path, pace="fast")).frames())
    except SourceError as error:
        return str(error), _most() - before
    raise AssertionError(f"{path} is not refused")


def _most() -> int:
    """Most that was resident so far; ``getrusage`` counts what was before this program, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _rss() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss
