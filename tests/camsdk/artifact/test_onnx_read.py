"""The small ONNX reader sees what the onnx package sees."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.onnx_read import locate_initializers, read_graph
from camsdk.errors import DataCorrupted, InvalidInput, UnsupportedModel
from support import models

ARRAYS = {
    "f4": np.array([[1.5, -2.0, np.inf]], np.float32),
    "f2": np.array([0.5, -7.0], np.float16),
    "f8": np.array([1e300]),
    "i1": np.array([-128, 0, 127], np.int8),
    "u1": np.arange(4, dtype=np.uint8).reshape(2, 2),
    "i4": np.array([-(2**31), 5], np.int32),
    "i8": np.array(-(2**63)),
    "u8": np.array([2**64 - 1], np.uint64),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def with_tensors(tensors: list[onnx.TensorProto]) -> bytes:
    graph = helper.make_graph([], "g", [], [], tensors)
    return helper.make_model(graph).SerializeToString()


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ARRAYS)
def test_raw_and_typed_tensors_are_read(name: str) -> None:
    array = ARRAYS[name]
    raw = numpy_helper.from_array(array, "raw")
    typed = helper.make_tensor("typed", raw.data_type, array.shape, array.ravel().tolist())
    found = read_graph(with_tensors([raw, typed])).constants
    assert_same(found["raw"], array)
    assert_same(found["typed"], array)


def test_nodes_and_attributes_are_read() -> None:
    value = numpy_helper.from_array(np.array([1, 2], np.int64), "v")
    node = helper.make_node(
        "Anything", ["a", "", "b"], ["c"], name="n", f=1.5, i=-3, s="text", fs=[0.5, 2.0],
        ints=[1, -1, 2**40], ss=["p", "q"], t=value, none=0,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "b")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("other", 3), helper.make_opsetid("", 17)]
    found = read_graph(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    assert found.opset == 17
    assert (found.inputs, found.outputs) == (("a",), ("c",))
    (read,) = found.nodes
    assert (read.name, read.operator) == ("n", "Anything")
    assert (read.inputs, read.outputs) == (("a", "", "b"), ("c",))
    tensor = read.attributes["t"]
    assert isinstance(tensor, np.ndarray)
    assert tensor.tolist() == [1, 2]
    assert {key: value for key, value in read.attributes.items() if key != "t"} == {
        "f": 1.5, "i": -3, "s": "text", "fs": (0.5, 2.0), "ints": (1, -1, 2**40),
        "ss": ("p", "q"), "none": 0,
    }  # fmt: skip


def test_tensors_are_located_where_they_lie() -> None:
    tensors = [numpy_helper.from_array(array, name) for name, array in ARRAYS.items()]
    tensors.insert(1, helper.make_tensor("typed", TensorProto.FLOAT, [2], [1.0, 2.0]))
    data = with_tensors(tensors)
    found = {span.name: span for span in locate_initializers(data)}
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        span = found[name]
        content = np.frombuffer(data[span.start : span.stop], span.dtype).reshape(span.shape)
        assert_same(content, array)


def test_what_it_cannot_read_is_said() -> None:
    with pytest.raises(UnsupportedModel, match="type"):
        read_graph(models.endless_loop().SerializeToString())
    text = helper.make_tensor("t", TensorProto.STRING, [1], ["text"])
    with pytest.raises(UnsupportedModel, match="type 8"):
        read_graph(with_tensors([text]))
    with pytest.raises(DataCorrupted, match="no graph"):
        read_graph(b"")
    wrong = numpy_helper.from_array(np.ones(4, np.float32), "w")
    wrong.dims[0] = 5
    with pytest.raises(DataCorrupted, match="4 values"):
        read_graph(with_tensors([wrong]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_an_error_of_ours_or_read_as_something_else(data: st.DataObject) -> None:
    content = bytearray(models.conv(8).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read_graph(bytes(content))
        locate_initializers(bytes(content))
    except (DataCorrupted, InvalidInput):
        return


def test_a_tensor_of_broken_bytes_or_sizes_is_refused() -> None:
    half = numpy_helper.from_array(np.ones(4, np.float32), "w")
    half.raw_data = half.raw_data[:-1]
    with pytest.raises(DataCorrupted, match="15 bytes"):
        read_graph(with_tensors([half]))
    negative = numpy_helper.from_array(np.ones(4, np.float32), "w")
    negative.dims[:] = [-2, -2]
    with pytest.raises(DataCorrupted, match="4 values"):
        read_graph(with_tensors([negative]))
    deep = numpy_helper.from_array(np.ones(1, np.float32), "w")
    deep.dims[:] = [1] * 65
    with pytest.raises(DataCorrupted, match="1 values"):
        read_graph(with_tensors([deep]))
