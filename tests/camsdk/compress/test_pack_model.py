"""Packing: every model comes back byte for byte, and sparse low-bit codes come small."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from camsdk.artifact import packed
from camsdk.compress.options import CodeSet
from camsdk.compress.pack_model import pack_model
from camsdk.errors import DataCorrupted
from support import models


def model_of(*arrays: np.ndarray) -> bytes:
    """A model of nothing but these constants."""
    tensors = [numpy_helper.from_array(array, f"t{index}") for index, array in enumerate(arrays)]
    return helper.make_model(helper.make_graph([], "graph", [], [], tensors)).SerializeToString()


THREE_BITS = CodeSet(3, "power-of-two")


def codes(shape, code_set=THREE_BITS, density=0.1, block=(1, 1), seed=0):
    """Random codes of this set, this share of the blocks not zero."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[0], int(np.prod(shape[1:], dtype=int))
    mask = rng.random((-(-rows // block[0]), -(-columns // block[1]))) < density
    mask = mask.repeat(block[0], 0).repeat(block[1], 1)[:rows, :columns]
    levels = code_set.levels[code_set.levels != 0]
    return np.where(mask, rng.choice(levels, (rows, columns)), 0).astype(np.int8).reshape(shape)


def packed_size(model: bytes) -> int:
    data = pack_model(model)
    assert packed.unpack(data, max_bytes=len(model)) == model
    assert pack_model(model) == data
    return len(data)


@settings(max_examples=25, deadline=None)
@given(
    bit_width=st.integers(1, 8),
    density=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]) | st.floats(0, 1),
    shape=st.lists(st.integers(0, 19), max_size=4).map(tuple),
    block=st.sampled_from([(1, 1), (4, 1), (1, 4), (3, 5)]),
    seed=st.integers(0, 99),
)
def test_codes_of_every_width_sparsity_and_shape_come_back(bit_width, density, shape, block, seed):
    array = codes(shape or (1,), CodeSet(bit_width), density, block, seed).reshape(shape or (-1,))
    packed_size(model_of(array, array.astype(np.int32), array.astype(np.float32) / 7))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["f4", "f8", "f2", "i1", "u1", "i2", "i4", "i8", "u2", "u8", "?"]),
            st.integers(0, 3000),
        ),
        max_size=6,
    )
)
def test_tensors_of_every_type_come_back(kinds):
    rng = np.random.default_rng(len(kinds))
    packed_size(model_of(*((rng.normal(0, 9, size)).astype(dtype) for dtype, size in kinds)))


@pytest.mark.parametrize("model", [models.conv(), models.endless_loop(), models.external_data("x")])
def test_models_of_all_kinds_come_back(model: onnx.ModelProto) -> None:
    packed_size(model.SerializeToString())


def test_what_is_no_model_is_refused():
    with pytest.raises(DataCorrupted):
        pack_model(b"\xff" * 99)


def test_90_percent_sparse_3_bit_codes_cost_their_entropy():
    array = codes((256, 128, 3, 3))
    # H(0.1) + 0.1 log2 6 = 0.728 bits; 1 % for lanes and rounding, 400 bytes for the rest.
    assert packed_size(model_of(array)) < 0.728 / 8 * array.size * 1.01 + 400
    assert packed_size(model_of(array)) < 4 * array.size / 43


@pytest.mark.parametrize("block", [(4, 1), (1, 4), (1, 9), (1, 1152), (8, 1)])
def test_blocks_of_zeros_cost_less_than_as_many_scattered_ones(block):
    scattered = packed_size(model_of(codes((96, 128, 3, 3))))
    # In blocks of 4 the mask costs a quarter: (0.469 / 4 + 0.259) / 0.728 = 0.52.
    assert packed_size(model_of(codes((96, 128, 3, 3), block=block))) < 0.6 * scattered


def test_empty_filters_and_dead_inputs_cost_next_to_nothing():
    array = codes((128, 64, 3, 3), CodeSet(8), density=1.0)
    array[::2] = 0
    few = packed_size(model_of(np.ascontiguousarray(array[1::2])))
    assert packed_size(model_of(array)) < few + 300
    array[:, 32:] = 0
    fewer = packed_size(model_of(np.ascontiguousarray(array[1::2, :32])))
    assert packed_size(model_of(array)) < 1.03 * fewer + 400


def test_filters_of_different_density_get_tables_of_their_own():
    dense, sparse = codes((64, 64, 3, 3), density=0.5), codes((64, 64, 3, 3), density=0.02)
    mixed = np.stack([dense, sparse], axis=1).reshape(128, 64, 3, 3)
    apart = packed_size(model_of(dense)) + packed_size(model_of(sparse))
    assert packed_size(model_of(mixed)) < 1.02 * apart


def test_repetition_goes_to_zstd():
    pattern = np.random.default_rng(0).integers(-127, 128, 1024).astype(np.int8)
    assert packed_size(model_of(np.tile(pattern, (64, 1)))) < 2048
