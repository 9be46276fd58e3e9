"""Imported MXNet networks compute what MXNet 1.9.1 computed."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from camsdk.compress.importers.mxnet import import_mxnet
from camsdk.compress.importers.mxnet_reader import read_params
from camsdk.errors import CamError, DataCorrupted, InvalidInput, NotFound, UnsupportedModel

GOLDEN = Path(__file__).parents[3] / "golden" / "mxnet"
SHAPES = {"classifier": (1, 3, 34, 30), "pyramid": (2, 4, 20, 28)}


def run(model: onnx.ModelProto, data: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"data": data}))


def load(name: str) -> onnx.ModelProto:
    paths = GOLDEN / f"{name}-symbol.json", GOLDEN / f"{name}-0000.params"
    return import_mxnet(*paths, {"data": SHAPES[name]})


@pytest.mark.parametrize("name", SHAPES)
def test_agrees_with_mxnet(name: str) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    found = run(load(name), golden["data"])
    assert len(found) == len(golden) - 1
    for index, value in enumerate(found):
        np.testing.assert_allclose(value, golden[f"arr_{index}"], rtol=1e-4, atol=1e-5)


def test_a_network_that_mxnet_trained_gives_the_classes_that_it_gave() -> None:
    """Gluon's export of a network trained on Fashion-MNIST (tests/golden/mxnet_fashion.py)."""
    golden = np.load(GOLDEN / "fashion.npz")
    paths = GOLDEN / "fashion-symbol.json", GOLDEN / "fashion-0000.params"
    data = golden["data"].astype(np.float32)
    (found,) = run(import_mxnet(*paths, {"data": data.shape}), data)
    np.testing.assert_allclose(found, golden["mxnet"], rtol=1e-4, atol=1e-4)
    assert len(set(found.argmax(1).tolist())) >= 8  # it tells clothes apart


def test_parameters_of_another_network_are_named() -> None:
    paths = GOLDEN / "classifier-symbol.json", GOLDEN / "pyramid-0000.params"
    with pytest.raises(InvalidInput, match=r"'stem_weight', which layer 'stem'.*\.params"):
        import_mxnet(*paths, {"data": SHAPES["classifier"]})


def test_names_and_inputs() -> None:
    model = load("classifier")
    assert [value.name for value in model.graph.input] == ["data"]  # no label
    assert [value.name for value in model.graph.output] == ["softmax_output"]
    assert {"stem", "shortcut", "fc"} <= {node.name for node in model.graph.node}


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    paths = GOLDEN / "classifier-symbol.json", GOLDEN / "classifier-0000.params"
    with pytest.raises(InvalidInput, match="'data'"):
        import_mxnet(*paths, {})
    with pytest.raises(InvalidInput, match="'image'"):
        import_mxnet(*paths, {"image": (1, 3, 8, 8)})
    with pytest.raises(NotFound):
        import_mxnet(tmp_path / "none", paths[1], {})
    with pytest.raises(UnsupportedModel, match="stem"):
        import_mxnet(*paths, {"data": (1, 5, 34, 30)})  # five channels instead of three


def edited(tmp_path: Path, name: str, **changes: Any) -> Path:
    document = json.loads((GOLDEN / "classifier-symbol.json").read_text())
    for node in document["nodes"]:
        if node["name"] == name:
            node.update(changes)
    path = tmp_path / "symbol.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("name", "changes", "error", "match"),
    [
        ("fc", {"op": "Custom"}, UnsupportedModel, "'Custom' of layer 'fc'"),
        ("stem_relu", {"attrs": {"act_type": "gelu"}}, UnsupportedModel, "'stem_relu'"),
        ("stem", {"attrs": {"kernel": "(3, 3)", "num_filter": "-1"}}, UnsupportedModel, "'stem'"),
        ("stem", {"attrs": {"kernel": "__import__('os')"}}, UnsupportedModel, "'stem'"),
        ("stem", {"attrs": {"kernel": "(9999999, 3)"}}, UnsupportedModel, "'stem'"),
        ("fc", {"inputs": [[999, 0, 0]]}, DataCorrupted, "999"),
    ],
)
def test_refusals(
    tmp_path: Path, name: str, changes: dict[str, Any], error: type[CamError], match: str
) -> None:
    path = edited(tmp_path, name, **changes)
    with pytest.raises(error, match=match):
        import_mxnet(path, GOLDEN / "classifier-0000.params", {"data": SHAPES["classifier"]})


def params(array: bytes, name: bytes = b"arg:w") -> bytes:
    header = struct.pack("<QQQ", 0x112, 0, 1)
    return header + array + struct.pack("<QQ", 1, len(name)) + name


VALUES = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    "array",
    [
        struct.pack("<IiI2qiii", 0xF993FAC9, 0, 2, 2, 3, 1, 0, 0),
        struct.pack("<IiI2qiii", 0xF993FACA, 0, 2, 2, 3, 1, 0, 0),
        struct.pack("<II2qiii", 0xF993FAC8, 2, 2, 3, 1, 0, 0),
        struct.pack("<I2Iiii", 2, 2, 3, 1, 0, 0),
    ],
    ids=["V2", "V3", "V1", "oldest"],
)
def test_every_version_of_an_array(tmp_path: Path, array: bytes) -> None:
    path = tmp_path / "x.params"
    path.write_bytes(params(array + VALUES.tobytes()))
    np.testing.assert_array_equal(read_params(path)["w"], VALUES.reshape(2, 3))


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (struct.pack("<IiI2qiii", 0xF993FAC9, 0, 2, 1 << 40, 1 << 40, 1, 0, 0), CamError),
        (struct.pack("<IiI2qiii", 0xF993FAC9, 0, 2, 1 << 13, 1 << 13, 1, 0, 0), DataCorrupted),
        (struct.pack("<IiI2qiii", 0xF993FAC9, 0, 2, -2, -3, 1, 0, 0), DataCorrupted),
        (struct.pack("<IiI2qiii", 0xF993FAC9, 0, 2, 2, 3, 1, 0, 99), DataCorrupted),
        (struct.pack("<IiI2qiii", 0xF993FAC9, 1, 2, 2, 3, 1, 0, 0), UnsupportedModel),
        (struct.pack("<I", 0xFFFFFFFF), DataCorrupted),
    ],
)
def test_lying_arrays(tmp_path: Path, array: bytes, error: type[CamError]) -> None:
    path = tmp_path / "x.params"
    path.write_bytes(params(array + VALUES.tobytes()))
    with pytest.raises(error):
        read_params(path)


def test_truncated_and_damaged_files_give_typed_errors(tmp_path: Path) -> None:
    refused = 0
    generator = np.random.default_rng(3)
    names = {"params": "classifier-0000.params", "json": "classifier-symbol.json"}
    for kind, name in names.items():
        whole = (GOLDEN / name).read_bytes()
        for round_ in range(60):
            is_cut = round_ % 2 == 1
            data = bytearray(whole[: generator.integers(len(whole))] if is_cut else whole)
            for _ in range(0 if is_cut else 4):
                data[generator.integers(len(data))] ^= 1 << generator.integers(8)
            path = tmp_path / name
            path.write_bytes(data)
            paths = {key: GOLDEN / value for key, value in names.items()} | {kind: path}
            try:
                import_mxnet(paths["json"], paths["params"], {"data": SHAPES["classifier"]})
            except CamError:
                refused += 1
    assert refused > 60
