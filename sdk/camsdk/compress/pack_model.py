"""From an ONNX file to a packed model (``camsdk.artifact.packed``), as small as it knows how.

For each tensor of 8-bit codes several ways are counted, not tried: blocks of which a mask says that
all is zero (whole filters, pieces of rows, pieces of columns), and rows in groups of like density,
each with its own frequencies. The cheapest wins, zstd if that is cheaper still. All other tensors
go to zstd, joined by type, with their bytes shuffled.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from camsdk.artifact import entropy, packed
from camsdk.artifact.onnx_read import TensorSpan, locate_initializers
from camsdk.artifact.packed import Cut

U8 = NDArray[np.uint8]
Counts = NDArray[np.int64]

ZSTD_LEVEL: Final = 19
_SMALLEST_CUT: Final = 32
_SMALLEST_CODED: Final = 256
_GROUP_COUNTS: Final = (2, 4, 8)
_RUNS: Final = (2, 3, 4, 8, 9, 16)
_TABLE_BITS: Final = 14
"""What one frequency costs, about, when all tables are compressed together."""


def pack_model(model: bytes) -> bytes:
    """Pack a model; ``packed.unpack`` gives back the same bytes.

    Args:
        model: A serialized ONNX model.

    Returns:
        A ``.camq`` file; the same model gives the same bytes.

    Raises:
        DataCorrupted: Not an ONNX model.
    """
    builder = _Builder(model)
    end = 0
    for tensor in locate_initializers(model)[: packed.MAX_CUTS]:
        if tensor.stop - tensor.start >= _SMALLEST_CUT:
            builder.add(tensor, end)
            end = tensor.stop
    builder.skeleton.append(model[end:])
    return _assemble(model, builder.sections())


@dataclass(frozen=True)
class _Plan:
    """One way to code a tensor.

    Attributes:
        shape: Rows, block and number of groups as in ``Cut``; its tables are not yet numbered.
        mask_counts: How often 0 and 1 occur in the mask, shape (256,), or None without mask.
        group_counts: How often each byte occurs in each group of rows, shape (groups, 256).
        groups: Of each row, shape (rows,).
        bits: What all of it costs.
    """

    shape: Cut
    mask_counts: Counts | None
    group_counts: Counts
    groups: U8
    bits: float


class _Builder:
    """Collects the sections tensor by tensor."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._cuts: list[Cut] = []
        self._tables: list[entropy.U16] = []
        self._masks: list[U8] = []
        self._mask_ids: list[entropy.U16] = []
        self._codes: list[U8] = []
        self._code_ids: list[entropy.U16] = []
        self._groups: list[U8] = []
        self._plain: dict[str, list[bytes]] = {}
        self.skeleton: list[bytes] = []

    def add(self, tensor: TensorSpan, end: int) -> None:
        """Cut this tensor out; ``end`` is where the one before it ended."""
        content = self._model[tensor.start : tensor.stop]
        self.skeleton.append(self._model[end : tensor.start])
        cut = Cut(tensor.start - end, len(content), packed.CODED)
        if self._may_code(tensor):
            matrix = _as_matrix(content, tensor.shape)
            plan = _plan(matrix, cut, tensor.shape)
            if plan.bits / 8 < len(_compress(content)):
                self._add_coded(plan, matrix)
                return
        streams = list(self._plain)
        if tensor.dtype not in self._plain:
            streams.append(tensor.dtype)
        self._plain.setdefault(tensor.dtype, []).append(content)
        self._cuts.append(replace(cut, stream=1 + streams.index(tensor.dtype)))

    def sections(self) -> list[bytes]:
        """All sections, not compressed."""
        rows = [list(vars(cut).values()) for cut in self._cuts]
        tables = np.array(self._tables, np.uint16).reshape(-1, 256)
        return [
            np.array(rows, "<u4").tobytes(),
            b"".join(self.skeleton),
            b"".join(group.tobytes() for group in self._groups),
            tables.astype("<u2").tobytes(),
            _encode(self._masks, tables, self._mask_ids),
            _encode(self._codes, tables, self._code_ids),
            bytes(np.dtype(dtype).itemsize for dtype in self._plain),
            *(_shuffle(b"".join(parts), dtype) for dtype, parts in self._plain.items()),
        ]

    def _may_code(self, tensor: TensorSpan) -> bool:
        is_small = tensor.stop - tensor.start < _SMALLEST_CODED
        has_room = len(self._tables) + 1 + max(_GROUP_COUNTS) <= packed.MAX_TABLES
        return tensor.dtype in ("i1", "u1") and not is_small and has_room

    def _add_coded(self, plan: _Plan, matrix: U8) -> None:
        cut = replace(plan.shape, mask_table=len(self._tables))
        if plan.mask_counts is not None:
            self._tables.append(entropy.quantize_counts(plan.mask_counts))
        cut = replace(cut, first_table=len(self._tables))
        if plan.mask_counts is None:
            cut = replace(cut, mask_table=cut.first_table)
        self._tables += [_table(counts) for counts in plan.group_counts]
        mask = _block_mask(matrix, cut)
        if cut.is_masked:
            self._masks.append(mask.astype(np.uint8).ravel())
            self._mask_ids.append(np.full(mask.size, cut.mask_table, np.uint16))
        kept = packed.block_cover(mask, cut)
        ids = np.repeat(cut.first_table + plan.groups.astype(np.uint16), cut.columns)
        self._codes.append(matrix[kept])
        self._code_ids.append(ids[kept.ravel()])
        if cut.groups > 1:
            self._groups.append(plan.groups)
        self._cuts.append(cut)


