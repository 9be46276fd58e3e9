"""Entropy coding of small integers: interleaved rANS that numpy decodes thousands of lanes at once.

Range asymmetric numeral systems (Duda, arXiv:1311.2540, section 2.3): a state x in [2^16, 2^32)
holds the symbols coded so far; coding a symbol with frequency f of 2^12 multiplies it by 2^12 / f.
When x would grow past its interval, its lower 16 bits are written out, so a decoder reads at most
one word a symbol. Symbol number i belongs to lane ``i % lanes``; all lanes advance in lockstep and
take their words from one shared sequence in the order of the lanes (Giesen, arXiv:1402.3392), so
one step of the decoder is a dozen numpy calls whatever the number of lanes.

Each symbol is coded with one of several tables; which one, both sides know from its position. A
table with a single symbol costs nothing. The cost over the entropy is 16 bits a lane.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.errors import DataCorrupted

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

SCALE_BITS: Final = 12
SCALE: Final = 1 << SCALE_BITS
STEPS: Final = 4096
"""Symbols a lane; fixes the lanes, so that a hostile file cannot ask for one endless lane."""
_LOW: Final = 1 << 16
_ALPHABET: Final = 256


def lane_count(symbols: int) -> int:
    """Lanes that so many symbols are spread over."""
    return -(-symbols // STEPS)


def quantize_counts(counts: NDArray[np.int64]) -> U16:
    """Frequencies of sum 2^12, at least 1 where a count is above 0, close to the shares.

    Args:
        counts: Shape (256,), how often each symbol occurs; at least one above 0.

    Returns:
        Shape (256,).
    """
    shares = counts * (SCALE / counts.sum())
    frequencies = np.where(counts > 0, np.maximum(np.floor(shares), 1), 0).astype(np.int64)
    missing = SCALE - int(frequencies.sum())
    while missing:
        # One step to where it saves most, or costs least: the derivative of sum count * log2 f.
        if missing > 0:
            gain = counts / np.maximum(frequencies, 1)
            frequencies[int(np.argmax(gain))] += 1
            missing -= 1
        else:
            loss = np.where(frequencies > 1, counts / np.maximum(frequencies - 1, 1), np.inf)
            frequencies[int(np.argmin(loss))] -= 1
            missing += 1
    return frequencies.astype(np.uint16)


def cost_bits(counts: NDArray[np.int64], frequencies: U16) -> float:
    """Bits that so many symbols take with these frequencies."""
    used = counts > 0
    return float(np.sum(counts[used] * (SCALE_BITS - np.log2(frequencies[used]))))


def encode(symbols: U8, tables: U16, table_ids: U16) -> U16:
    """Code symbols.

    Args:
        symbols: Shape (n,).
        tables: Shape (tables, 256), each of sum 2^12 and above 0 for the symbols coded with it.
        table_ids: Shape (n,), the table of each symbol.

    Returns:
        Words: the states of all lanes, two words each, low first, then what a decoder reads.
    """
    lanes = lane_count(len(symbols))
    wide = tables.astype(np.uint64)
    starts = np.cumsum(wide, axis=1) - wide
    frequency = wide[table_ids, symbols]
    start = starts[table_ids, symbols]
    states = np.full(lanes, _LOW, np.uint64)
    chunks: list[U16] = []
    first = (len(symbols) - 1) // lanes * lanes if lanes else 0
    for begin in range(first, -1, -lanes) if lanes else ():
        f, c = frequency[begin : begin + lanes], start[begin : begin + lanes]
        x = states[: len(f)]
        is_full = x >= f << np.uint64(32 - SCALE_BITS)
        chunks.append((x[is_full] & np.uint64(0xFFFF)).astype(np.uint16))
        x[is_full] >>= np.uint64(16)
        x[:] = (x // f << np.uint64(SCALE_BITS)) + x % f + c
    head = states.astype("<u4").view("<u2")
    return np.concatenate([head, *reversed(chunks)]).astype(np.uint16)


def decode(words: U16, tables: U16, table_ids: U16) -> U8:
    """The symbols that ``encode`` was given.

    Args:
        words: From ``encode``; of any origin.
        tables: Shape (tables, 256); of any origin.
        table_ids: Shape (n,), each below the number of tables.

    Returns:
        Shape (n,).

    Raises:
        DataCorrupted: The words do not end where the symbols do, or a table's sum is wrong.
    """
    count = len(table_ids)
    lanes = lane_count(count)
    if len(words) < 2 * lanes:
        raise DataCorrupted("a packed tensor is cut")
    entries = _decoding_entries(tables)
    states = np.ascontiguousarray(words[: 2 * lanes], "<u2").view("<u4").astype(np.uint32)
    if lanes and int(states.min()) < _LOW:
        raise DataCorrupted("a packed tensor has an impossible state")
    symbols = np.empty(count, np.uint8)
    position, words = 2 * lanes, words.astype(np.uint32)
    for begin in range(0, count, lanes or 1):
        ids = table_ids[begin : begin + lanes]
        x = states[: len(ids)]
        entry = entries[(ids.astype(np.uint32) << SCALE_BITS) + (x & (SCALE - 1))]
        symbols[begin : begin + lanes] = entry & 0xFF
        x >>= SCALE_BITS
        x *= (entry >> 8 & (SCALE - 1)) + 1
        x += entry >> 20
        short = np.flatnonzero(x < _LOW)
        end = position + len(short)
        if end > len(words):
            raise DataCorrupted("a packed tensor is cut")
        x[short] = x[short] << 16 | words[position:end]
        position = end
    if position != len(words) or (states != _LOW).any():
        raise DataCorrupted("a packed tensor does not end where its symbols do")
    return symbols


def _decoding_entries(tables: U16) -> U32:
    """For each table and each slot of 2^12: symbol, frequency - 1, slot - start in one number.

    8, 12 and 12 bits, from the lowest; shape (tables * 2^12,).
    """
    wide = tables.astype(np.int64)
    if (wide.sum(axis=1) != SCALE).any():
        raise DataCorrupted("the frequencies of a packed tensor do not add up")
    flat = wide.ravel()
    slots = np.repeat(np.tile(np.arange(_ALPHABET), len(tables)), flat)
    frequencies = np.repeat(flat, flat)
    starts = np.repeat((np.cumsum(wide, axis=1) - wide).ravel(), flat)
    offsets = np.tile(np.arange(SCALE), len(tables)) - starts
    return (slots | (frequencies - 1) << 8 | offsets << 20).astype(np.uint32)
