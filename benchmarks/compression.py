"""Compression by training, ours against the peers' own code: same network, pictures and steps.

    python benchmarks/compression.py [--nets NAME ...] [--rows NAME ...] [--methods NAME ...]
        [--seeds N] [--epochs E] [--out FOLDER] [--list]

Every contender starts from the same float network of its seed and gets the same pictures in the
same order for the same number of steps (``benchmarks/peers/recipe.py``). The judge is the test set
of Fashion-MNIST, which nothing is chosen by: methods are tuned on 5,000 held-out training pictures.
``drop`` is against the float network that got the same additional epochs, mean over seeds with its
standard error.

Peers run in environments of their own, made in the user's cache folder at the first run (pinned;
each about 1 GB with torch). The whole table takes hours on two cores; finished runs are kept in
``--out`` under a digest of the code that made them, so that a run goes on where it was stopped and
a changed method is measured anew.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

# the folder of this script is no package
from peers import environments  # noqa: E402
from peers.environments import CACHE, ROOT, TORCH, environment  # noqa: E402
from peers.recipe import Row  # noqa: E402

from camsdk import assets  # noqa: E402

PEERS = {
    "brevitas_qat": (TORCH, "brevitas==0.13.4"),
    "nncf_qat": (TORCH, "nncf==3.4.0"),
}
"""Methods that need an environment of their own, and its pins."""
PRETRAINING = (
    "benchmarks/peers/recipe.py", "benchmarks/peers/nets.py", "benchmarks/peers/pretrain.py",
    "sdk/camsdk/zoo/resnet.py", "sdk/camsdk/zoo/mobilenetv2.py",
)  # fmt: skip
"""What decides the float networks."""
QUANTIZED = (
    Row("W3A8", 3, 8),
    Row("W3A4", 3, 4),
    Row("W2A8", 2, 8),
    Row("W1A8", 1, 8),
    Row("W2A2", 2, 2),
    Row("W1A2", 1, 2),
)
EIGHT = (Row("W8A8", 8, 8),)
PRUNED = tuple(Row(f"S{percent}", sparsity=percent / 100) for percent in (90, 95, 97))
FILTERS = tuple(Row(f"F{percent}", removed_macs=percent / 100) for percent in (50, 70))
JOINT = (Row("S90W3A8", 3, 8, 0.9),)
EIGHT_BITS = ("ours", "lsq", "nncf_qat")
QUANTIZERS = ("ours", "lsq", "lsq_distilled", "brevitas_qat")
PRUNERS = ("ours", "magnitude", "magnitude_distilled")
FILTER_PRUNERS = ("ours", "torch_pruning", "torch_pruning_distilled")
PRETRAIN_EPOCHS = 3.0


@dataclass(frozen=True)
class Job:
    """One training."""

    net: str
    row: Row
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its result file."""
        return f"{self.net}-{self.row.name}-{self.method}-{self.seed}"


def jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    """Seed by seed, so that a run that is stopped early has whole rows."""
    for seed in range(arguments.seeds):
        for net in arguments.nets:
            yield Job(net, Row("float"), "float", seed)
            for rows, methods in (
                (EIGHT, EIGHT_BITS),
                (QUANTIZED, QUANTIZERS),
                (PRUNED, PRUNERS),
                (FILTERS, FILTER_PRUNERS),
                (JOINT, ("ours",)),
            ):
                for row in rows:
                    if arguments.rows and row.name not in arguments.rows:
                        continue
                    for method in methods:
                        if not arguments.methods or method in arguments.methods:
                            yield Job(net, row, method, seed)


@cache
def digest(method: str) -> str:
    """Of the code that decides a method's result."""
    if method == "pretrain":
        return environments.digest(ROOT / file for file in PRETRAINING)
    own = FOLDER / "peers" / f"{method.removesuffix('_distilled')}.py"
    files = [FOLDER / "peers" / "run.py"] + [own] * (method != "float")
    return environments.digest(environments.imported(files))


