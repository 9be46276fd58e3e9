"""Our ByteTrack against the one of the PyPI package ``trackers`` (Roboflow, Apache-2.0).

    python benchmarks/tracker_oracle.py [--refresh] [--env DIR] [--json]

The package needs the full opencv-python, which clashes with the headless one that the agent uses,
so it gets an environment of its own: the first run makes one in the user's cache folder and
installs pinned versions into it (about 660 MB on disk, at most ten minutes); later runs reuse it.
Nothing else is installed or changed.

Both trackers get the same detections and thresholds. Printed for each scene: ``links``, the share
of the oracle's steps from one detection to the next that ours takes too; ``IDF1`` of the two, which
a single swap of two long tracks halves; where the truth is known, IDF1 of each against it; CPU time
per frame of each and the ratio. They do not agree wholly by design: the oracle filters corners
(x1, y1, x2, y2), ours centre, aspect and height as the paper's authors do, and the oracle lets a
doubtful box continue a track at the overlap that a certain one needs, where ours asks for more.

``--refresh`` also writes ``tests/golden/tracker_oracle.npz``: synthetic scenes from fixed seeds,
and persons that NanoDet-g (float) sees in vtest.avi, with the oracle's ids. It needs the assets
``vtest.avi``, ``nanodet.json`` and ``nanodet.bin``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import platformdirs

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from camagent.track import ByteTracker, TrackerSettings
from camsdk.vision.results import Detections
from support import golden_tracks
from support.golden_tracks import GoldenScene, Labels
from support.mot import compare, label
from support.scenes import SceneSettings, walking

PINS = ("trackers==2.6.1", "supervision==0.31.2", "opencv-python==5.0.0.93")
WORKER = Path(__file__).parent / "oracle" / "run_trackers.py"
INSTALL_TIMEOUT_S = 600
RUN_TIMEOUT_S = 120
LOWEST_SCORE = 0.2
SYNTHETIC = {
    "walkers-08": SceneSettings(walkers=8, seed=0),
    "walkers-20": SceneSettings(walkers=20, seed=2),
    "walkers-60": SceneSettings(walkers=60, seed=4),
    "hard-60": SceneSettings(walkers=60, fps=5.0, jitter_px=4.0, missed=0.2, seed=9),
}


@dataclass(frozen=True)
class Row:
    """Figures of one scene; ``None`` where nobody knows the truth."""

    scene: str
    frames: int
    boxes_per_frame: float
    links: float
    idf1: float
    ours_against_truth: float | None
    oracle_against_truth: float | None
    ours_ms: float
    oracle_ms: float
    ratio: float


def environment(folder: Path) -> Path:
    """The interpreter of the oracle's environment, made if there is none.

    Raises:
        SystemExit: The packages cannot be had.
    """
    python = folder / "bin" / "python"
    done = folder / "installed.txt"
    if done.exists() and done.read_text() == "\n".join(PINS):
        return python
    print(f"installing {', '.join(PINS)} into {folder} (once, some minutes) ...", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *PINS]
    try:
        subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise SystemExit(
            f"the oracle cannot be installed: {error}\n"
            "tests/camagent/test_track_oracle.py compares with what it said before, without it"
        ) from error
    done.write_text("\n".join(PINS))
    return python


def oracle(
    python: Path, detections: list[Detections], fps: float, settings: TrackerSettings
) -> tuple[Labels, float]:
    """Ids that the oracle gives, and its CPU ms per frame."""
    offsets = np.cumsum([0, *(len(found) for found in detections)])
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(
            source,
            offsets=offsets,
            xyxy=np.concatenate([found.xyxy for found in detections]),
            scores=np.concatenate([found.scores for found in detections]),
            fps=fps,
            high=settings.high_score,
            new=settings.new_score,
            min_iou=settings.min_iou,
        )
        command = [str(python), str(WORKER), str(source), str(target)]
        subprocess.run(command, check=True, timeout=RUN_TIMEOUT_S)
        with np.load(target) as said:
            return np.split(said["ids"], offsets[1:-1]), float(said["cpu_ms"])


def ours(
    detections: list[Detections], fps: float, settings: TrackerSettings
) -> tuple[Labels, float]:
    """Ids that our tracker gives, and its CPU ms per frame, best of three."""
    runs_ms = []
    for _ in range(3):
        track = ByteTracker(settings)
        started_s = time.process_time()
        shown = [track(found, index / fps) for index, found in enumerate(detections)]
        runs_ms.append((time.process_time() - started_s) * 1000.0 / len(detections))
    labels = [label(found, tracks) for found, tracks in zip(detections, shown, strict=True)]
    return labels, min(runs_ms)


def measure(name: str, scene: GoldenScene, oracle_ms: float, settings: TrackerSettings) -> Row:
    """Compare on one scene."""
    labels, ours_ms = ours(scene.detections, scene.fps, settings)
    agreement = compare(scene.oracle, labels)
    truth = scene.truth
    return Row(
        name,
        len(scene.detections),
        sum(map(len, scene.detections)) / len(scene.detections),
        agreement.links,
        agreement.idf1,
        compare(truth, labels).idf1 if truth else None,
        compare(truth, scene.oracle).idf1 if truth else None,
        ours_ms,
        oracle_ms,
        ours_ms / oracle_ms,
    )


def make_scenes() -> dict[str, tuple[list[Detections], Labels | None, float]]:
    """Detections, truth and frame rate of every scene, made anew."""
    made: dict[str, tuple[list[Detections], Labels | None, float]] = {}
    for name, settings in SYNTHETIC.items():
        scene = walking(settings)
        found = [golden_tracks.rounded(one) for one in scene.detections]
        made[name] = (found, list(scene.walker_ids), scene.fps)
    made[golden_tracks.REAL] = (_persons_of_the_clip(), None, 10.0)
    return made


def _persons_of_the_clip() -> list[Detections]:
    """What NanoDet-g in float sees of persons in every frame of vtest.avi."""
    from camsdk import assets
    from camsdk.artifact.decode import decode
    from camsdk.artifact.preprocess import make_input
    from camsdk.compress.clips import count_frames, read_frames
    from camsdk.compress.nanodet import import_float
    from camsdk.compress.sessions import Session

    draft = import_float(assets.pull("nanodet.json"), assets.pull("nanodet.bin"))
    session, person = Session(draft.model), draft.manifest.classes.index("person")
    clip = assets.pull("vtest.avi")
    persons = []
    for frame in read_frames(clip, range(count_frames(clip))):
        outputs = session.infer(make_input(frame, draft.manifest.input))
        found = decode(outputs, draft.manifest, frame.width, frame.height)
        wanted = (found.class_ids == person) & (found.scores >= LOWEST_SCORE)
        persons.append(golden_tracks.rounded(found[wanted]))
    return persons


def main() -> None:
    """Run all scenes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--refresh", action="store_true", help="rewrite the golden file")
    parser.add_argument("--json", action="store_true", help="print one object")
    default = Path(platformdirs.user_cache_dir("camplatform")) / "tracker-oracle"
    parser.add_argument("--env", type=Path, default=default, help="the oracle's environment")
    options = parser.parse_args()
    python, settings = environment(options.env), TrackerSettings()
    if options.refresh:
        inputs = make_scenes()
    else:
        stored = golden_tracks.load()
        inputs = {name: (one.detections, one.truth, one.fps) for name, one in stored.items()}
    scenes, rows = {}, []
    for name, (detections, truth, fps) in inputs.items():
        ids, oracle_ms = oracle(python, detections, fps, settings)
        scenes[name] = GoldenScene(fps, detections, truth, ids)
        rows.append(measure(name, scenes[name], oracle_ms, settings))
    if options.refresh:
        golden_tracks.save(scenes, f"{' '.join(PINS)}; {settings}")
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        _print_table(rows)


def _print_table(rows: list[Row]) -> None:
    print("scene       frames  boxes/frame   links    IDF1    IDF1 to truth       ms a frame")
    print("                                                  ours   oracle    ours oracle ratio")
    for row in rows:
        truths = (row.ours_against_truth, row.oracle_against_truth)
        known = " ".join("       -" if one is None else f"{one:8.3f}" for one in truths)
        print(
            f"{row.scene:11s} {row.frames:6d}  {row.boxes_per_frame:11.1f}  {row.links:.4f}  "
            f"{row.idf1:.4f} {known} {row.ours_ms:7.3f} {row.oracle_ms:6.3f} {row.ratio:5.2f}"
        )


if __name__ == "__main__":
    main()
