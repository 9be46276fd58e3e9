"""Laws of folding; whole networks are folded in ``test_optimise``."""

import numpy as np
import onnx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from camsdk.compress.codes import project
from camsdk.compress.graph.folding import fold, scaled
from camsdk.compress.options import CodeSet
from camsdk.compress.sessions import Session


@example(factor=[2.5e-110] * 4, bits=1, is_per_tensor=True, seed=0)
@given(
    factor=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    bits=st.integers(1, 8),
    is_per_tensor=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_factor_for_each_filter_changes_scales_and_signs_alone(
    factor, bits, is_per_tensor, seed
) -> None:
    weights = np.random.default_rng(seed).standard_normal((4, 3, 3, 3))
    coded = project(weights, CodeSet(bits), "tensor" if is_per_tensor else "filter")
    factors = np.array(factor)
    result = scaled(coded, factors)
    wanted = coded.values * factors[:, None, None, None]
    np.testing.assert_allclose(result.values, wanted, rtol=1e-5, atol=1e-25)
    kept = np.abs(factors) > 1e-25
    np.testing.assert_array_equal(np.abs(result.codes[kept]), np.abs(coded.codes[kept]))
    assert result.scale.shape in ((4,), ())
    assert (result.scale > 0).all()


def test_batchnorm_behind_a_grouped_transposed_convolution_is_folded() -> None:
    """Its stored weights have their filters along two axes."""
    rng = np.random.default_rng(0)
    values = {
        "w": rng.normal(size=(4, 3, 2, 2)),
        "gamma": rng.uniform(0.5, 2, 6),
        "beta": rng.normal(size=6),
        "mean": rng.normal(size=6),
        "variance": rng.uniform(0.5, 2, 6),
    }
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], name="up", group=2, strides=[2, 2]),
        helper.make_node(
            "BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["y"], name="norm"
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "up",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 3, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 6, 6, 6))],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    folded = fold(model).model
    assert [node.op_type for node in folded.graph.node] == ["ConvTranspose"]
    x = rng.normal(size=(1, 4, 3, 3)).astype(np.float32)
    before, after = (Session(m.SerializeToString()).infer(x)["y"] for m in (model, folded))
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)
