"""Quantization after training, ours against the peers' own code: same network, inputs and judge.

    python benchmarks/fidelity.py [--tasks NAME ...] [--bits N ...] [--scales NAME ...]
        [--data NAME ...] [--methods NAME ...] [--seeds N] [--minutes M] [--out FOLDER] [--list]

Every contender gets the same float ONNX network and the same calibration inputs, and is used as its
own documentation recommends (``benchmarks/peers/ptq_*.py``). Activations have 8 bits, the first and
the last layer 8-bit weights, in all. Without data ours makes up its inputs; a peer whose
calibration cannot do without any is given noise. A cell is empty where a peer cannot do what the
row asks for.

A cell has two figures, and the lower is the better of each: the distance from the float network
and what is lost in answers, in points. The distance is the Kullback-Leibler divergence of the
softmax in millinats; of the detector it is the squared error of the outputs, in thousandths of
their square. Answers are those on the test set of Fashion-MNIST; on photos (EfficientNet-Lite0) the
agreement with the float network; of the detector (NanoDet-g, ``peers/detector.py``) average
precision against the float network's boxes, all classes, with persons in brackets. Means over
seeds, of the points with their standard error.

Peers run in environments of their own, made in the user's cache folder at the first run. Finished
jobs are kept in ``--out`` under a digest of the code that made them and of the peer's version: a
run goes on where it was stopped, and what has changed is measured anew.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

# the folder of this script is no package
import compression  # noqa: E402
from peers import detector, tasks  # noqa: E402
from peers.environments import (  # noqa: E402
    CACHE,
    ROOT,
    TORCH,
    digest,
    environment,
    imported,
    interpreter,
)
from peers.ptq import Bits  # noqa: E402

from camsdk import assets  # noqa: E402

PINS = {
    "ours": (),
    "onnxruntime": (),
    "nncf": ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0"),
    "aimet": (TORCH, "aimet-onnx==2.42.0"),
    "ppq": (TORCH, "esp-ppq==1.3.12"),
}
"""Contenders and what their environments hold; none runs in this one."""
TASKS = (tasks.PHOTOS, "mobilenetv2-w50", "resnet20", detector.NAME)
UNSEEDED = (tasks.PHOTOS, detector.NAME)
"""Published weights, and inputs that nothing draws: one seed says all."""
DETECTOR_CODE = (
    *(f"benchmarks/peers/{name}.py" for name in ("detector", "heads")),
    *(f"sdk/camsdk/compress/{name}.py" for name in ("clips", "evaluate", "nanodet")),
    *(f"sdk/camsdk/artifact/{name}.py" for name in ("decode", "manifest", "preprocess")),
    "sdk/camsdk/vision/geometry.py",
)
"""What decides its inputs and, since figures are kept and not outputs, how it is judged."""
TIMEOUT_S = 3000


@dataclass(frozen=True)
class Wanted:
    """One cell of one seed."""

    task: str
    seed: int
    bits: Bits
    method: str


def wanted(arguments: argparse.Namespace) -> Iterator[Wanted]:
    """Row by row, so that a run that is stopped early has whole rows."""
    for seed in range(arguments.seeds):
        for task in arguments.tasks:
            if task in UNSEEDED and seed:
                continue
            for weight_bits in arguments.bits:
                for scales in arguments.scales:
                    for data in arguments.data:
                        bits = Bits(weight_bits, scales == "filter", data == "data")
                        for method in arguments.methods:
                            yield Wanted(task, seed, bits, method)


def task_folder(task: str, seed: int, out: Path) -> Path:
    """Its model, inputs and float outputs; made if they are not there."""
    if task == detector.NAME:
        folder = out / f"{task}-{digest(ROOT / name for name in DETECTOR_CODE)}"
        if not (folder / "float.npz").is_file():
            detector.make(folder)
        return folder
    code = [FOLDER / "peers" / f"{name}.py" for name in ("tasks", "photos", "efficientnet_lite")]
    state = _state(task, seed)
    folder = out / f"{task}-{seed}-{digest([*code, state])}"
    if not (folder / "float.npy").is_file():
        tasks.make(task, seed, state, folder)
    return folder


def _state(task: str, seed: int) -> Path:
    """Any float network of that name and seed will do: what is made of it has its digest."""
    if task == tasks.PHOTOS:
        return assets.pull("efficientnet-lite0.pth")
    states = CACHE / "compression"
    states.mkdir(parents=True, exist_ok=True)
    there = sorted(states.glob(f"{task}-{seed}-*.pt"), key=lambda path: path.stat().st_mtime)
    return there[0] if there else compression.pretrained(task, seed, states)


@cache
def method_digest(method: str) -> str:
    """Of the code that decides a contender's result, and of the versions of what it stands on."""
    code = imported(FOLDER / "peers" / f"{name}.py" for name in ("ptq", f"ptq_{method}"))
    versions = PINS[method] or tuple(metadata.version(of) for of in ("onnxruntime", "numpy"))
    told = "\n".join((digest(code), *versions))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def run(cell: Wanted, folder: Path, until: float) -> dict[str, float] | None:
    """Its figures, from an earlier run of the same code or from a new one.

    None if it is impossible; empty if it takes too long, or is not there and the time until which
    jobs start is over.
    """
    out = folder / f"{cell.bits.slug}-{cell.method}-{method_digest(cell.method)}.json"
    if not out.is_file():
        if time.monotonic() > until:
            return {}
        with tempfile.TemporaryDirectory(prefix="fidelity-") as scratch:
            if cell.task == detector.NAME:
                has_ended = _start_detector(cell, folder, out, Path(scratch))
            else:
                has_ended = _start(cell, folder, out, Path(scratch))
        if not has_ended:
            print(f"{cell} has not ended after {TIMEOUT_S} s", file=sys.stderr)
            return {}
    told = json.loads(out.read_text())
    if not told["is_possible"]:
        return None
    if cell.task == detector.NAME:
        figures: dict[str, float] = told["figures"]
    else:
        figures = judge(np.load(out.with_suffix(".npy")), folder)
    print(f"{cell.task} {cell.seed} {cell.bits.name} {cell.method}: {figures}, {told}",
          file=sys.stderr)  # fmt: skip
    return figures


