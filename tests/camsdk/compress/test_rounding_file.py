"""A rounding that was kept is the same afterwards, and of one set of circumstances alone."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camsdk.compress.coded_model import CodedModel
from camsdk.compress.codes import CodedTensor
from camsdk.compress.graph.layers import list_layers
from camsdk.compress.graph.qdq import ActivationRange
from camsdk.compress.options import (
    ActivationOptions,
    CodeSet,
    LayerOptions,
    PruneOptions,
    QuantizeOptions,
    WeightOptions,
)
from camsdk.compress.rounding_file import (
    MAGIC,
    Rounding,
    read_rounding,
    rounding_digest,
    write_rounding,
)
from camsdk.compress.whole_file import read_whole, write_whole
from camsdk.errors import DataCorrupted
from support.small_detector import small_detector

MODEL = onnx.load_from_string(small_detector().model)


SHAPES = {layer.name: layer.shape for layer in list_layers(MODEL)}


def codes(layer: str) -> np.ndarray:
    """-2 to 2 in a row."""
    return np.resize(np.arange(-2, 3, dtype=np.int8), SHAPES[layer])


def rounding(low: float = -0.1, scale: float = 0.3) -> Rounding:
    weights = {
        "head": CodedTensor(codes("head"), np.full(10, scale, np.float32), CodeSet(3)),
        "conv0": CodedTensor(
            codes("conv0"), np.array(scale, np.float32), CodeSet(4, "power-of-two")
        ),
    }
    ranges = {"z": ActivationRange(low, 0.7), "y": ActivationRange(0.0, 1 / 3, 4)}
    return Rounding(CodedModel(MODEL, weights, ranges, {"head": 0.1}), False, True, 4, "ab", "mse")


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
    assert list(read.made.weights) == ["head", "conv0"]
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
    assert read.best_range_rule == "mse"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_damaged_file_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "x.camround"
    assert read_rounding(path) is None
    write_rounding(path, rounding())
    whole = path.read_bytes()
    turned = bytearray(whole)
    turned[len(whole) // 2] ^= 0x40
    for content in (b"", b"no rounding", whole[:-40], whole + b"0", bytes(turned)):
        path.write_bytes(content)
        with pytest.raises(DataCorrupted, match="is damaged") as caught:
            read_rounding(path)
        assert "delete it" in caught.value.hint


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """The document of a file, and what follows it."""
    content = read_whole(path, MAGIC, "rounding")
    assert content is not None
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


Change = Callable[[dict[str, Any]], object]
FORGED: dict[str, Change] = {
    "a field more": lambda facts: facts.update(more=1),
    "a field less": lambda facts: facts.pop("noise"),
    "bits": lambda facts: facts["weights"][0].update(bit_width=99),
    "codes of fewer bits": lambda facts: facts["weights"][0].update(bit_width=2),
    "spacing": lambda facts: facts["weights"][0].update(spacing="odd"),
    "layer": lambda facts: facts["weights"][0].update(layer="tail"),
    "shape of as many": lambda facts: facts["weights"][0]["shape"].reverse(),
    "shape of 91 TiB": lambda facts: facts["weights"][0].update(shape=[10, 10 << 40]),
    "shape below 0": lambda facts: facts["weights"][0].update(shape=[-10, -24, 1, 1]),
    "one scale": lambda facts: facts["weights"][0].update(has_filter_scales=False),
    "activation bits": lambda facts: facts["activations"][0].__setitem__(3, 99),
    "activation range": lambda facts: facts["activations"][0].__setitem__(1, 5.0),
    "model of 91 TiB": lambda facts: facts.update(model_bytes=91 << 40),
    "model cut": lambda facts: facts.update(model_bytes=facts["model_bytes"] - 100),
    "rule of ranges": lambda facts: facts.update(best_range_rule="worst"),
    "no numbers": lambda facts: facts.update(input_count="4"),
}


@pytest.mark.parametrize("change", FORGED)
def test_a_forged_file_is_damaged_to_the_reader(change: str, tmp_path: Path) -> None:
    path = tmp_path / "x.camround"
    write_rounding(path, rounding())
    facts, rest = parts(path)
    FORGED[change](facts)
    told = json.dumps(facts).encode()
    write_whole(path, MAGIC, len(told).to_bytes(8, "little") + told + rest)
    with pytest.raises(DataCorrupted, match="is damaged"):
        read_rounding(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_scales_that_are_none_are_damage(value: float, tmp_path: Path) -> None:
    write_rounding(tmp_path / "x.camround", rounding(scale=value))
    with pytest.raises(DataCorrupted, match="is damaged"):
        read_rounding(tmp_path / "x.camround")


@pytest.mark.parametrize("start", [b"", b"\xff" * 8 + b"{}", bytes(8), b"\2" + bytes(7) + b"[]"])
def test_noise_behind_the_right_digest_is_damage(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.camround"
    write_whole(path, MAGIC, start + np.random.default_rng(0).bytes(2000) * bool(start))
    with pytest.raises(DataCorrupted, match="is damaged"):
        read_rounding(path)


USUAL = QuantizeOptions()
LAYERS = {"a": LayerOptions()}
OTHERS: dict[type, dict[str, object]] = {
    QuantizeOptions: {
        "weights": WeightOptions(CodeSet(3)),
        "activations": ActivationOptions(4),
        "layers": LAYERS,
        "rounding": "gptq",
        "equalize": False,
        "correct_bias": False,
    },
    WeightOptions: {"code_set": CodeSet(3), "granularity": "tensor"},
    ActivationOptions: {"bit_width": 4, "range_rule": "mse"},
    LayerOptions: {"weights": None, "activations": None},
    CodeSet: {"bit_width": 3, "spacing": "power-of-two"},
}
"""Of every option another value than it is by default."""


def varied(usual: Any) -> list[Any]:
    """A copy for each field, which alone differs."""
    others = OTHERS[type(usual)]
    assert set(others) == {field.name for field in fields(usual)}
    return [replace(usual, **{name: value}) for name, value in others.items()]


def named(quantize: QuantizeOptions) -> str:
    return rounding_digest(MODEL, quantize, None, None, "ab", 0, "1")


def test_every_option_of_quantization_names_the_file() -> None:
    codes_of = [WeightOptions(code_set) for code_set in varied(CodeSet(4))]
    weights = [*varied(WeightOptions()), WeightOptions(CodeSet(4)), *codes_of[1:]]
    ranges = varied(ActivationOptions())
    of_layers = [
        *varied(LayerOptions()),
        *(LayerOptions(weights=of) for of in weights),
        *(LayerOptions(activations=of) for of in ranges),
    ]
    given = [
        USUAL,
        *varied(USUAL),
        *(replace(USUAL, weights=of) for of in weights[1:]),
        *(replace(USUAL, activations=of) for of in ranges[1:]),
        *(replace(USUAL, layers={"a": of}) for of in of_layers),
        replace(USUAL, layers={"b": LayerOptions()}),
    ]
    assert len({named(of) for of in given}) == len(given)
    assert named(QuantizeOptions(layers=dict(LAYERS))) == named(replace(USUAL, layers=LAYERS))


def test_all_else_that_decides_a_rounding_names_its_file() -> None:
    other = onnx.load_from_string(small_detector(seed=1).model)
    digests = [
        rounding_digest(MODEL, USUAL, None, None, "ab", 0, "1"),
        rounding_digest(other, USUAL, None, None, "ab", 0, "1"),
        rounding_digest(MODEL, USUAL, PruneOptions(0.5), None, "ab", 0, "1"),
        rounding_digest(MODEL, USUAL, None, {}, "ab", 0, "1"),
        rounding_digest(MODEL, USUAL, None, {"a": 0.5}, "ab", 0, "1"),
        rounding_digest(MODEL, USUAL, None, None, "cd", 0, "1"),
        rounding_digest(MODEL, USUAL, None, None, "ab", 1, "1"),
        rounding_digest(MODEL, USUAL, None, None, "ab", 0, "2"),
    ]
    assert len(set(digests)) == len(digests)
    assert rounding_digest(MODEL, USUAL, None, None, "ab", 0, "1") == digests[0]
