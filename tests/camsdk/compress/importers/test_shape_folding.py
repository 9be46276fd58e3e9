"""Shapes that are computed from constants and other shapes become constants, within limits."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers import shape_folding
from camsdk.compress.importers.onnx_file import import_onnx_file
from camsdk.compress.importers.runnable import check_bounded, settle_shapes
from camsdk.compress.importers.shape_folding import known_shapes
from camsdk.compress.packaging import check_stored
from camsdk.errors import CamError, UnsupportedModel

DATA = np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)
GROUPED = (1, 2, 8, 8, 8)

SHUFFLE = """
    s = Shape(x)  count = Gather(s, one)  half = Div(count, two)
    row = Unsqueeze <axes = [0]> (half)
    lengths = Concat <axis = 0> (batch, groups, row, area)  r = Reshape(x, lengths)
    t = Transpose <perm = [0, 2, 1, 3, 4]> (r)  y = Reshape(t, whole)
"""
EXPAND = """
    ones = ConstantOfShape <value = int64[1] {1}> (rank)  kept = Mul(ones, minus)
    is_kept = Equal(whole, kept)  lengths = Where(is_kept, ones, whole)
    e = Expand(x, lengths)  y = Reshape(e, whole)
"""
RESIZE = """
    s = Shape(x)  head = Slice(s, zeros, twos)  tail = Slice(s, twos, fours)
    f = Cast <to = 1> (tail)  wide = Mul(f, factor)  floor = Floor(wide)  i = Cast <to = 7> (floor)
    sizes = Concat <axis = 0> (head, i)  big = Resize <mode = "nearest"> (x, none, none, sizes)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (big)  y = Reshape(p, whole)
"""
GROWING = """
    top = ReduceMax <keepdims = 0> (x)  i = Cast <to = 7> (top)  row = Reshape(i, ones)
    lengths = Concat <axis = 0> (row, rest)  r = Reshape(x, lengths)  y = ReduceSum(r)
"""
STORED = {
    "one": np.array(1),
    "two": np.array(2),
    "minus": np.array(-1),
    "batch": np.array([1]),
    "groups": np.array([2]),
    "area": np.array([8, 8]),
    "whole": np.array([1, 16, 8, 8]),
    "rank": np.array([4]),
    "ones": np.array([1]),
    "rest": np.array([-1]),
    "zeros": np.array([0]),
    "twos": np.array([2]),
    "fours": np.array([4]),
    "none": np.array([], np.float32),
    "factor": np.array([2, 2], np.float32),
}


def network(body: str, opset: int, **stored: NDArray[np.generic]) -> onnx.ModelProto:
    """The body makes ``y`` of ``x`` and of what is stored."""
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"net (float[1,16,8,8] x) => (float y) {{ {body} }}"
    )
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    made_here = {name for node in made.graph.node for name in node.output}
    read = {name for node in made.graph.node for name in node.input} - made_here
    made.graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in (STORED | stored).items()
        if name in read
    )
    return made


def run(model: onnx.ModelProto) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(["y"], {"x": DATA})[0])


@pytest.mark.parametrize(
    ("body", "opset", "inner", "shape"),
    [
        (SHUFFLE, 11, "r", GROUPED),
        (EXPAND, 17, "e", (1, 16, 8, 8)),
        (RESIZE, 17, "big", (1, 16, 16, 16)),
    ],
    ids=["shuffle", "expand", "resize"],
)
def test_shapes_of_constants_and_shapes_are_static(
    tmp_path: Path, body: str, opset: int, inner: str, shape: tuple[int, ...]
) -> None:
    source = network(body, opset)
    path = tmp_path / "model.onnx"
    path.write_bytes(source.SerializeToString())
    found = import_onnx_file(path)
    np.testing.assert_array_equal(run(found), run(source))
    assert not {node.op_type for node in found.graph.node} & {"Shape", "Div", "Where", "Floor"}
    assert {tensor.name for tensor in found.graph.initializer} <= {
        "lengths",
        "whole",
        "sizes",
        "none",
    }
    inferred = onnx.shape_inference.infer_shapes(found)
    assert known_shapes(inferred.graph)[inner] == shape
    check_stored(found.SerializeToString())
    # Drafts that were made before this was folded hold the arithmetic still.
    old = network(body, opset)
    old.graph.output[0].CopyFrom(found.graph.output[0])
    check_stored(old.SerializeToString())


def test_a_shape_that_depends_on_the_values_of_a_picture_is_refused(tmp_path: Path) -> None:
    source = network(GROWING, 17)
    path = tmp_path / "model.onnx"
    path.write_bytes(source.SerializeToString())
    said = "'r' depends on data: on values of an input.*fixed shapes"
    with pytest.raises(UnsupportedModel, match=said):
        import_onnx_file(path)
    source.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 1)))
    with pytest.raises(UnsupportedModel, match=said):
        check_stored(source.SerializeToString())


@pytest.mark.parametrize("elements", [2.0**21, 2.0**27, 2.0**35])
@pytest.mark.parametrize(
    "making",
    [
        "huge = ConstantOfShape(row)",
        "huge = Expand(factor, many)",
        "flat = Reshape(factor, rest)  pair = Slice(flat, zeros, ones)  huge = Tile(pair, row)",
        "count = Squeeze(row)  huge = Range(zero, count, one)",
    ],
)
def test_a_length_that_is_too_large_is_not_even_made(elements: float, making: str) -> None:
    """It hangs on no picture, but what is made of it would be as large."""
    source = network(
        f"size = Mul(count_of, unit)  i = Cast <to = 7> (size)  row = Reshape(i, ones)  "
        f"many = Concat <axis = 0> (row, twos)  {making}  z = NonZero(huge)  "
        "n = Cast <to = 1> (z)  top = ReduceMax <keepdims = 0> (n)  y = Add(x, top)",
        17,
        count_of=np.array(elements, np.float32),
        unit=np.array(1, np.float32),
        zero=np.array(0),
    )
    with pytest.raises(CamError, match=r"'(z|huge)' cannot be computed before|would have"):
        check_bounded(source)


def test_what_no_shape_follows_from_stays() -> None:
    source = network("a = Add(factor, factor)  m = ReduceMax <keepdims = 0> (a)  y = Mul(x, m)", 17)
    before = source.SerializeToString()
    settle_shapes(source)
    assert source.SerializeToString() == before


@pytest.mark.parametrize("limit", ["MAX_ALL_ELEMENTS", "MAX_VISITS"])
def test_all_work_together_is_limited(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(shape_folding, limit, 5)
    with pytest.raises(UnsupportedModel, match="'e' cannot be computed before the model runs"):
        check_bounded(network(EXPAND, 17))


def test_a_constant_that_a_caller_may_replace_is_none() -> None:
    """Where an initializer is an input too, it is but a default."""
    source = network(EXPAND, 17)
    source.graph.input.append(helper.make_tensor_value_info("minus", TensorProto.INT64, ()))
    with pytest.raises(UnsupportedModel, match="'e' depends on data"):
        check_bounded(source)


def test_arithmetic_that_fails_stays() -> None:
    source = network(
        "f = Gather(factor, far)  i = Cast <to = 7> (f)  row = Reshape(i, ones)  "
        "lengths = Concat <axis = 0> (row, rest)  r = Reshape(x, lengths)  y = ReduceSum(r)",
        17,
        far=np.array(9),
    )
    with pytest.raises(UnsupportedModel, match="'r' cannot be computed before the model runs"):
        check_bounded(source)
