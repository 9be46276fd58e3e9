"""A runtime without a model: its detector sees bright blocks. Deterministic, and fails on order."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camagent.detect import Detector
from camsdk.artifact.manifest import InputSpec, Manifest
from camsdk.errors import RuntimeFailure
from support.artifacts import make_manifest

Tensor = NDArray[Any]

SIDE = 128
"""Pixels of the square input tensor."""


def manifest() -> Manifest:
    """Of the bright-block detector: one 'person' at most, frames stretched to the input."""
    return make_manifest(
        input=InputSpec(
            name="x", width=SIDE, height=SIDE, layout="NHWC", color="RGB", dtype="uint8"
        )
    )


class BlockRuntime:
    """A ``camagent.runtimes.base.Runtime`` that boxes all pixels brighter than ``level``.

    Attributes:
        level: Green of 255.
        calls: Inferences so far.
        active: Inferences under way.
        is_broken: Whether inferences raise ``RuntimeFailure``.
        is_closed: Whether ``close`` has been called.
        used_after_close: Whether it was then used all the same.
    """

    def __init__(self, level: int = 180, delay_s: float = 0.0) -> None:
        self.calls = 0
        self.active = 0
        self.is_broken = False
        self.is_closed = False
        self.used_after_close = False
        self.level = level
        self._delay_s = delay_s

    def infer(self, tensor: Tensor) -> dict[str, Tensor]:
        """Boxes, scores and class ids of one input of shape (1, SIDE, SIDE, 3)."""
        self.calls += 1
        self.active += 1
        time.sleep(self._delay_s)
        self.used_after_close |= self.is_closed
        self.active -= 1
        if self.is_broken:
            raise RuntimeFailure("the model failed on order")
        rows, columns = np.nonzero(tensor[0, :, :, 1] > self.level)
        box = np.zeros((1, 0, 4), np.float32)
        if rows.size:
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            box = np.array([[edges]], np.float32)
        count = box.shape[1]
        return {
            "boxes": box,
            "scores": np.full((1, count), 0.9, np.float32),
            "classes": np.zeros((1, count), np.float32),
        }

    @property
    def cpu_time_s(self) -> float:
        """A millisecond a call."""
        return self.calls * 1e-3

    @property
    def rss_bytes(self) -> int:
        """Nothing beside this process."""
        return 0

    def close(self) -> None:
        """Remember it."""
        self.is_closed = True


def block_detector(runtime: BlockRuntime | None = None, digest: str = "d" * 64) -> Detector:
    """A detector of bright blocks."""
    return Detector(manifest(), runtime or BlockRuntime(), digest)
