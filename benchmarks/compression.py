"""Compression by training, ours against the peers' own code: same network, pictures and steps.

    python benchmarks/compression.py [--nets NAME ...] [--rows NAME ...] [--methods NAME ...]
        [--seeds N] [--epochs E] [--minutes M] [--out FOLDER] [--list]

Every contender starts from the same float network of its seed and gets the same pictures in the
same order for the same number of steps (``benchmarks/peers/recipe.py``). The judge is the test set
of Fashion-MNIST, which nothing is chosen by: methods are tuned on 5,000 held-out training pictures.
A cell is the drop in points against the float network that got the same additional epochs, mean
over seeds with its standard error, and the last column how far ours is ahead of the best peer, as
mean and standard error of the differences over the seeds that all of them have. Ours has a teacher,
whose weight was tuned on the held-out pictures (``DistillOptions``); a peer that is ``distilled``
has the same teacher and the plain loss of Hinton et al. of weight 1; nothing of a peer was tuned.

Peers run in environments of their own, made in the user's cache folder at the first run (pinned;
each about 1 GB with torch). The whole table takes hours on two cores; finished runs are kept in
``--out`` under a digest of the code that made them, so that a run goes on where it was stopped and
a changed method is measured anew.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
TABLES = (
    (
        (EIGHT, ("ours", "lsq", "nncf_qat")),
        (QUANTIZED, ("ours", "lsq", "lsq_distilled", "brevitas_qat")),
    ),
    ((PRUNED, ("ours", "magnitude", "magnitude_distilled")),),
    ((FILTERS, ("ours", "torch_pruning", "torch_pruning_distilled")),),
    ((JOINT, ("ours",)),),
)
"""Rows and who can do what they ask for, by table."""
Group = tuple[tuple[tuple[Row, ...], tuple[str, ...]], ...]
PRETRAIN_EPOCHS = 3.0
Result = dict[str, Any]
Drops = dict[str, dict[int, float]]
"""In points by method and seed."""


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
            for rows, methods in itertools.chain(*TABLES):
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


def run(
    job: Job, state: Path, epochs: float, folder: Path, until: float = math.inf
) -> Result | None:
    """The job's result, from an earlier run of the same code or from a new one.

    None if it is not there and the time until which jobs start is over.
    """
    out = folder / f"{job.name}-{epochs:g}-{digest(job.method)}.json"
    if not out.is_file():
        if time.monotonic() > until:
            return None
        data = {key: _pulled(part) for key, part in (("train", "train"), ("test", "t10k"))}
        command = [
            str(interpreter(job.method)), "-m", "peers.run", job.method, job.net, str(job.seed),
            json.dumps(asdict(job.row)), str(state), json.dumps(data), str(epochs), str(out),
        ]  # fmt: skip
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{job.name} failed:\n{done.stderr[-2000:]}")
        print(done.stdout.splitlines()[-1], file=sys.stderr)
    result: Result = json.loads(out.read_text())
    return result


def _pulled(part: str) -> list[str]:
    return [str(assets.pull(f"fashion-mnist-{part}-{kind}.gz")) for kind in ("images", "labels")]


def report(results: list[Result], nets: list[str]) -> str:
    """Markdown: a table for each group of peers, and what the float networks can."""
    base = {(r["net"], r["seed"]): r["test"] for r in results if r["method"] == "float"}
    drops: dict[tuple[str, str], Drops] = {}
    for r in results:
        if r["method"] != "float" and (r["net"], r["seed"]) in base:
            cells = drops.setdefault((r["net"], r["row"]), {})
            cells.setdefault(r["method"], {})[r["seed"]] = base[r["net"], r["seed"]] - r["test"]
    parts = [table(group, nets, drops) for group in TABLES]
    for net in nets:
        ends = [value for (name, _), value in base.items() if name == net]
        starts = [r["start"] for r in results if r["method"] == "float" and r["net"] == net]
        if ends:
            parts.append(
                f"{net}: float {statistics.mean(ends):.2f}% after these epochs, "
                f"{statistics.mean(starts):.2f}% before, over {len(ends)} seeds"
            )
    return "\n\n".join(part for part in parts if part)


def table(group: Group, nets: list[str], drops: dict[tuple[str, str], Drops]) -> str:
    """Of the rows that were run at all."""
    methods = list(dict.fromkeys(method for _, names in group for method in names))
    columns = ["network", "row", *methods, "ours ahead by"]
    lines = []
    for net in nets:
        for rows, able in group:
            for row in rows:
                if cells := drops.get((net, row.name)):
                    best = min(statistics.mean(values.values()) for values in cells.values())
                    shown = [_shown(cells.get(m), best, m in able) for m in methods]
                    lines.append(f"| {' | '.join([net, row.name, *shown, _lead(cells, able)])} |")
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*head, *lines]) if lines else ""


def _shown(values: dict[int, float] | None, best: float, is_able: bool) -> str:
    if not values:
        return "not run" if is_able else ""
    mean, error = _mean(list(values.values()))
    text = f"{mean:+.2f} ± {error:.2f}" if len(values) > 1 else f"{mean:+.2f} (one seed)"
    return f"**{text}**" if mean == best else text


def _lead(cells: Drops, able: tuple[str, ...]) -> str:
    """Of ours before the best peer; nobody is ahead while somebody who can is missing."""
    ours, peers = cells.get("ours"), [name for name in able if name != "ours"]
    if not peers:
        return "no peer does it"
    if not ours or any(name not in cells for name in peers):
        return "open"
    seeds = sorted(set(ours).intersection(*(cells[name] for name in peers)))
    if not seeds:
        return "open"
    first = min(peers, key=lambda name: statistics.mean(cells[name][seed] for seed in seeds))
    mean, error = _mean([cells[first][seed] - ours[seed] for seed in seeds])
    if len(seeds) == 1:
        return f"{mean:+.2f} ({first}; one seed)"
    return f"{mean:+.2f} ± {error:.2f} ({first})"


def _mean(values: list[float]) -> tuple[float, float]:
    """With its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.mean(values), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["resnet20", "mobilenetv2-w50"])
    parser.add_argument("--rows", nargs="+", default=[])
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no training after")
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
    until = time.monotonic() + 60 * arguments.minutes
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = dict(
            zip(states, pool.map(lambda s: pretrained(*s, arguments.out), states), strict=True)
        )
        results = list(
            pool.map(
                lambda job: run(
                    job, made[job.net, job.seed], arguments.epochs, arguments.out, until
                ),
                wanted,
            )
        )
    print(report([result for result in results if result is not None], arguments.nets))


if __name__ == "__main__":
    main()
