"""Export to MNN: what is handed out has been run and agrees."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from camsdk.compress import mnn
from camsdk.compress.codes import project
from camsdk.compress.mnn import MnnOptions, export_mnn
from camsdk.compress.options import CodeSet
from camsdk.errors import InvalidInput, NotFound, UnsupportedModel
from support import models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("MNN") is None, reason="the extra mnn is not installed"),
]


ONES = np.ones(4, np.float32)


def network() -> onnx.ModelProto:
    """Three convolutions, depthwise the second, 36,000 weights."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(0, 0.3, (32, 3, 3, 3)),
        "b": rng.normal(0, 0.3, (32, 1, 3, 3)),
        "c": rng.normal(0, 0.1, (1024, 32, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "b"], ["3"], group=32, pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["3"], ["4"], alpha=0.1),
        helper.make_node("Conv", ["4", "c"], ["y"]),
    ]
    arrays = {name: value.astype(np.float32) for name, value in weights.items()}
    return models.make_model(nodes, [1, 3, 16, 16], **arrays)


def inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(2)]


def test_fewer_bits_make_smaller_files_that_still_agree() -> None:
    exact = export_mnn(network(), inputs(), MnnOptions(weight_bits=None))
    eight = export_mnn(network(), inputs())
    four = export_mnn(network(), inputs(), MnnOptions(weight_bits=4))
    assert exact.relative_error == exact.float_error < mnn.FLOAT_ERROR
    assert exact.relative_error < eight.relative_error < 0.02
    assert eight.relative_error < four.relative_error < 0.3
    assert len(eight.content) < 0.4 * len(exact.content)
    assert len(four.content) < 0.65 * len(eight.content)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_that_are_codes_stay_as_they_are(bits: int) -> None:
    rng = np.random.default_rng(3)
    floats = rng.normal(0, 0.3, (16, 32, 3, 3)).astype(np.float32)
    coded = project(floats, CodeSet(bits), "filter")
    assert (np.abs(coded.codes).max(axis=(1, 2, 3)) == coded.code_set.largest).all()
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = models.make_model([node], [1, 32, 8, 8], w=coded.values)
    tensor = rng.normal(size=(1, 32, 8, 8)).astype(np.float32)
    export = export_mnn(model, [tensor], MnnOptions(weight_bits=bits))
    assert export.relative_error < 1e-5
    shifted = export_mnn(model, [tensor], MnnOptions(weight_bits=bits, is_symmetric=False))
    assert shifted.relative_error > 100 * export.relative_error


def mixed() -> onnx.ModelProto:
    """A convolution, one in groups, a Gemm and a MatMul with a bias; MNN renames all but one."""
    rng = np.random.default_rng(4)
    shapes = {"a": (16, 3, 3, 3), "b": (16, 4, 3, 3), "g": (64, 16), "m": (64, 96), "bias": (96,)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], "conv"),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "b"], ["3"], "grouped", group=4),
        helper.make_node("GlobalAveragePool", ["3"], ["4"]),
        helper.make_node("Flatten", ["4"], ["5"]),
        helper.make_node("Gemm", ["5", "g"], ["6"], "gemm", transB=1),
        helper.make_node("MatMul", ["6", "m"], ["7"], "matmul"),
        helper.make_node("Add", ["7", "bias"], ["y"]),
    ]
    arrays = {name: rng.normal(0, 0.3, of).astype(np.float32) for name, of in shapes.items()}
    return models.make_model(nodes, [1, 3, 16, 16], **arrays)


@pytest.mark.parametrize("layer", ["grouped", "gemm", "matmul"])
def test_layers_that_mnn_renames_have_the_bits_of_their_own(layer: str) -> None:
    base = export_mnn(mixed(), inputs())
    own = export_mnn(mixed(), inputs(), MnnOptions(layer_bits={layer: 2}, max_relative_error=5.0))
    assert not own.missed
    assert own.most_bits == 8
    assert own.usual_bits == (2 if layer == "matmul" else 8)
    assert len(own.content) < len(base.content)
    assert own.relative_error > 3 * base.relative_error


def test_one_layer_of_few_bits_does_not_widen_the_bound() -> None:
    with pytest.raises(UnsupportedModel, match=r"over 0\.05"):
        export_mnn(mixed(), inputs(), MnnOptions(layer_bits={"gemm": 2}))


def test_a_layer_that_mnn_does_not_list_keeps_the_bits_of_all_and_is_named() -> None:
    rng = np.random.default_rng(5)
    left, right = (rng.normal(0, 0.3, of).astype(np.float32) for of in ((6, 8), (4, 16)))
    nodes = [
        helper.make_node("MatMul", ["left", "x"], ["1"], "unlisted"),
        helper.make_node("MatMul", ["1", "right"], ["y"], "listed"),
    ]
    model = models.make_model(nodes, [8, 4], left=left, right=right)
    tensor = rng.normal(size=(8, 4)).astype(np.float32)
    made = export_mnn(model, [tensor], MnnOptions(layer_bits={"unlisted": 4, "listed": 7}))
    assert made.missed == ("1",)
    assert (made.usual_bits, made.most_bits) == (7, 7)
    alone = models.make_model(nodes[:1], [8, 4], left=left)
    alone.graph.output[0].name = "1"
    made = export_mnn(alone, [tensor], MnnOptions(layer_bits={"unlisted": 4}))
    assert made.missed == ("1",)
    assert made.most_bits == 8


def test_a_file_that_differs_is_an_error() -> None:
    with pytest.raises(UnsupportedModel, match="differs"):
        export_mnn(network(), inputs(), MnnOptions(weight_bits=2, max_relative_error=0.01))


def test_no_distance_at_all_is_a_limit_too() -> None:
    with pytest.raises(UnsupportedModel, match="over 0"):
        export_mnn(network(), inputs(), MnnOptions(max_relative_error=0.0))


def test_what_is_not_finite_is_infinitely_far() -> None:
    """An error that is NaN would be lost in the largest of several."""
    fine = np.ones(3, np.float32)
    for value in (np.nan, np.inf, -np.inf):
        odd = np.array([1, value, 1], np.float32)
        for actual, wanted in ((odd, fine), (fine, odd), (odd, odd)):
            assert mnn.relative_error(actual, wanted) == np.inf
    assert mnn.relative_error(2 * fine, fine) == pytest.approx(1)


def test_a_model_that_mnn_cannot_convert_is_an_error() -> None:
    model = models.make_model([helper.make_node("Hardmax", ["x"], ["y"])], [4])
    with pytest.raises(UnsupportedModel, match=r"cannot convert the model: .*Not Support"):
        export_mnn(model, [ONES])


def test_a_file_that_was_converted_with_success_but_does_not_run_is_an_error() -> None:
    node = helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2, 2])
    with pytest.raises(UnsupportedModel, match="does not run"):
        export_mnn(models.make_model([node], [1, 1, 2, 2]), [ONES.reshape(1, 1, 2, 2)])


def test_wrong_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in (0, 1, 9):
        with pytest.raises(InvalidInput):
            MnnOptions(weight_bits=bits)
    with pytest.raises(InvalidInput, match="no input"):
        export_mnn(network(), [])
    monkeypatch.setattr(mnn, "find_spec", lambda _: None)
    with pytest.raises(NotFound, match="MNN"):
        export_mnn(network(), inputs())


def test_the_module_that_calls_home_is_never_imported() -> None:
    source = Path(mnn.__file__).with_name("mnn_child.py").read_text()
    assert "import MNN.tools" not in source
    assert "from MNN.tools" not in source
