"""Laws of the integer columns."""

import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camsdk.errors import DataCorrupted
from camsdk.wire import columns

INT64 = hnp.arrays(np.int64, st.integers(0, 200), elements=st.integers(-(2**63), 2**63 - 1))


@given(INT64)
def test_varints_round_trip(values):
    assert np.array_equal(columns.decode_varints(columns.encode_varints(values)), values)


@given(st.lists(st.integers(-64, 63)))
def test_small_numbers_take_one_byte(values):
    assert len(columns.encode_varints(np.array(values, np.int64))) == len(values)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data):
    try:
        values = columns.decode_varints(data)
    except DataCorrupted:
        return
    assert values.dtype == np.int64
    assert values.size <= len(data)


def test_a_cut_number_is_refused():
    data = columns.encode_varints(np.array([1 << 40], np.int64))
    with pytest.raises(DataCorrupted, match="ends within"):
        columns.decode_varints(data[:-1])


def test_a_number_of_more_than_64_bits_is_refused():
    with pytest.raises(DataCorrupted, match="64 bits"):
        columns.decode_varints(b"\xff" * 9 + b"\x02")


@given(st.binary(max_size=2000))
def test_pack_round_trip_never_costs_more_than_a_byte(data):
    block = columns.pack(data)
    assert columns.unpack(block) == data
    assert len(block) <= len(data) + 1


def test_a_bomb_stops_at_the_limit_even_if_it_states_its_size():
    bomb = zstandard.ZstdCompressor().compress(bytes(columns.MAX_UNPACKED_BYTES + 1))
    assert len(bomb) < 2000
    with pytest.raises(DataCorrupted, match="too much"):
        columns.unpack(b"\x01" + bomb)


def test_the_largest_block_costs_bounded_memory():
    block = columns.pack(bytes(columns.MAX_UNPACKED_BYTES))
    assert len(block) < 2000
    tracemalloc.start()
    try:
        assert columns.decode_varints(columns.unpack(block)).size == columns.MAX_UNPACKED_BYTES
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 80 << 20


@pytest.mark.parametrize("block", [b"", b"\x07abc", b"\x01not zstd"])
def test_unknown_blocks_are_refused(block):
    with pytest.raises(DataCorrupted):
        columns.unpack(block)


@given(hnp.arrays(np.int64, st.integers(0, 60), elements=st.integers(-(2**40), 2**40)), st.data())
def test_group_differences_round_trip(values, data):
    groups = data.draw(hnp.arrays(np.int64, values.shape, elements=st.integers(0, 4)))
    order = np.argsort(groups, kind="stable")
    is_start = np.ones(values.size, np.bool_)
    is_start[1:] = groups[order][1:] != groups[order][:-1]
    deltas = columns.delta_in_groups(values, order, is_start)
    assert np.array_equal(columns.sum_in_groups(deltas, order, is_start), values)