def _start(cell: Wanted, folder: Path, out: Path, scratch: Path) -> bool:
    scaling = tasks.PREPROCESSING.get(cell.task, tasks.FASHION)
    job = _job(cell, folder, out, scaling, tasks.EDGES[cell.task])
    return _quantized(cell, "peers.ptq", job, scratch)


def _start_detector(cell: Wanted, folder: Path, out: Path, scratch: Path) -> bool:
    """Outputs are large: they are judged at once and not kept."""
    made, edges = scratch / "made.json", json.loads((folder / "edges.json").read_text())
    job = _job(cell, folder, made, detector.PREPROCESSING, edges)
    if not _quantized(cell, "peers.heads", job, scratch):
        return False
    told = json.loads(made.read_text())
    if told["is_possible"]:
        with np.load(made.with_suffix(".npz")) as outputs:
            told["figures"] = detector.judge([outputs[name] for name in outputs.files], folder)
    out.write_text(json.dumps(told))
    return True


def _job(
    cell: Wanted, folder: Path, out: Path, scaling: tuple[float, float], edges: Sequence[str]
) -> dict[str, object]:
    return {
        "model": str(folder / "model.onnx"), "calibration": str(folder / "calibration.npy"),
        "judged": str(folder / "judged.npy"), "bits": asdict(cell.bits), "mean": scaling[0],
        "std": scaling[1], "edges": edges, "out": str(out),
    }  # fmt: skip


