"""Work that is left at equal accuracy: non-zero multiply-accumulates of a ResNet-18 after pruning.

    python benchmarks/macs.py [--net NAME] [--seeds N] [--epochs E] [--rows NAME ...]
        [--out FOLDER] [--plot FILE.svg] [--jobs N]

ResNet-18 at width 16 on Fashion-MNIST (``zoo/resnet.py``), trained in the recipe of
``benchmarks/compression.py`` and, like there, judged by the test set, which nothing is chosen by.
Single weights (M) or whole filters (F) go until the named percentage of the float network's
multiply-accumulates is left, with the float network as the teacher; some rows are quantized in the
same steps. ``drop`` is against the float network that got the same additional epochs. Accuracy
counts as equal while the drop is within the standard error of the float network's accuracy, from
the number of pictures that judge it. About 5 CPU minutes a seed for the float network, then 2 a
row and epoch; finished runs are kept in ``--out``.
"""

import argparse
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from compression import CACHE, Job, pretrained, run
from peers.nets import NETS
from peers.recipe import Row

PICTURES = 10_000
"""Of the test set."""
ROWS = (
    *(Row(f"M{left}", sparsity=1 - left / 100, saves="macs") for left in (30, 18, 12, 8)),
    *(Row(f"F{left}", removed_macs=1 - left / 100) for left in (50, 30)),
    Row("M18W8A8", 8, 8, 0.82, "macs"),
    Row("M18W4A8", 4, 8, 0.82, "macs"),
)
_KINDS = {"M": ("single weights", "#2563eb"), "F": ("whole filters", "#d97706")}
_QUANTIZED = ("single weights, quantized", "#16a34a")
_WIDTH, _HEIGHT, _MARGIN = 640, 380, 56


@dataclass(frozen=True)
class Point:
    """A row over all seeds: share of multiply-accumulates left, and points of accuracy lost."""

    row: str
    share: float
    drop: float

    @property
    def kind(self) -> tuple[str, str]:
        """Words and colour."""
        return _QUANTIZED if "W" in self.row else _KINDS[self.row[0]]


def measured(arguments: argparse.Namespace) -> Iterator[tuple[Job, dict[str, object]]]:
    """Results of the float networks and of all rows."""
    rows = [row for row in ROWS if not arguments.rows or row.name in arguments.rows]
    seeds = range(arguments.seeds)
    net = arguments.net
    wanted = [Job(net, Row("float"), "float", seed) for seed in seeds]
    wanted += [Job(net, row, "ours", seed) for seed in seeds for row in rows]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        states = list(pool.map(lambda seed: pretrained(net, seed, arguments.out), seeds))
        results = pool.map(
            lambda job: run(job, states[job.seed], arguments.epochs, arguments.out), wanted
        )
        for job, result in zip(wanted, results, strict=True):
            assert result is not None  # there is no time after which none starts
            yield job, result


def points(results: Sequence[tuple[Job, dict[str, object]]]) -> list[Point]:
    """The mean of every row, fewest multiply-accumulates first."""
    base = {job.seed: float(r["test"]) for job, r in results if job.method == "float"}
    by_row: dict[str, list[tuple[float, float]]] = {}
    for job, r in results:
        if job.method != "float":
            drop = base[job.seed] - float(r["test"])
            by_row.setdefault(job.row.name, []).append((float(r["macs"]), drop))
    found = [
        Point(name, statistics.mean(m for m, _ in cells), statistics.mean(d for _, d in cells))
        for name, cells in by_row.items()
    ]
    return sorted(found, key=lambda point: point.share)


def standard_error(accuracies: Sequence[float]) -> float:
    """Of the mean accuracy of networks that the test set judged, in points."""
    share = statistics.mean(accuracies) / 100
    return 100 * math.sqrt(share * (1 - share) / (PICTURES * len(accuracies)))


