"""Interleaved rANS: what goes in comes out, at about the entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camsdk.artifact import entropy
from camsdk.errors import DataCorrupted


def draw(seed: int, count: int, alphabet: int, zeros: float) -> np.ndarray:
    """``count`` symbols below ``alphabet``, this share of them 0."""
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, alphabet, count)
    return np.where(rng.random(count) < zeros, 0, symbols).astype(np.uint8)


def one_table(symbols: np.ndarray) -> np.ndarray:
    return entropy.quantize_counts(np.bincount(symbols, minlength=256))[None]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 999) | st.sampled_from([entropy.STEPS, 3 * entropy.STEPS + 1]),
    alphabet=st.integers(1, 256),
    zeros=st.floats(0, 1),
)
def test_decoding_gives_back_what_was_encoded(seed, count, alphabet, zeros):
    symbols = draw(seed, count, alphabet, zeros)
    tables, ids = one_table(symbols), np.zeros(count, np.uint16)
    words = entropy.encode(symbols, tables, ids)
    assert np.array_equal(entropy.decode(words, tables, ids), symbols)


def test_nothing_takes_no_words():
    nothing, ids = np.zeros(0, np.uint8), np.zeros(0, np.uint16)
    words = entropy.encode(nothing, np.zeros((0, 256), np.uint16), ids)
    assert words.size == 0
    assert entropy.decode(words, np.zeros((0, 256), np.uint16), ids).size == 0


def test_each_symbol_is_coded_with_its_own_table():
    symbols = np.concatenate([draw(0, 9000, 3, 0.5), 200 + draw(1, 9000, 5, 0.1)])
    tables = np.concatenate([one_table(symbols[:9000]), one_table(symbols[9000:])])
    ids = np.repeat(np.arange(2, dtype=np.uint16), 9000)
    words = entropy.encode(symbols, tables, ids)
    assert np.array_equal(entropy.decode(words, tables, ids), symbols)
    together = entropy.encode(symbols, one_table(symbols), np.zeros(18000, np.uint16))
    assert words.nbytes < 0.75 * together.nbytes


@pytest.mark.parametrize("zeros", [0.5, 0.9, 0.99])
def test_it_costs_the_entropy_and_little_more(zeros):
    symbols = draw(2, 400_000, 8, zeros)
    shares = np.bincount(symbols) / symbols.size
    least = -float(np.sum(shares * np.log2(shares))) * symbols.size
    words = entropy.encode(symbols, one_table(symbols), np.zeros(symbols.size, np.uint16))
    lanes = entropy.lane_count(symbols.size)
    assert words.nbytes * 8 < 1.01 * least + 32 * lanes


def test_a_single_symbol_costs_only_the_states():
    symbols = np.full(50_000, 7, np.uint8)
    words = entropy.encode(symbols, one_table(symbols), np.zeros(50_000, np.uint16))
    assert words.size == 2 * entropy.lane_count(50_000)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=256).filter(any))
def test_frequencies_add_up_and_keep_every_symbol(counts):
    padded = np.array(counts + [0] * (256 - len(counts)), np.int64)
    frequencies = entropy.quantize_counts(padded)
    assert frequencies.sum() == entropy.SCALE
    assert np.array_equal(frequencies > 0, padded > 0)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 999), cut=st.integers(1, 30))
def test_words_that_were_cut_or_changed_are_noticed(seed, cut):
    symbols = draw(3, 400, 9, 0.6)
    tables, ids = one_table(symbols), np.zeros(400, np.uint16)
    words = entropy.encode(symbols, tables, ids)
    with pytest.raises(DataCorrupted):
        entropy.decode(words[:-cut], tables, ids)
    with pytest.raises(DataCorrupted):
        entropy.decode(np.append(words, words[:cut]), tables, ids)
    rng = np.random.default_rng(seed)
    changed = words.copy()
    changed[rng.integers(words.size)] ^= np.uint16(1 << rng.integers(16))
    with pytest.raises(DataCorrupted):  # the state at the end is no longer the first one
        entropy.decode(changed, tables, ids)


def test_tables_that_do_not_add_up_are_refused():
    tables = np.zeros((1, 256), np.uint16)
    tables[0, :2] = 4096, 1
    with pytest.raises(DataCorrupted, match="add up"):
        entropy.decode(np.array([0, 1], np.uint16), tables, np.zeros(1, np.uint16))
