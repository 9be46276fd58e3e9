"""Training a detector to few bits, ours against the peers: same frames, steps, loss and judge.

    python benchmarks/detection.py [--rows NAME ...] [--methods NAME ...] [--frames N] [--epochs E]
        [--rate R] [--batch N] [--size WIDTH HEIGHT] [--seeds N] [--out FOLDER] [--list]

NanoDet-g on ``vtest.avi``: frames of the first third to train on, the float detector's outputs as
what is to be learned, 50 frames of the second half to judge on, by average precision against the
float detector's boxes (``peers/detector.py``, ``peers/detector_training.py``). A cell has the
points lost over all classes, with persons in brackets; lower is better, 100 is all.

One job at a time. A job that is stopped goes on from its checkpoint, and finished ones are kept in
``--out`` under a digest of the code that made them.

All train at one learning rate, ``--rate``, whose default is that of ours, the peers by SGD as
published and once more with the optimizers of ours. No other rate was searched for on behalf of LSQ
and of magnitude pruning with LSQ: better ones may exist, so what is told here is who is ahead at
that rate, not what the peers can reach.

Brevitas is not among them: its environment would need this package with all that it imports, since
the network is built from the ONNX graph.
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

# the folder of this script is no package
from peers import detector, detector_training, environments  # noqa: E402
from peers.detector_training import METHODS, Course  # noqa: E402
from peers.recipe import Row  # noqa: E402

from camsdk.compress.options import TrainOptions  # noqa: E402

ROWS = (
    Row("W4A8", 4, 8),
    Row("W3A8", 3, 8),
    Row("S50W4A8", 4, 8, 0.5),
    Row("S80W4A8", 4, 8, 0.8),
    Row("S90W3A8", 3, 8, 0.9),
)
CODE = (
    "benchmarks/peers/detector_training.py",
    "sdk/camsdk/compress/ptq/quantizing.py",
    "sdk/camsdk/compress/training/compressing.py",
)
JUDGING = ("decode.py", "manifest.py", "preprocess.py")
"""Of ``camsdk.artifact``: what turns frames into inputs and outputs into boxes."""


@dataclass(frozen=True)
class Job:
    """One training."""

    row: Row
    method: str
    seed: int


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Row by row; what prunes only where something is to go, what does not only elsewhere."""
    return [
        Job(row, method, seed)
        for seed in range(arguments.seeds)
        for row in ROWS
        if row.name in arguments.rows
        for method in METHODS
        if method in arguments.methods
        and (method in ("rounding", "ours") or method.startswith("magnitude") == bool(row.sparsity))
    ]


@cache
def digest() -> str:
    """Of the code that decides a result; not of how artifacts are stored."""
    files = environments.imported(environments.ROOT / name for name in CODE)
    return environments.digest(
        file for file in files if "artifact" not in file.parts or file.name in JUDGING
    )


def run(job: Job, arguments: argparse.Namespace) -> dict[str, float]:
    """The job's figures, from an earlier run of the same code or from a new one."""
    width, height = arguments.size
    frames, epochs = arguments.frames, arguments.epochs
    folder = arguments.out / f"nanodet-{width}x{height}-{frames}-{digest()}"
    if not (folder / "float.npz").is_file():
        detector.make(folder, size=(width, height), calibration=frames)
    told = f"{job.row.name}-{job.method}-{job.seed}"
    if job.method != "rounding":
        told += f"-{epochs:g}-{arguments.batch}-{arguments.rate:g}"
    out = folder / f"{told}.json"
    if not out.is_file():
        print(f"{told} ...", file=sys.stderr, flush=True)
        options = TrainOptions(epochs, arguments.batch, arguments.rate, seed=job.seed)
        work = folder / told
        work.mkdir(exist_ok=True)
        start = time.process_time()
        given = detector_training.outputs(
            job.method, Course(folder, frames, job.row, options, work)
        )
        figures = detector.judge(given, folder)
        figures["cpu_s"] = time.process_time() - start
        out.write_text(json.dumps(figures))
    figures = json.loads(out.read_text())
    print(f"{told}: {figures}", file=sys.stderr, flush=True)
    return figures


def table(results: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    """Markdown: points lost, the least of a row in bold."""
    lines = [f"| row | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    for row in dict.fromkeys(name for name, _ in results):
        drops = {
            method: [of["drop"] for of in results[row, method]]
            for method in METHODS
            if (row, method) in results
        }
        best = min(statistics.mean(values) for values in drops.values())
        shown = []
        for method in METHODS:
            if method not in drops:
                shown.append("")
                continue
            mean = statistics.mean(drops[method])
            text = f"{mean:.1f}"
            if len(drops[method]) > 1:
                text += f" ± {statistics.stdev(drops[method]) / math.sqrt(len(drops[method])):.1f}"
            text = f"**{text}**" if mean == best else text
            persons = statistics.mean(of["persons"] for of in results[row, method])
            shown.append(f"{text} ({persons:.1f})")
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(416, 320))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=environments.CACHE / "detection")
    parser.add_argument("--list", action="store_true", help="show what would run")
    arguments = parser.parse_args()
    wanted = jobs(arguments)
    if arguments.list:
        print("\n".join(f"{job.row.name} {job.method} {job.seed}" for job in wanted))
        return
    torch.set_num_threads(1)
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for job in wanted:
        results.setdefault((job.row.name, job.method), []).append(run(job, arguments))
    print(table(results))


if __name__ == "__main__":
    main()
