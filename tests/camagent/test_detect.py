"""The detector's place: what it gives, how it is swapped, and what is recorded of it."""

import threading
import time

import numpy as np
import pytest

from camagent.detect import Detect, DetectorHealth
from camsdk.errors import InvalidInput, RuntimeFailure
from camsdk.vision.frames import Frame
from support.clips import scene
from support.fake_runtime import BlockRuntime, Tensor, block_detector


@pytest.fixture(scope="module")
def frame() -> Frame:
    picture = next(iter(scene(384, 288, 1)))
    chroma = np.full((144, 192), 128, np.uint8)
    return Frame(0, 0.0, picture[:288], chroma, chroma)


def test_without_a_detector_nothing_is_seen(frame: Frame) -> None:
    detect = Detect()
    assert detect.look(frame) is None
    assert len(detect(frame)) == 0
    assert detect.digest == ""
    assert detect.health() == DetectorHealth()


def test_boxes_are_in_pixels_of_the_frame(frame: Frame) -> None:
    detections = Detect(block_detector())(frame)
    assert len(detections) == 1
    # The block of ``scene`` is 32 x 96 pixels at (0, 96).
    assert np.allclose(detections.xyxy[0], [0, 96, 32, 192], atol=4)


def test_a_look_names_its_artifact_and_its_cost(frame: Frame) -> None:
    look = Detect(block_detector(digest="a" * 64)).look(frame)
    assert look is not None
    assert look.digest == "a" * 64
    assert look.runtime_cpu_s == pytest.approx(1e-3)


def test_health_counts_since_the_swap(frame: Frame) -> None:
    runtime = BlockRuntime(delay_s=0.002)
    detect = Detect(block_detector(runtime))
    for _ in range(3):
        detect.look(frame)
    runtime.is_broken = True
    with pytest.raises(RuntimeFailure):
        detect.look(frame)
    health = detect.health()
    assert (health.calls, health.failures) == (4, 1)
    assert health.median_latency_ms >= 2.0
    assert health.last_failure == "the model failed on order"
    detect.swap(block_detector(digest="b" * 64))
    assert detect.health() == DetectorHealth(digest="b" * 64)


def test_an_input_that_the_model_refuses_is_a_runtime_failure(frame: Frame) -> None:
    class Picky(BlockRuntime):
        def infer(self, tensor: Tensor) -> dict[str, Tensor]:
            raise InvalidInput("another shape is wanted")

    with pytest.raises(RuntimeFailure, match="do not belong together"):
        Detect(block_detector(Picky())).look(frame)


def test_swap_returns_the_old_one_and_none_can_take_its_place(frame: Frame) -> None:
    first, second = block_detector(digest="1" * 64), block_detector(digest="2" * 64)
    detect = Detect()
    assert detect.swap(first) is None
    assert detect.swap(second) is first
    assert detect.digest == "2" * 64
    assert detect.swap(None) is second
    assert detect.look(frame) is None


def test_swap_waits_for_the_look_that_is_under_way(frame: Frame) -> None:
    slow = BlockRuntime(delay_s=0.3)
    detect = Detect(block_detector(slow, digest="1" * 64))
    digests: list[str] = []

    def look() -> None:
        seen = detect.look(frame)
        assert seen is not None
        digests.append(seen.digest)

    looking = threading.Thread(target=look)
    looking.start()
    while not slow.active:
        time.sleep(0.001)
    old = detect.swap(block_detector(digest="2" * 64))
    assert old is not None
    assert old.runtime is slow
    assert slow.active == 0
    old.runtime.close()
    looking.join()
    assert digests == ["1" * 64]
    assert not slow.used_after_close


def test_twenty_swaps_under_four_cameras_lose_no_frame(frame: Frame) -> None:
    """Every frame is seen by exactly one detector, and none runs after it was closed."""
    runtimes = [BlockRuntime(delay_s=0.001) for _ in range(21)]
    detect = Detect(block_detector(runtimes[0]))
    stop = threading.Event()
    seen: list[int] = []

    def camera() -> None:
        count = 0
        while not stop.is_set():
            count += len(detect(frame)) == 1
        seen.append(count)

    cameras = [threading.Thread(target=camera) for _ in range(4)]
    for thread in cameras:
        thread.start()
    for runtime in runtimes[1:]:
        time.sleep(0.01)
        old = detect.swap(block_detector(runtime))
        assert old is not None
        old.runtime.close()
    stop.set()
    for thread in cameras:
        thread.join()
    assert sum(seen) == sum(runtime.calls for runtime in runtimes)
    assert not any(runtime.used_after_close for runtime in runtimes)
    assert all(runtime.calls for runtime in runtimes[:-1])
