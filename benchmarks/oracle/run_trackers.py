"""Runs in the isolated environment: the ``trackers`` package labels detections of an .npz file.

    python run_trackers.py IN.npz OUT.npz

IN: ``offsets`` (frames + 1), ``xyxy``, ``scores``, ``fps``, ``high``, ``new``, ``min_iou``.
OUT: ``ids`` (one a detection, -1 for none), ``cpu_ms`` (of one frame, mean, best of three runs).
"""

import itertools
import sys
import time

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker


def main(source: str, target: str) -> None:
    scene = np.load(source)
    bounds = scene["offsets"]
    runs_ms = []
    for _ in range(3):
        tracker = ByteTrackTracker(
            lost_track_buffer=30,
            frame_rate=float(scene["fps"]),
            track_activation_threshold=float(scene["new"]),
            minimum_consecutive_frames=2,
            minimum_iou_threshold=float(scene["min_iou"]),
            high_conf_det_threshold=float(scene["high"]),
        )
        ids = np.full(len(scene["xyxy"]), -1)
        spent_s = 0.0
        for first, last in itertools.pairwise(bounds):
            rows = np.arange(first, last)
            detections = sv.Detections(
                xyxy=scene["xyxy"][rows], confidence=scene["scores"][rows], class_id=rows
            )
            started_s = time.process_time()
            found = tracker.update(detections)
            spent_s += time.process_time() - started_s
            if len(found):
                # The order is the tracker's own; the class id carries the row through.
                ids[found.class_id] = found.tracker_id
        runs_ms.append(spent_s * 1000.0 / (len(bounds) - 1))
    np.savez(target, ids=ids, cpu_ms=min(runs_ms))


if __name__ == "__main__":
    main(*sys.argv[1:])
