"""Integer columns as bytes: zigzag varints, then zstd where that is smaller.

A batch is a few thousand small integers. Written column by column, each as a difference that is
mostly near zero, they become one byte each and compress well. Everything is vectorised: the cost of
a batch is a handful of numpy calls, however many rows it has.

Varints are LEB128 of the zigzag code, as in Protocol Buffers ("Encoding", base 128 varints, signed
integers). Decoding is strict: a truncated, overlong or oversized input is :class:`DataCorrupted`.
"""

from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from camsdk.errors import DataCorrupted

I64 = NDArray[np.int64]

MAX_UNPACKED_BYTES: Final = 1 << 20
"""No column block unpacks to more: a compression bomb stops here. A byte may be a number, which the
decoder holds several times in eight bytes, so that a block costs up to 70 times this."""

_RAW: Final = b"\x00"
_ZSTD: Final = b"\x01"
_MAX_VARINT_BYTES: Final = 10
_LEVEL: Final = 9  # blocks are of a few kB: higher levels cost microseconds and save 3%


def encode_varints(values: I64) -> bytes:
    """Zigzag LEB128 of int64 ``values`` (n,)."""
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    lengths = np.ones(zigzag.shape, np.int64)
    rest = zigzag >> np.uint64(7)
    while rest.any():
        lengths += rest != 0
        rest >>= np.uint64(7)
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), np.uint8)
    for k in range(int(lengths.max(initial=0))):
        rows = lengths > k
        septet = (zigzag[rows] >> np.uint64(7 * k)).astype(np.uint8) & np.uint8(0x7F)
        more = (lengths[rows] > k + 1).astype(np.uint8) << np.uint8(7)
        out[starts[rows] + k] = septet | more
    return out.tobytes()


def decode_varints(data: bytes) -> I64:
    """Inverse of :func:`encode_varints`; int64 (n,).

    Raises:
        DataCorrupted: The last value is cut, or one is longer than 64 bits.
    """
    raw = np.frombuffer(data, np.uint8)
    is_last = raw < 0x80
    if raw.size and not is_last[-1]:
        raise DataCorrupted("a column block ends within a number")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1)) if ends.size else ends
    lengths = ends - starts + 1
    longest = int(lengths.max(initial=0))
    if longest > _MAX_VARINT_BYTES or bool((raw[ends[lengths == _MAX_VARINT_BYTES]] > 1).any()):
        raise DataCorrupted("a column block has a number of more than 64 bits")
    zigzag = np.zeros(ends.size, np.uint64)
    for k in range(longest):
        rows = lengths > k
        septet = (raw[starts[rows] + k] & np.uint8(0x7F)).astype(np.uint64)
        zigzag[rows] |= septet << np.uint64(7 * k)
    half = (zigzag >> np.uint64(1)).view(np.int64)
    sign = -(zigzag & np.uint64(1)).view(np.int64)
    values: I64 = half ^ sign
    return values


def pack(data: bytes) -> bytes:
    """One byte that names the form, then ``data`` raw or as a zstd frame, whichever is smaller."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
    squeezed = compressor.compress(data)
    return _ZSTD + squeezed if len(squeezed) < len(data) else _RAW + data


def unpack(block: bytes) -> bytes:
    """Inverse of :func:`pack`.

    Raises:
        DataCorrupted: Unknown form, broken frame, or more than ``MAX_UNPACKED_BYTES``.
    """
    form, body = block[:1], block[1:]
    if form == _RAW:
        if len(body) > MAX_UNPACKED_BYTES:
            raise DataCorrupted("a column block is too large")
        return body
    if form != _ZSTD:
        raise DataCorrupted("a column block has an unknown form")
    # The one-shot decompressor trusts the size that the frame states; a reader does not.
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_UNPACKED_BYTES)
    try:
        with decompressor.stream_reader(body) as reader:
            data = reader.read(MAX_UNPACKED_BYTES + 1)
    except zstandard.ZstdError as error:
        raise DataCorrupted("a column block does not decompress") from error
    if len(data) > MAX_UNPACKED_BYTES:
        raise DataCorrupted("a column block unpacks to too much")
    return data


def delta_in_groups(values: I64, order: I64, is_start: NDArray[np.bool_]) -> I64:
    """Differences to the predecessor within each group; a group's first value stays as it is.

    Args:
        values: int64 (n,).
        order: int64 (n,), permutation that brings each group's rows together, in time.
        is_start: bool (n,), in that order: whether a row is its group's first.

    Returns:
        int64 (n,), in the original order.
    """
    ordered = values[order]
    previous = np.concatenate(([0], ordered[:-1]))
    out = np.empty_like(values)
    out[order] = np.where(is_start, ordered, ordered - previous)
    return out


def sum_in_groups(deltas: I64, order: I64, is_start: NDArray[np.bool_]) -> I64:
    """Inverse of :func:`delta_in_groups`."""
    ordered = deltas[order]
    total = np.cumsum(ordered)
    starts = np.flatnonzero(is_start)
    before = total[starts] - ordered[starts]
    group = np.cumsum(is_start) - 1
    out = np.empty_like(deltas)
    out[order] = total - before[group] if starts.size else total
    return out
