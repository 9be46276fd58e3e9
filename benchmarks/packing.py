"""What a packed model weighs against its float original and against zstd, and how fast it unpacks.

    python benchmarks/packing.py [--density 0.1] [--rounds 5] [--json]

A network of 3 million weights in the shapes of a ResNet with random codes, a float32 scale and an
int32 bias a filter. ``ratio_fp32``: bytes of the float weights over bytes packed, all included.
``ratio_zstd``: bytes of ``zstd -19`` of the same ONNX file over bytes packed. ``bits``: packed bits
a weight; ``entropy``: of the codes alone, as independent draws. Codes of trained networks are
closer to zero than these, which are uniform over all that are not 0, so they pack smaller.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass

import numpy as np
import zstandard
from onnx import helper, numpy_helper

from camsdk.artifact import packed
from camsdk.compress.options import CodeSet
from camsdk.compress.pack_model import pack_model

SHAPES = (
    *[(64, 64, 3, 3)] * 6,
    *[(128, 128, 3, 3)] * 6,
    *[(256, 256, 3, 3)] * 3,
    (512, 256, 1, 1),
    (10, 512),
)
BLOCKS = {"scattered": (1, 1), "blocks 4x1": (4, 1), "rows of 9": (1, 9)}


@dataclass(frozen=True)
class Row:
    """One kind of codes; see the module."""

    name: str
    weights: int
    packed_bytes: int
    bits: float
    entropy: float
    ratio_fp32: float
    ratio_zstd: float
    pack_s: float
    unpack_ms: float


def draw_codes(
    shape: tuple[int, ...], code_set: CodeSet, density: float, block: tuple[int, int], seed: int
) -> np.ndarray:
    """Random codes; this share of the blocks is not zero."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    mask = rng.random((-(-rows // block[0]), -(-columns // block[1]))) < density
    mask = mask.repeat(block[0], 0).repeat(block[1], 1)[:rows, :columns]
    levels = code_set.levels[code_set.levels != 0]
    return np.where(mask, rng.choice(levels, (rows, columns)), 0).astype(np.int8).reshape(shape)


def make_model(codes: list[np.ndarray]) -> bytes:
    """An ONNX file of these codes with scales and biases."""
    rng = np.random.default_rng(0)
    tensors = []
    for index, array in enumerate(codes):
        filters = array.shape[0]
        bias = rng.normal(0, 2000, filters).astype(np.int32)
        for name, value in (
            ("weight", array),
            ("scale", rng.random(filters).astype(np.float32) / 50),
            ("zero_point", np.zeros(filters, np.int8)),
            ("bias", bias),
        ):
            tensors.append(numpy_helper.from_array(value, f"layer{index}.{name}"))
    return helper.make_model(helper.make_graph([], "net", [], [], tensors)).SerializeToString()


def measure(name: str, codes: list[np.ndarray], rounds: int) -> Row:
    """Pack, unpack, compare."""
    model = make_model(codes)
    start = time.perf_counter()
    content = pack_model(model)
    pack_s = time.perf_counter() - start
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        assert packed.unpack(content, max_bytes=len(model)) == model
        times.append(time.perf_counter() - start)
    flat = np.concatenate([array.ravel() for array in codes])
    shares = np.unique(flat, return_counts=True)[1] / flat.size
    return Row(
        name,
        flat.size,
        len(content),
        8 * len(content) / flat.size,
        -float(np.sum(shares * np.log2(shares))),
        4 * flat.size / len(content),
        len(zstandard.ZstdCompressor(level=19).compress(model)) / len(content),
        pack_s,
        1e3 * statistics.median(times),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--density", type=float, default=0.1, help="share that is not zero")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    three = CodeSet(3, "power-of-two")
    rows = []
    for name, block in BLOCKS.items():
        codes = [
            draw_codes(shape, three, arguments.density, block, seed)
            for seed, shape in enumerate(SHAPES)
        ]
        rows.append(measure(f"3 bit, {name}", codes, arguments.rounds))
    for bits in (2, 4, 8):
        codes = [
            draw_codes(shape, CodeSet(bits), arguments.density, (1, 1), seed)
            for seed, shape in enumerate(SHAPES)
        ]
        rows.append(measure(f"{bits} bit, scattered", codes, arguments.rounds))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{100 - 100 * arguments.density:.0f} % zeros, {rows[0].weights} weights")
    print("codes              bytes    bits  entropy  x fp32  x zstd-19  pack s  unpack ms")
    for row in rows:
        print(
            f"{row.name:17} {row.packed_bytes:7} {row.bits:6.3f}  {row.entropy:6.3f} "
            f"{row.ratio_fp32:7.1f} {row.ratio_zstd:9.2f} {row.pack_s:8.1f} {row.unpack_ms:9.0f}"
        )


if __name__ == "__main__":
    main()
