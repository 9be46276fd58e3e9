"""Whether an ONNX file still computes the same after it was normalised.

Both are run once on the same random input, without onnxruntime's own optimisation. A stranger's
file is run: that is why this belongs into the child of ``sandbox``. A file that onnxruntime does
not run, or not within ``LIMIT_S``, cannot be compared and passes, as does one that does not agree
with itself.
"""

import threading
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from camsdk.compress.graph.equivalence import relative_error
from camsdk.compress.sessions import ENGINE_FAILURES
from camsdk.errors import UnsupportedModel

Array = NDArray[np.generic]

TOLERANCE: Final = 1e-3
"""Of an output's scale: far above what another order of sums makes, far below what another
operator does."""

LIMIT_S: Final = 20.0
"""Of one run of the file: with the others it stays within the deadline of an import."""

_SEED: Final = 0


def check_same(before: bytes, after: onnx.ModelProto) -> None:
    """Compare two models on one input; returns nothing.

    Args:
        before: The serialized model as it was, float32.
        after: With the same names of inputs and outputs, and static shapes.

    Raises:
        UnsupportedModel: They differ; names the output and by how much.
    """
    inputs = _random(after)
    expected = _run(before, inputs)
    if expected is None:
        return
    got = _run(after.SerializeToString(), inputs, 3 * LIMIT_S)
    worst, name = _worst(expected, got or {})
    if worst <= TOLERANCE:
        return
    again = _run(before, inputs)  # random numbers, perhaps
    if again is not None and _worst(expected, again)[0] > TOLERANCE:
        return
    raise UnsupportedModel(
        f"output {name!r} of the imported model differs from the file's by {worst:.3g} of its scale"
        if got
        else "the imported model does not run, though the file does",
        "export the model with opset 17, or report it with the file",
    )


def _worst(expected: Mapping[str, Array], got: Mapping[str, Array]) -> tuple[float, str]:
    """The largest error of an output, and its name."""
    errors = (
        (relative_error(value, got[name]) if name in got else float("inf"), name)
        for name, value in expected.items()
    )
    return max(errors, default=(0.0, ""))


def _random(model: onnx.ModelProto) -> dict[str, Array]:
    """Normally distributed numbers; of integers, ones that are valid as bytes and as indices."""
    rng = np.random.default_rng(_SEED)
    inputs: dict[str, Array] = {}
    for info in model.graph.input:
        tensor = info.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        is_floating = np.issubdtype(dtype, np.floating)
        drawn = rng.normal(size=shape) if is_floating else rng.integers(0, 2, shape)
        inputs[info.name] = drawn.astype(dtype)
    return inputs


def _run(
    model: bytes, inputs: Mapping[str, Array], limit_s: float | None = None
) -> dict[str, Array] | None:
    """The outputs by name; none if onnxruntime refuses or is stopped."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = onnxruntime.RunOptions()
    stop = threading.Timer(limit_s or LIMIT_S, setattr, (run, "terminate", True))
    stop.daemon = True
    stop.start()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        taken = {info.name for info in session.get_inputs()}
        values = session.run(names, {name: inputs[name] for name in inputs if name in taken}, run)
    except ENGINE_FAILURES:
        return None
    finally:
        stop.cancel()
    return {
        name: value
        for name, value in zip(names, values, strict=True)
        if isinstance(value, np.ndarray)
    }