def interpreter(method: str) -> Path:
    """With the method's own packages; made if there is none."""
    return environments.interpreter(method, PEERS.get(method, ()))


def pretrained(net: str, seed: int, folder: Path) -> Path:
    """The float network of a seed."""
    state = folder / f"{net}-{seed}-{digest('pretrain')}.pt"
    if not state.is_file():
        command = [sys.executable, "-m", "peers.pretrain", net, str(seed), str(PRETRAIN_EPOCHS)]
        subprocess.run([*command, str(state)], check=True, env=environment(), stdout=sys.stderr)
    return state


def run(job: Job, state: Path, epochs: float, folder: Path) -> dict[str, object]:
    """The job's result, from an earlier run of the same code or from a new one."""
    out = folder / f"{job.name}-{epochs:g}-{digest(job.method)}.json"
    if not out.is_file():
        data = {key: _pulled(part) for key, part in (("train", "train"), ("test", "t10k"))}
        command = [
            str(interpreter(job.method)), "-m", "peers.run", job.method, job.net, str(job.seed),
            json.dumps(asdict(job.row)), str(state), json.dumps(data), str(epochs), str(out),
        ]  # fmt: skip
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{job.name} failed:\n{done.stderr[-2000:]}")
        print(done.stdout.splitlines()[-1], file=sys.stderr)
    result: dict[str, object] = json.loads(out.read_text())
    return result


def _pulled(part: str) -> list[str]:
    return [str(assets.pull(f"fashion-mnist-{part}-{kind}.gz")) for kind in ("images", "labels")]


def table(results: list[dict[str, object]]) -> str:
    """Markdown: drop in points for every row and method, the best of a row in bold."""
    base = {(r["net"], r["seed"]): float(r["test"]) for r in results if r["method"] == "float"}
    drops: dict[tuple[object, object], dict[object, list[float]]] = {}
    for r in results:
        if r["method"] != "float" and (r["net"], r["seed"]) in base:
            cell = drops.setdefault((r["net"], r["row"]), {}).setdefault(r["method"], [])
            cell.append(base[r["net"], r["seed"]] - float(r["test"]))
    methods = list(dict.fromkeys((*EIGHT_BITS, *QUANTIZERS, *PRUNERS, *FILTER_PRUNERS)))
    lines = ["| network | row | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for (net, row), cells in drops.items():
        best = min(statistics.mean(values) for values in cells.values())
        shown = [_shown(cells.get(method), best) for method in methods]
        lines.append(f"| {net} | {row} | " + " | ".join(shown) + " |")
    for net in dict.fromkeys(net for net, _ in base):
        values = [value for (name, _), value in base.items() if name == net]
        starts = [float(r["start"]) for r in results if r["method"] == "float" and r["net"] == net]
        lines.append(
            f"\n{net}: float {statistics.mean(values):.2f}% after these epochs, "
            f"{statistics.mean(starts):.2f}% before, over {len(values)} seeds"
        )
    return "\n".join(lines)


def _shown(values: list[float] | None, best: float) -> str:
    if not values:
        return ""
    mean = statistics.mean(values)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    text = f"{mean:+.2f} ± {error:.2f}"
    return f"**{text}**" if mean == best else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["resnet20", "mobilenetv2-w50"])
    parser.add_argument("--rows", nargs="+", default=[])
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=CACHE / "compression")
    parser.add_argument("--list", action="store_true", help="show what would run")
    arguments = parser.parse_args()
    wanted = list(jobs(arguments))
    if arguments.list:
        print("\n".join(job.name for job in wanted))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for method in {job.method for job in wanted}:
        interpreter(method)
    states = {(job.net, job.seed) for job in wanted}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = dict(
            zip(states, pool.map(lambda s: pretrained(*s, arguments.out), states), strict=True)
        )
        results = list(
            pool.map(
                lambda job: run(job, made[job.net, job.seed], arguments.epochs, arguments.out),
                wanted,
            )
        )
    print(table(results))


if __name__ == "__main__":
    main()
