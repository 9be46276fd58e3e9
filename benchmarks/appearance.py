"""How well the appearance codes tell people apart on vtest.avi, against guessing, and their cost.

    python benchmarks/appearance.py [--json]

Every sixth frame gives one code for each track that is seen well. Each code looks for the most
alike code of another time; rank-1 is how often that is one of its own track. "Guess" is the share
that a blind choice would hit. Somebody who comes back under another track counts as a mistake, so
the figure is a lower bound. The tracks are those of the detections in the tracker's golden file;
the clip is an asset (``camctl assets pull vtest.avi``).
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from camagent.features import Features, FeatureSettings
from camagent.track import ByteTracker
from camsdk import assets
from camsdk.compress.clips import read_frames
from camsdk.vision.appearance import METHOD, similarity
from camsdk.vision.frames import Frame
from support import golden_tracks

EVERY = 6
GAPS_FRAMES = (24, 96)


@dataclass(frozen=True)
class Row:
    """Retrieval at one distance in time."""

    method: str
    gap_s: float
    queries: int
    rank1: float
    guess: float


@dataclass(frozen=True, eq=False)
class Codes:
    """All codes: frames (n,), track ids (n,), int8 codes (n, d), and the CPU ms of one."""

    frames: NDArray[np.int64]
    track_id: NDArray[np.int64]
    codes: NDArray[np.int8]
    cpu_ms: float


def collect() -> Codes:
    """Codes of the clip, by the stage that the agent runs, told to send every look."""
    scene = golden_tracks.load()[golden_tracks.REAL]
    track = ByteTracker()
    step_s = EVERY / scene.fps
    features = Features(FeatureSettings(refresh_s=step_s, look_s=step_s, birth_wait_s=1e9))
    frames, ids, codes, spent_s = [], [], [], 0.0
    clip = read_frames(assets.pull("vtest.avi"), range(len(scene.detections)))
    for index, (frame, found) in enumerate(zip(clip, scene.detections, strict=True)):
        tracks = track(found, index / scene.fps)
        if index % EVERY:
            continue
        timed = Frame(index, index / scene.fps, frame.y, frame.u, frame.v)
        started_s = time.process_time()
        seen = features(timed, tracks)
        spent_s += time.process_time() - started_s
        frames += [index] * len(seen)
        ids += seen.track_id.tolist()
        codes += list(seen.codes)
    count = len(codes)
    return Codes(np.array(frames), np.array(ids), np.stack(codes), 1000.0 * spent_s / count)


def measure(codes: Codes, gap_frames: int, fps: float = 10.0) -> Row:
    """Rank-1 among codes at least so far away in time."""
    hits, chances = [], []
    for index in range(len(codes.codes)):
        far = np.flatnonzero(np.abs(codes.frames - codes.frames[index]) >= gap_frames)
        own = codes.track_id[far] == codes.track_id[index]
        if not own.any():
            continue
        alike = similarity(codes.codes[far], codes.codes[index])
        hits.append(bool(own[np.argmax(alike)]))
        chances.append(float(own.mean()))
    return Row(METHOD, gap_frames / fps, len(hits), float(np.mean(hits)), float(np.mean(chances)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args()
    codes = collect()
    rows = [measure(codes, gap) for gap in GAPS_FRAMES]
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "cpu_ms": codes.cpu_ms}))
        return
    print("method           apart s  queries  rank-1   guess  ratio")
    for row in rows:
        print(
            f"{row.method:16s} {row.gap_s:7.1f}  {row.queries:7d}  {row.rank1:6.3f}  "
            f"{row.guess:6.3f} {row.rank1 / row.guess:6.1f}"
        )
    print(f"CPU ms a code, crop included: {codes.cpu_ms:.3f}")


if __name__ == "__main__":
    main()
