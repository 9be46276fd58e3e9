"""The packed model's reader against files that were damaged on purpose."""

import hashlib
import time
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from camsdk.artifact import packed
from camsdk.compress.pack_model import pack_model
from camsdk.errors import DataCorrupted, ResourceExhausted

LIMIT = 1 << 20


def make_onnx() -> bytes:
    """Sparse codes, dense codes, floats and biases."""
    rng = np.random.default_rng(4)
    sparse = rng.choice([-4, -2, -1, 1, 2, 4], (16, 8, 3, 3)) * (rng.random((16, 8, 3, 3)) < 0.1)
    arrays = {
        "sparse": sparse.astype(np.int8),
        "dense": rng.normal(0, 30, (40, 40)).round().clip(-127, 127).astype(np.int8),
        "scale": rng.random(40).astype(np.float32),
        "bias": rng.integers(-(2**20), 2**20, 40).astype(np.int32),
    }
    arrays["sparse"][3:9] = 0
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([], "graph", [], [], initializers)
    return helper.make_model(graph).SerializeToString()


ONNX = make_onnx()
PACKED = pack_model(ONNX)


def rebuild(sections: list[bytes], size: int = len(ONNX), digest: bytes | None = None) -> bytes:
    """A packed file of these sections, all of them stored as they are."""
    head = packed.HEAD.pack(
        packed.MAGIC, size, digest or hashlib.sha256(ONNX).digest(), len(sections)
    )
    sizes = [packed.SECTION_SIZE.pack(len(section), len(section)) for section in sections]
    return b"".join([head, *sizes, *sections])


def split() -> list[bytes]:
    """The sections of ``PACKED``."""
    *_, count = packed.HEAD.unpack_from(PACKED)
    position = packed.HEAD.size + count * packed.SECTION_SIZE.size
    sections = []
    for size, stored in packed.SECTION_SIZE.iter_unpack(PACKED[packed.HEAD.size : position]):
        content = PACKED[position : position + stored]
        plain = zstandard.ZstdDecompressor().decompress(content) if stored != size else content
        sections.append(plain)
        position += stored
    return sections


def assert_harmless(damaged: bytes) -> None:
    """It is refused, or the damage was to what does not matter, such as an unused table."""
    try:
        assert packed.unpack(damaged, max_bytes=LIMIT) == ONNX
    except (DataCorrupted, ResourceExhausted):
        return


def test_it_unpacks_to_the_same_bytes():
    assert packed.unpack(PACKED, max_bytes=LIMIT) == ONNX
    assert packed.unpack(rebuild(split()), max_bytes=LIMIT) == ONNX
    assert packed.is_packed(PACKED)
    assert not packed.is_packed(ONNX)


def test_the_limit_holds():
    assert packed.unpack(PACKED, max_bytes=len(ONNX)) == ONNX
    with pytest.raises(ResourceExhausted, match="over"):
        packed.unpack(PACKED, max_bytes=len(ONNX) - 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(PACKED) - 1))
def test_a_cut_file_is_refused(length):
    with pytest.raises(DataCorrupted):
        packed.unpack(PACKED[:length], max_bytes=LIMIT)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, len(PACKED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(position, bit):
    damaged = bytearray(PACKED)
    damaged[position] ^= 1 << bit
    assert_harmless(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_wrong_sections_behind_right_sizes_are_refused(data):
    """As a flipped bit, but past zstd's own checks."""
    sections = [bytearray(section) for section in split()]
    index = data.draw(st.sampled_from([i for i, s in enumerate(sections) if s]))
    position = data.draw(st.integers(0, len(sections[index]) - 1))
    sections[index][position] ^= data.draw(st.integers(1, 255))
    assert_harmless(rebuild([bytes(section) for section in sections]))


@settings(max_examples=100, deadline=None)
@given(index=st.integers(0, len(split()) - 1), content=st.binary(max_size=300))
def test_any_other_section_is_refused(index, content):
    sections = split()
    if content != sections[index]:
        sections[index] = content
        assert_harmless(rebuild(sections))


def test_noise_is_refused():
    rng = np.random.default_rng(5)
    for _ in range(100):
        noise = packed.MAGIC + rng.bytes(int(rng.integers(0, 400)))
        with pytest.raises((DataCorrupted, ResourceExhausted)):
            packed.unpack(noise, max_bytes=LIMIT)


def test_a_bomb_is_refused_before_it_takes_memory():
    bomb = zstandard.ZstdCompressor().compress(bytes(200 << 20))
    sections = [b"", bomb, b"", b"", b"", b"", b""]
    for stated in (10_000, 200 << 20):
        sizes = [packed.SECTION_SIZE.pack(0, 0)] * len(sections)
        sizes[1] = packed.SECTION_SIZE.pack(stated, len(bomb))
        head = packed.HEAD.pack(packed.MAGIC, LIMIT, bytes(32), len(sections))
        tracemalloc.start()
        with pytest.raises(DataCorrupted):
            packed.unpack(b"".join([head, *sizes, bomb]), max_bytes=LIMIT)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20


def test_a_tensor_cannot_ask_for_more_than_the_model():
    row = np.zeros(9, "<u4")
    for field, value in ((1, 2**32 - 1), (0, 2**32 - 1), (3, 2**32 - 1), (4, 2**31), (8, 2**31)):
        row[:] = 0, 64, 0, 1, 1, 1, 0, 0, 1
        row[field] = value
        sections = split()
        sections[0] = row.tobytes()
        start = time.perf_counter()
        with pytest.raises(DataCorrupted):
            packed.unpack(rebuild(sections), max_bytes=LIMIT)
        assert time.perf_counter() - start < 0.5