@dataclass(frozen=True)
class Axes:
    """From shares and drops to pixels, a margin on all sides."""

    right: float
    low: float
    high: float

    def x(self, share: float) -> float:
        return _MARGIN + share / self.right * (_WIDTH - 2 * _MARGIN)

    def y(self, drop: float) -> float:
        return _MARGIN + (drop - self.low) / (self.high - self.low) * (_HEIGHT - 2 * _MARGIN)

    def ticks(self) -> Iterator[str]:
        """Every 10% and every half point."""
        for tick in range(0, int(self.right * 100) + 1, 10):
            at = f'x="{self.x(tick / 100):.1f}" y="{_HEIGHT - _MARGIN + 18}"'
            yield f'<text {at} text-anchor="middle">{tick}%</text>'
        for tick in range(math.ceil(self.low * 2), math.floor(self.high * 2) + 1):
            at = f'x="{_MARGIN - 8}" y="{self.y(tick / 2) + 4:.1f}"'
            yield f'<text {at} text-anchor="end">{tick / 2:+.1f}</text>'

    def line(self, own: Sequence[Point]) -> Iterator[str]:
        """Points of one kind, joined."""
        path = " ".join(f"{self.x(p.share):.1f},{self.y(p.drop):.1f}" for p in own)
        colour = own[0].kind[1]
        yield f'<polyline points="{path}" fill="none" stroke="{colour}"/>'
        for p in own:
            at = f'cx="{self.x(p.share):.1f}" cy="{self.y(p.drop):.1f}"'
            yield f'<circle {at} r="4" fill="{colour}"><title>{p.row}</title></circle>'


def drawing(found: Sequence[Point], error: float) -> str:
    """SVG: share of multiply-accumulates along x, drop along y, the band of equal accuracy."""
    drops = [-error, error, *(point.drop for point in found)]
    right = max(point.share for point in found) * 1.1
    axes = Axes(right, min(drops) - 0.1, max(drops) + 0.1)
    band = f'y="{axes.y(-error):.1f}" height="{axes.y(error) - axes.y(-error):.1f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<rect x="{_MARGIN}" {band} width="{_WIDTH - 2 * _MARGIN}" fill="#e5e7eb"/>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">non-zero '
        "multiply-accumulates, share of the float network's</text>",
        f'<text x="{_MARGIN}" y="{_MARGIN - 24}">points of accuracy lost; grey: within the '
        "standard error</text>",
        *axes.ticks(),
    ]
    for index, kind in enumerate(dict.fromkeys(point.kind for point in found)):
        words, colour = kind
        parts += axes.line([point for point in found if point.kind == kind])
        at = f'x="{_MARGIN + 10 + 190 * index}" y="{_MARGIN - 6}"'
        parts.append(f'<text {at} fill="{colour}">{words}</text>')
    return "\n".join((*parts, "</svg>\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=list(NETS), default="resnet18-w16")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rows", nargs="+", default=[], choices=[row.name for row in ROWS])
    parser.add_argument("--out", type=Path, default=CACHE / "compression")
    parser.add_argument("--plot", type=Path, help="an SVG of the trade-off")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time")
    arguments = parser.parse_args()
    results = list(measured(arguments))
    floats = [float(r["test"]) for job, r in results if job.method == "float"]
    error = standard_error(floats)
    found = points(results)
    mean = statistics.mean(floats)
    print(f"{arguments.net}: float {mean:.2f} ± {error:.2f}% over {len(floats)} seeds\n")
    print("| row | multiply-accumulates left | drop |\n|---|---|---|")
    for point in found:
        print(f"| {point.row} | {point.share:.1%} | {point.drop:+.2f} |")
    equal = [point for point in found if point.drop <= error]
    if equal:
        print(f"\nequal accuracy at {equal[0].share:.1%} of the multiply-accumulates")
    else:
        print("\nno row has equal accuracy")
    if arguments.plot:
        arguments.plot.write_text(drawing(found, error), encoding="utf-8")


if __name__ == "__main__":
    main()
