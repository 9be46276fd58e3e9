"""Vectors: one suite over faiss and brute force, and faiss against brute force."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcloud.vectors import CODE_SIZE, ExactVectors, FaissVectors, Vectors
from camsdk.errors import InvalidInput


def random_codes(count: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, CODE_SIZE))
    return np.rint(values / np.linalg.norm(values, axis=1, keepdims=True) * 127).astype(np.int8)


def ids_from(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int64)


@pytest.fixture(params=["faiss", "exact"])
def vectors(request: pytest.FixtureRequest, tmp_path: Path) -> Vectors:
    return FaissVectors(tmp_path) if request.param == "faiss" else ExactVectors()


def test_a_code_finds_itself_first_with_its_exact_product(vectors: Vectors) -> None:
    codes = random_codes(50)
    vectors.add(ids_from(10, 50), codes)
    ids, products = vectors.search(codes[[3, 7]], 4)
    assert ids[:, 0].tolist() == [13, 17]
    assert products[:, 0].tolist() == (codes[[3, 7]].astype(int) ** 2).sum(axis=1).tolist()
    assert (np.diff(products, axis=1) <= 0).all()


def test_an_empty_index_finds_nothing(vectors: Vectors) -> None:
    ids, products = vectors.search(random_codes(2), 5)
    assert ids.shape == products.shape == (2, 0)
    assert (len(vectors), vectors.last_id) == (0, 0)


def test_a_search_for_more_than_there_is_returns_what_there_is(vectors: Vectors) -> None:
    vectors.add(ids_from(1, 3), random_codes(3))
    assert vectors.search(random_codes(1), 10)[0].shape == (1, 3)


def test_only_allowed_ids_are_found(vectors: Vectors) -> None:
    codes = random_codes(20)
    vectors.add(ids_from(1, 20), codes)
    allowed = np.array([5, 9, 999], np.int64)
    ids, _ = vectors.search(codes[:1], 10, allowed)
    assert sorted(ids[0].tolist()) == [5, 9]
    assert vectors.search(codes[:1], 10, np.zeros(0, np.int64))[0].shape == (1, 0)


def test_adding_again_what_is_there_changes_nothing(vectors: Vectors) -> None:
    codes = random_codes(6)
    vectors.add(ids_from(1, 4), codes[:4])
    vectors.add(ids_from(1, 6), codes)
    assert (len(vectors), vectors.last_id) == (6, 6)


def test_reset_forgets(vectors: Vectors) -> None:
    vectors.add(ids_from(1, 4), random_codes(4))
    vectors.reset()
    assert (len(vectors), vectors.last_id) == (0, 0)
    vectors.add(ids_from(1, 2), random_codes(2))
    assert len(vectors) == 2


def test_wrong_shapes_are_refused(vectors: Vectors) -> None:
    with pytest.raises(InvalidInput, match="shape"):
        vectors.add(ids_from(1, 2), random_codes(3))
    with pytest.raises(InvalidInput, match="ascend"):
        vectors.add(np.array([2, 1], np.int64), random_codes(2))
    with pytest.raises(InvalidInput, match="shape"):
        vectors.search(random_codes(1)[:, :64], 1)
    with pytest.raises(InvalidInput, match="at least 1"):
        vectors.search(random_codes(1), 0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 300), limit=st.integers(1, 20))
def test_faiss_agrees_with_brute_force(
    seed: int, count: int, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    codes = random_codes(count, seed)
    allowed = ids_from(1, count)[:: 1 + seed % 3]
    faiss_vectors, exact = FaissVectors(tmp_path_factory.mktemp("index")), ExactVectors()
    for vectors in (faiss_vectors, exact):
        vectors.add(ids_from(1, count), codes)
    query = random_codes(3, seed + 1)
    for among in (None, allowed):
        found = faiss_vectors.search(query, limit, among)
        expected = exact.search(query, limit, among)
        assert np.array_equal(found[1], expected[1])  # equal products may swap their ids


def test_a_saved_index_is_loaded_and_goes_on(tmp_path: Path) -> None:
    codes = random_codes(8)
    first = FaissVectors(tmp_path)
    first.add(ids_from(1, 5), codes[:5])
    first.save()
    first.add(ids_from(6, 1), codes[5:6])  # never saved
    second = FaissVectors(tmp_path)
    assert (len(second), second.last_id) == (5, 5)
    second.add(ids_from(6, 3), codes[5:])
    assert second.search(codes[7:], 1)[0].tolist() == [[8]]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "no state", "old state"])
def test_a_damaged_file_means_an_empty_index(tmp_path: Path, damage: str) -> None:
    vectors = FaissVectors(tmp_path)
    vectors.add(ids_from(1, 5), random_codes(5))
    vectors.save()
    index, state = tmp_path / "appearance.faiss", tmp_path / "appearance.json"
    data = index.read_bytes()
    if damage == "truncated":
        index.write_bytes(data[:-100])
    elif damage == "flipped":
        index.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif damage == "foreign":
        index.write_bytes(b"x" * len(data))
    elif damage == "no state":
        state.unlink()
    else:
        state.write_text(json.dumps({"last_id": 3, "count": 3, "crc32": zlib.crc32(data)}))
    assert (len(FaissVectors(tmp_path)), FaissVectors(tmp_path).last_id) == (0, 0)


def test_a_disk_that_takes_no_index_costs_a_rebuild_and_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    vectors = FaissVectors(folder)
    vectors.add(ids_from(1, 3), random_codes(3))
    folder.rmdir()
    vectors.save()
    assert vectors.search(random_codes(3)[:1], 1)[0].tolist() == [[1]]
    folder.mkdir()
    vectors.save()
    assert len(FaissVectors(folder)) == 3
