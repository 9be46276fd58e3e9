"""Synthetic walkers with exact ground truth: what a detector would say of a scene that is known.

Walkers go straight at constant speed over a ground seen from above and in front: farther up in the
picture is farther away and smaller. A walker hidden by a nearer one gets a low score, then no box.
Boxes jitter, some are missed, some are false. All from one seed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camsdk.vision.geometry import box_areas, intersections
from camsdk.vision.results import Detections

WIDTH, HEIGHT = 1280, 720


@dataclass(frozen=True, eq=False)
class Scene:
    """Detections of every frame, and whose they are.

    Attributes:
        fps: Frames per second.
        detections: One a frame.
        walker_ids: For each frame int64 (n,), aligned with its detections; -1 for a false box.
    """

    fps: float
    detections: tuple[Detections, ...]
    walker_ids: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class SceneSettings:
    """What happens in a scene."""

    walkers: int = 8
    seconds: float = 20.0
    fps: float = 10.0
    jitter_px: float = 1.5
    missed: float = 0.03
    false_boxes: float = 0.1
    seed: int = 0


def walking(settings: SceneSettings) -> Scene:
    """Render a scene as detections."""
    rng = np.random.default_rng(settings.seed)
    feet, velocity, start_s = _walkers(settings, rng)
    detections, walker_ids = [], []
    for index in range(int(settings.seconds * settings.fps)):
        time_s = index / settings.fps
        here = feet + velocity * (time_s - start_s)[:, None]
        boxes = _boxes(here)
        is_in = (boxes[:, 2] > 0) & (boxes[:, 0] < WIDTH) & (time_s >= start_s)
        ids = np.flatnonzero(is_in)
        found, found_ids = _seen(boxes[ids], ids, settings, rng)
        detections.append(found)
        walker_ids.append(found_ids)
    return Scene(settings.fps, tuple(detections), tuple(walker_ids))


def _walkers(
    settings: SceneSettings, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    count = settings.walkers
    is_rightward = rng.random(count) < 0.5
    feet = np.stack((np.where(is_rightward, 0.0, WIDTH), rng.uniform(250, 700, count)), axis=1)
    speed = rng.uniform(60, 140, count) * np.where(is_rightward, 1, -1)
    velocity = np.stack((speed, rng.uniform(-6, 6, count)), axis=1)
    start_s = rng.uniform(-8.0, settings.seconds * 0.6, count)
    return feet, velocity, start_s


def _boxes(feet: NDArray[np.float64]) -> NDArray[np.float64]:
    height = 40.0 + 0.15 * feet[:, 1]
    half = 0.2 * height
    return np.stack((feet[:, 0] - half, feet[:, 1] - height, feet[:, 0] + half, feet[:, 1]), axis=1)


def _seen(
    boxes: NDArray[np.float64],
    ids: NDArray[np.int64],
    settings: SceneSettings,
    rng: np.random.Generator,
) -> tuple[Detections, NDArray[np.int64]]:
    is_nearer = boxes[None, :, 3] > boxes[:, None, 3]
    shared = np.where(is_nearer, intersections(boxes, boxes), 0.0).max(axis=1, initial=0.0)
    hidden = shared / box_areas(boxes) if len(boxes) else shared
    scores = 0.85 - 0.7 * np.clip(hidden - 0.2, 0.0, 1.0) + rng.normal(0, 0.03, len(boxes))
    keep = (hidden < 0.7) & (rng.random(len(boxes)) >= settings.missed)
    noisy = boxes + rng.normal(0, settings.jitter_px, boxes.shape)
    false_count = rng.poisson(settings.false_boxes)
    corner = np.stack(
        (rng.uniform(0, WIDTH - 60, false_count), rng.uniform(200, HEIGHT - 120, false_count)),
        axis=1,
    )
    false_boxes = np.hstack((corner, corner + np.array([40.0, 100.0])))
    found = Detections(
        np.concatenate((noisy[keep], false_boxes)).astype(np.float32),
        np.clip(
            np.concatenate((scores[keep], rng.uniform(0.3, 0.75, false_count))), 0.0, 1.0
        ).astype(np.float32),
        np.zeros(int(keep.sum()) + false_count, np.int64),
    )
    return found, np.concatenate((ids[keep], np.full(false_count, -1)))