def _quantized(cell: Wanted, program: str, job: dict[str, object], scratch: Path) -> bool:
    """Whether it ended in time."""
    path = scratch / "job.json"
    path.write_text(json.dumps(job))
    python = str(interpreter(f"ptq_{cell.method}", PINS[cell.method]))
    try:
        done = subprocess.run(
            [python, "-m", program, cell.method, str(path)],
            env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        raise SystemExit(f"{cell} failed:\n{done.stderr[-3000:]}")
    return True


def judge(logits: np.ndarray, folder: Path) -> dict[str, float]:
    """How far from the float network: see the module."""
    exact = np.load(folder / "float.npy").astype(np.float64)
    given = logits.astype(np.float64)
    log_p, log_q = _log_softmax(exact), _log_softmax(given)
    answers, right = given.argmax(1), exact.argmax(1)
    labels = folder / "labels.npy"
    truth = np.load(labels) if labels.is_file() else right
    return {
        "kl": 1000 * float((np.exp(log_p) * (log_p - log_q)).sum(1).mean()),
        "error": float(np.linalg.norm(given - exact) / np.linalg.norm(exact)),
        "drop": 100 * float((right == truth).mean() - (answers == truth).mean()),
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


Results = dict[tuple[str, Bits], dict[str, list[dict[str, float]]]]


def table(results: Results, methods: list[str]) -> str:
    """Markdown: the best of a row by each figure in bold, and whether ours is ahead by it."""
    columns = ["network", "row", *methods, "ahead in distance?", "ahead in answers?"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for (task, bits), cells in results.items():
        run = {method: values for method, values in cells.items() if all(values)}
        distance, drop = (
            {method: statistics.mean(of[key] for of in values) for method, values in run.items()}
            for key in ("error" if task == detector.NAME else "kl", "drop")
        )
        if not run:
            continue
        shown = [
            _shown(run[method], method, distance, drop)
            if method in run
            else "not run"
            if method in cells
            else ""
            for method in methods
        ]
        is_whole = len(run) == len(cells)
        line = [task, bits.name, *shown, _verdict(distance, is_whole), _verdict(drop, is_whole)]
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def _shown(
    values: list[dict[str, float]],
    method: str,
    distance: dict[str, float],
    drop: dict[str, float],
) -> str:
    first = _bold(f"{distance[method]:.1f}", distance[method] == min(distance.values()))
    second = f"{drop[method]:+.2f}"
    if len(values) > 1:
        spread = statistics.stdev(of["drop"] for of in values) / math.sqrt(len(values))
        second += f" ± {spread:.2f}"
    second = _bold(second, drop[method] == min(drop.values()))
    if "persons" in values[0]:
        second += f" ({values[0]['persons']:+.2f})"
    return f"{first} · {second}"


def _bold(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def _verdict(means: dict[str, float], is_whole: bool) -> str:
    """``is_whole``: nobody who could be ahead is missing."""
    peers = {method: mean for method, mean in means.items() if method != "ours"}
    if "ours" not in means:
        return ""
    if not peers:
        return "no peer does it" if is_whole else "open"
    first = min(peers, key=lambda method: peers[method])
    if means["ours"] == peers[first]:
        return f"even with {first}"
    if means["ours"] > peers[first]:
        return f"no: {first}"
    return "yes" if is_whole else "of those run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3])
    parser.add_argument("--scales", nargs="+", choices=("filter", "tensor"),
                        default=["filter", "tensor"])  # fmt: skip
    parser.add_argument("--data", nargs="+", choices=("data", "none"), default=["data", "none"])
    parser.add_argument("--methods", nargs="+", choices=PINS, default=list(PINS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no job after")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=CACHE / "fidelity")
    parser.add_argument("--list", action="store_true", help="show what would run")
    arguments = parser.parse_args()
    cells = list(wanted(arguments))
    if arguments.list:
        print("\n".join(f"{c.task} {c.seed} {c.bits.name} {c.method}" for c in cells))
        return
    keys = dict.fromkeys((cell.task, cell.seed) for cell in cells)
    folders = {key: task_folder(*key, arguments.out) for key in keys}
    for method in arguments.methods:
        interpreter(f"ptq_{method}", PINS[method])
    results: Results = {}
    until = time.monotonic() + 60 * arguments.minutes
    with ThreadPoolExecutor(arguments.jobs) as pool:
        found = pool.map(lambda cell: run(cell, folders[cell.task, cell.seed], until), cells)
        for cell, figures in zip(cells, found, strict=True):
            if figures is not None:
                row = results.setdefault((cell.task, cell.bits), {})
                row.setdefault(cell.method, []).append(figures)
    print(table(results, arguments.methods))
    for (task, seed), folder in folders.items():
        if task not in UNSEEDED:
            answers = np.load(folder / "float.npy").argmax(1)
            share = (answers == np.load(folder / "labels.npy")).mean()
            print(f"\n{task}, seed {seed}: float {100 * share:.2f}%")


if __name__ == "__main__":
    main()
