"""Files are known by their content, and a hostile one ends in a typed error within limits."""

import io
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers.detect import ImportOptions, detect, import_model
from camsdk.compress.sessions import Session
from camsdk.errors import (
    CamError,
    DataCorrupted,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    UnsupportedModel,
)

GOLDEN = Path(__file__).parents[3] / "golden"


def onnx_bytes(nodes: list[onnx.NodeProto], *stored: onnx.TensorProto) -> bytes:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))
    found = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given], [found], list(stored))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model.SerializeToString()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


KNOWN = {
    "onnx": onnx_bytes([helper.make_node("Relu", ["x"], ["y"], name="r")]),
    "tensorflow": (GOLDEN / "tensorflow_net.pb").read_bytes(),
    "tflite": (GOLDEN / "tensorflow_net_int8.tflite").read_bytes(),
    "tfjs": b' {"modelTopology": {"node": []}, "weightsManifest": []}',
    "mxnet": b'{"nodes": [], "arg_nodes": [], "heads": []}',
    "caffe": b'name: "net"\nlayer {\n  name: "data"\n}\n',
    "pytorch": zipped(**{"net/archive_format": b"pt2", "net/models/model.json": b"{}"}),
}


@pytest.mark.parametrize("framework", KNOWN)
def test_content_says_the_framework_whatever_the_name(framework: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(KNOWN[framework])
    assert detect(path) == framework


def test_a_saved_model_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"saved_model\.pb"):
        detect(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    assert detect(tmp_path) == "saved-model"


UNKNOWN = {
    "text": (b"Hello, I am a picture of a cat.", UnsupportedModel),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), UnsupportedModel),
    "pickle": (pickle.dumps({"weights": [1.0]}), UnsupportedModel),
    "pickled torch": (zipped(**{"net/data.pkl": b"\x80\x02."}), UnsupportedModel),
    "other zip": (zipped(**{"../../escape": b"x"}), UnsupportedModel),
    "cut zip": (zipped(**{"net/archive_format": b"pt2"})[:60], DataCorrupted),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(40), UnsupportedModel),
    "other json": (b'{"a": 1}', UnsupportedModel),
    "cut json": (b'{"modelTopology": ', DataCorrupted),
    "deep json": (b'{"modelTopology":' + b"[" * 100_000, DataCorrupted),
    "nothing": (b"", DataCorrupted),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_unknown_gets_a_reason_and_a_way_out(case: str, tmp_path: Path) -> None:
    content, error = UNKNOWN[case]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        import_model(path)
    assert caught.value.hint
    with pytest.raises(NotFound):
        detect(tmp_path / "none")


def test_a_model_crosses_the_process_unchanged(tmp_path: Path) -> None:
    model = import_model(GOLDEN / "tensorflow_net.pb")
    golden = np.load(GOLDEN / "tensorflow_net.npz")
    session = Session(model.SerializeToString())
    found = np.concatenate([session.infer(one[None])["Identity"] for one in golden["pictures"]])
    np.testing.assert_allclose(found, golden["tensorflow"], rtol=1e-4, atol=1e-6)


def test_a_mistake_of_the_caller_crosses_the_process_as_itself() -> None:
    with pytest.raises(InvalidInput, match="no layer 'nowhere'") as caught:
        import_model(GOLDEN / "tensorflow_net.pb", options=ImportOptions(outputs=["nowhere"]))
    assert type(caught.value) is InvalidInput
    assert "Identity" in caught.value.hint


def large_constant() -> bytes:
    """Eight gigabytes from sixteen bytes."""
    shape = numpy_helper.from_array(np.array([1 << 31], np.int64), "shape")
    return onnx_bytes(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["c"], name="large"),
            helper.make_node("ReduceMean", ["c"], ["m"], name="mean"),
            helper.make_node("Add", ["x", "m"], ["y"], name="add"),
        ],
        shape,
    )


def endless_loop() -> bytes:
    """A Loop of 2**60 rounds."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Relu", ["old"], ["new"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, ()),
            helper.make_tensor_value_info("going", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("old", TensorProto.FLOAT, (1, 4)),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("new", TensorProto.FLOAT, (1, 4)),
        ],
    )
    rounds = numpy_helper.from_array(np.array(1 << 60, np.int64), "rounds")
    return onnx_bytes(
        [helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body, name="endless")], rounds
    )


def external_data() -> bytes:
    stored = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    row = stored.external_data.add()
    row.key, row.value = "location", "/etc/passwd"
    return onnx_bytes([helper.make_node("Add", ["x", "w"], ["y"], name="add")], stored)


HOSTILE: dict[str, tuple[Callable[[], bytes], tuple[type[CamError], ...]]] = {
    "large constant": (large_constant, (ResourceExhausted, UnsupportedModel)),
    "endless loop": (endless_loop, (ResourceExhausted,)),
    "external data": (external_data, (UnsupportedModel,)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_a_typed_error_soon(case: str, tmp_path: Path) -> None:
    make, errors = HOSTILE[case]
    path = tmp_path / "model.onnx"
    path.write_bytes(make())
    started_s = time.monotonic()
    with pytest.raises(errors):
        import_model(path, options=ImportOptions(timeout_s=30.0))
    assert time.monotonic() - started_s < 30.0


def test_the_deadline_and_the_memory_of_the_process_are_kept() -> None:
    path = GOLDEN / "tensorflow_net.pb"
    started_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        import_model(path, options=ImportOptions(timeout_s=0.05))
    assert time.monotonic() - started_s < 5.0
    with pytest.raises((ResourceExhausted, UnsupportedModel)):
        import_model(path, options=ImportOptions(memory_bytes=64 << 20))


def test_formats_of_two_files_say_that_one_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_bytes(KNOWN["caffe"])
    with pytest.raises(CamError, match="weights are missing"):
        import_model(path)
