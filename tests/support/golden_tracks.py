"""``tests/golden/tracker_oracle.npz``: detections, and what the oracle tracker made of them.

Numbers only, no pictures. Written by ``benchmarks/tracker_oracle.py --refresh``, which says how.
Boxes are stored in quarter pixels and scores in 1/255, and the oracle sees exactly what is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camsdk.vision.results import Detections

GOLDEN = Path(__file__).parents[1] / "golden"
PATH = GOLDEN / "tracker_oracle.npz"
REAL = "vtest"
"""The scene that comes from the clip; the others are synthetic and have a truth."""

Labels = list[NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class GoldenScene:
    """One sequence.

    Attributes:
        fps: Frames per second; frame i is at i / fps seconds.
        detections: One a frame.
        truth: Whose box each is, a frame an array, -1 for nobody; None where nobody knows.
        oracle: Ids of the oracle, likewise, -1 where it gave none.
    """

    fps: float
    detections: list[Detections]
    truth: Labels | None
    oracle: Labels


def rounded(detections: Detections) -> Detections:
    """As the file can hold them."""
    return Detections(
        (np.rint(detections.xyxy * 4) / 4).astype(np.float32),
        (np.rint(detections.scores * 255) / 255).astype(np.float32),
        np.zeros(len(detections), np.int64),
    )


def save(scenes: Mapping[str, GoldenScene], provenance: str) -> None:
    """Write the golden file."""
    arrays: dict[str, NDArray[np.generic]] = {"provenance": np.array(provenance)}
    for name, scene in scenes.items():
        xyxy = np.concatenate([found.xyxy for found in scene.detections])
        scores = np.concatenate([found.scores for found in scene.detections])
        arrays[f"{name}/fps"] = np.array(scene.fps)
        arrays[f"{name}/counts"] = np.array([len(d) for d in scene.detections], np.uint16)
        arrays[f"{name}/xyxy"] = np.rint(xyxy * 4).astype(np.int16)
        arrays[f"{name}/scores"] = np.rint(scores * 255).astype(np.uint8)
        arrays[f"{name}/oracle"] = np.concatenate(scene.oracle).astype(np.int16)
        if scene.truth is not None:
            arrays[f"{name}/truth"] = np.concatenate(scene.truth).astype(np.int16)
    np.savez_compressed(PATH, **arrays)


def load() -> dict[str, GoldenScene]:
    """Read the golden file."""
    scenes = {}
    with np.load(PATH, allow_pickle=False) as stored:
        for name in sorted({key.partition("/")[0] for key in stored.files if "/" in key}):
            cuts = np.cumsum(stored[f"{name}/counts"].astype(np.int64))[:-1]
            xyxy = np.split(stored[f"{name}/xyxy"].astype(np.float32) / 4, cuts)
            scores = np.split((stored[f"{name}/scores"] / 255).astype(np.float32), cuts)
            detections = [
                Detections(box, score, np.zeros(len(box), np.int64))
                for box, score in zip(xyxy, scores, strict=True)
            ]
            truth_key = f"{name}/truth"
            scenes[name] = GoldenScene(
                float(stored[f"{name}/fps"]),
                detections,
                _labels(stored[truth_key], cuts) if truth_key in stored.files else None,
                _labels(stored[f"{name}/oracle"], cuts),
            )
    return scenes


def _labels(stored: NDArray[np.int16], cuts: NDArray[np.int64]) -> Labels:
    return np.split(stored.astype(np.int64), cuts)
