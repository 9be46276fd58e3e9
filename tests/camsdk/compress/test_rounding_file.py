"""A rounding that was kept is the same afterwards, and of one set of circumstances alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camsdk.compress.coded_model import CodedModel
from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.qdq import ActivationRange
from camsdk.compress.options import CodeSet, LayerOptions, PruneOptions, QuantizeOptions
from camsdk.compress.rounding_file import (
    Rounding,
    read_rounding,
    rounding_digest,
    write_rounding,
)
from camsdk.errors import DataCorrupted
from support.small_detector import small_detector

MODEL = onnx.load_from_string(small_detector().model)


def rounding(low: float = -0.1, scale: float = 0.3) -> Rounding:
    codes = np.arange(-3, 3, dtype=np.int8).reshape(3, 2)
    weights = {
        "b": CodedTensor(codes, np.array([scale, 1, 2], np.float32), CodeSet(3)),
        "a": CodedTensor(codes * 0, np.array(scale, np.float32), CodeSet(4, "power-of-two")),
    }
    ranges = {"z": ActivationRange(low, 0.7), "y": ActivationRange(0.0, 1 / 3, 4)}
    return Rounding(CodedModel(MODEL, weights, ranges, {"b": 0.1}), False, True, 4, "ab")


@settings(max_examples=20)
@given(low=st.floats(-1e30, 0.0), scale=st.floats(2.0**-60, 2.0**60, width=32))
def test_what_is_read_back_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, low: float, scale: float
) -> None:
    path, given = tmp_path_factory.mktemp("kept") / "x.camround", rounding(low, scale)
    write_rounding(path, given)
    read = read_rounding(path)
    assert read is not None
    assert read.made.model == MODEL
    assert list(read.made.weights) == ["b", "a"]
    for name, coded in given.made.weights.items():
        again = read.made.weights[name]
        for before, after in ((coded.codes, again.codes), (coded.scale, again.scale)):
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
            assert before.tobytes() == after.tobytes()
        assert coded.code_set == again.code_set
    assert list(read.made.activations.items()) == list(given.made.activations.items())
    assert read.made.noise == given.made.noise
    told = (read.is_synthetic, read.is_equalized, read.input_count, read.inputs_sha256)
    assert told == (False, True, 4, "ab")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_damaged_file_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "x.camround"
    assert read_rounding(path) is None
    write_rounding(path, rounding())
    whole = path.read_bytes()
    turned = bytearray(whole)
    turned[len(whole) // 2] ^= 0x40
    for content in (b"", b"no archive", whole[:-40], bytes(turned)):
        path.write_bytes(content)
        with pytest.raises(DataCorrupted, match="is damaged") as caught:
            read_rounding(path)
        assert "delete it" in caught.value.hint


def test_everything_that_decides_a_rounding_names_its_file() -> None:
    other = onnx.load_from_string(small_detector(seed=1).model)
    usual = QuantizeOptions()
    digests = [
        rounding_digest(MODEL, usual, None, None, "ab", 0, "1"),
        rounding_digest(other, usual, None, None, "ab", 0, "1"),
        rounding_digest(MODEL, replace(usual, rounding="gptq"), None, None, "ab", 0, "1"),
        rounding_digest(
            MODEL, replace(usual, layers={"a": LayerOptions(None)}), None, None, "ab", 0, "1"
        ),
        rounding_digest(MODEL, usual, PruneOptions(0.5), None, "ab", 0, "1"),
        rounding_digest(MODEL, usual, None, {}, "ab", 0, "1"),
        rounding_digest(MODEL, usual, None, {"a": 0.5}, "ab", 0, "1"),
        rounding_digest(MODEL, usual, None, None, "cd", 0, "1"),
        rounding_digest(MODEL, usual, None, None, "ab", 1, "1"),
        rounding_digest(MODEL, usual, None, None, "ab", 0, "2"),
    ]
    assert len(set(digests)) == len(digests)
    assert rounding_digest(MODEL, usual, None, None, "ab", 0, "1") == digests[0]
