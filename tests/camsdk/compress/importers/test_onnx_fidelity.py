"""An imported model that computes something else than its file is refused."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.importers import onnx_fidelity, onnx_file
from camsdk.compress.importers.onnx_fidelity import check_same
from camsdk.errors import UnsupportedModel
from support import models


def of(op: str, **attributes: object) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8))],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return made


def test_the_same_passes() -> None:
    check_same(of("Relu").SerializeToString(), of("Relu"))


def test_another_operator_is_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedModel, match=r"output 'y' .* differs from the file's by 0.411 of"
    ):
        check_same(of("Identity").SerializeToString(), of("Relu"))


def test_what_does_not_run_any_more_is_refused() -> None:
    broken = of("Relu")
    broken.graph.node[0].op_type = "Unheard"
    with pytest.raises(UnsupportedModel, match="does not run, though the file does"):
        check_same(of("Relu").SerializeToString(), broken)
    check_same(broken.SerializeToString(), of("Relu"))  # nothing to compare with


def test_a_file_of_random_numbers_cannot_be_compared() -> None:
    check_same(of("RandomNormalLike").SerializeToString(), of("RandomNormalLike"))


def test_a_file_that_takes_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_fidelity, "LIMIT_S", 0.2)
    slow, after = models.slow_products(), of("Relu")
    after.graph.input[0].CopyFrom(slow.graph.input[0])
    started_s = time.monotonic()
    check_same(slow.SerializeToString(), after)
    assert time.monotonic() - started_s < 10


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_precision_alone_is_no_difference(tmp_path: Path, kind: int) -> None:
    """Of a sum that half precision loses: the file is compared as float32."""
    made = of("Identity")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    del made.graph.node[:]
    made.graph.node.extend(
        [
            helper.make_node("Add", ["x", "c"], ["a"]),
            helper.make_node("Sub", ["a", "c"], ["y"]),
        ]
    )
    made.graph.initializer.append(numpy_helper.from_array(np.full(1, 4096, dtype), "c"))
    for info in (*made.graph.input, *made.graph.output):
        info.type.tensor_type.elem_type = kind
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    onnx_file.import_onnx_file(tmp_path / "m.onnx")


def test_every_file_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(of("Identity").SerializeToString())
    monkeypatch.setattr(onnx_file, "to_opset", lambda model: of("Relu"))
    with pytest.raises(UnsupportedModel, match="differs from the file's"):
        onnx_file.import_onnx_file(tmp_path / "m.onnx")