def _as_matrix(content: bytes, shape: Sequence[int]) -> U8:
    """Filters down where the tensor has them."""
    rows = shape[0] if len(shape) > 1 and shape[0] > 0 and len(content) % shape[0] == 0 else 1
    return np.frombuffer(content, np.uint8).reshape(rows, -1)


def _plan(matrix: U8, cut: Cut, shape: Sequence[int]) -> _Plan:
    """The cheapest way to code this matrix."""
    cut = replace(cut, rows=len(matrix))
    blocks = _blocks(cut.rows, cut.columns, math.prod(shape[2:]))
    masked = min((_with_mask(matrix, cut, *block) for block in blocks), key=lambda plan: plan.bits)
    grouped = [_with_groups(matrix, masked, count) for count in _GROUP_COUNTS]
    return min([masked, *grouped], key=lambda plan: plan.bits)


def _blocks(rows: int, columns: int, kernel: int) -> list[tuple[int, int]]:
    """Sizes of blocks to try: none, filters, inputs, kernels, runs along and across."""
    sizes = [(1, 1), (1, columns), (rows, 1), (1, kernel), (rows, kernel)]
    sizes += [(1, run) for run in _RUNS] + [(run, 1) for run in _RUNS]
    sizes += [(run, kernel) for run in _RUNS]
    return sorted({size for size in sizes if 1 <= size[0] <= rows and 1 <= size[1] <= columns})


def _with_mask(matrix: U8, cut: Cut, block_rows: int, block_columns: int) -> _Plan:
    shape = replace(cut, block_rows=block_rows, block_columns=block_columns)
    counts = np.bincount(matrix.ravel(), minlength=256)
    bits, mask_counts = 0.0, None
    if shape.is_masked:
        mask = _block_mask(matrix, shape)
        mask_counts = np.bincount(mask.ravel(), minlength=256)
        bits = _cost(mask_counts)
        counts[0] -= matrix.size - _covered(mask, shape)
    groups = np.zeros(len(matrix), np.uint8)
    return _Plan(shape, mask_counts, counts[None], groups, bits + _cost(counts))


def _with_groups(matrix: U8, plan: _Plan, count: int) -> _Plan:
    """The same with rows in this many groups, from few zeros to many."""
    shape = plan.shape
    kept = packed.block_cover(_block_mask(matrix, shape), shape)
    density = (matrix != 0).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
    order = np.argsort(density, kind="stable")
    groups = np.empty(len(matrix), np.uint8)
    groups[order] = np.arange(len(matrix)) * count // len(matrix)
    counts = np.stack(
        [np.bincount(matrix[groups == g][kept[groups == g]], minlength=256) for g in range(count)]
    )
    bits = sum(_cost(row) for row in counts) + len(matrix) * math.log2(count)
    bits += 0.0 if plan.mask_counts is None else _cost(plan.mask_counts)
    return _Plan(replace(shape, groups=count), plan.mask_counts, counts, groups, bits)


def _block_mask(matrix: U8, shape: Cut) -> NDArray[np.bool_]:
    """Which blocks are kept, ``shape.mask_shape``: those with something in them, or all."""
    if not shape.is_masked:
        return np.ones(shape.mask_shape, bool)
    rows = np.arange(0, shape.rows, shape.block_rows)
    columns = np.arange(0, shape.columns, shape.block_columns)
    down = np.logical_or.reduceat(matrix != 0, rows, axis=0)
    return np.logical_or.reduceat(down, columns, axis=1)


def _covered(mask: NDArray[np.bool_], shape: Cut) -> int:
    """How many bytes lie in the kept blocks."""
    heights = np.full(mask.shape[0], shape.block_rows)
    widths = np.full(mask.shape[1], shape.block_columns)
    heights[-1] = shape.rows - (len(heights) - 1) * shape.block_rows
    widths[-1] = shape.columns - (len(widths) - 1) * shape.block_columns
    return int(heights @ mask.astype(np.int64) @ widths)


def _table(counts: Counts) -> entropy.U16:
    """Frequencies for these counts; any, where there is nothing to code."""
    return entropy.quantize_counts(counts if counts.any() else np.eye(1, 256, dtype=np.int64)[0])


def _cost(counts: Counts) -> float:
    """Bits of so many symbols and of their table."""
    table = entropy.quantize_counts(counts) if counts.any() else None
    if table is None:
        return 0.0
    return entropy.cost_bits(counts, table) + _TABLE_BITS * int((counts > 0).sum())


def _encode(symbols: Sequence[U8], tables: entropy.U16, ids: Sequence[entropy.U16]) -> bytes:
    flat = np.concatenate([*symbols, np.zeros(0, np.uint8)])
    flat_ids = np.concatenate([*ids, np.zeros(0, np.uint16)])
    return entropy.encode(flat, tables, flat_ids).astype("<u2").tobytes()


def _shuffle(content: bytes, dtype: str) -> bytes:
    return np.frombuffer(content, np.uint8).reshape(-1, np.dtype(dtype).itemsize).T.tobytes()


def _compress(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(content)


def _assemble(model: bytes, sections: Sequence[bytes]) -> bytes:
    stored = []
    for section in sections:
        smaller = _compress(section)
        stored.append(smaller if len(smaller) < len(section) else section)
    head = packed.HEAD.pack(packed.MAGIC, len(model), hashlib.sha256(model).digest(), len(sections))
    pairs = zip(sections, stored, strict=True)
    sizes = [packed.SECTION_SIZE.pack(len(section), len(short)) for section, short in pairs]
    return b"".join([head, *sizes, *stored])
