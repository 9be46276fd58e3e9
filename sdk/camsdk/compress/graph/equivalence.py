"""Whether two models compute the same: both are run, on random, extreme and real inputs.

A rewritten graph sums in another order, so bits differ. The measure is the largest difference of an
output tensor relative to the largest magnitude that the first model's output has on the same input:
single elements near zero, where a sum cancels, say nothing. Integers and strings must be equal.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from camsdk.compress.sessions import ENGINE_FAILURES
from camsdk.errors import InternalError, RuntimeFailure, UnsupportedModel

Array = NDArray[np.generic]
Inputs = Mapping[str, Array]

TOLERANCE: Final = 1e-4
"""Relative to the output's scale: some hundred roundings of float32 (6e-8) in a row of sums."""

_EXTREME: Final = 1e3
"""Far beyond what normalised inputs are, and far from what overflows in float32."""
_SEED: Final = 0


@dataclass(frozen=True)
class Equivalence:
    """How nearly two models compute the same.

    Attributes:
        worst: Largest difference relative to its output's scale.
        tensor: The output that has it.
        inputs: How many inputs were tried.
    """

    worst: float
    tensor: str
    inputs: int


def check_equivalent(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    inputs: Iterable[Inputs] | None = None,
    *,
    random: int = 2,
    tolerance: float = TOLERANCE,
) -> Equivalence:
    """Run both models, without onnxruntime's own optimisation, and compare all outputs.

    Args:
        before, after: With the same names of inputs and outputs, in the same order.
        inputs: Real ones, by input name; taken one by one.
        random: How many normally distributed inputs are tried besides zeros, +-1000 and an input
            of both signs of 1000 at random.
        tolerance: What ``Equivalence.worst`` may be.

    Raises:
        InternalError: They differ; names the tensor and the error.
        UnsupportedModel: An input's shape is open and no real input is given.
        RuntimeFailure: One of them cannot be run.
    """
    names = [[value.name for value in model.graph.output] for model in (before, after)]
    if names[0] != names[1]:
        raise InternalError(f"the outputs {names[0]} have become {names[1]}")
    first, second = _session(before), _session(after)
    known = {value.name for value in second.get_inputs()}
    count, worst, tensor = 0, 0.0, names[0][0]
    for values in (*_made_up(before, random, has_real=inputs is not None), *(inputs or ())):
        count += 1
        expected = _run(first, values)
        got = _run(second, {name: value for name, value in values.items() if name in known})
        for name in names[0]:
            error = relative_error(expected[name], got[name])
            if error > worst:
                worst, tensor = error, name
            if error > tolerance:
                raise InternalError(
                    f"output {name!r} differs by {error:.3g} of its scale, more than {tolerance:g}",
                    "the rewritten graph is wrong: report it with the model",
                )
    return Equivalence(worst, tensor, count)


def relative_error(expected: Array, got: Array) -> float:
    """Largest difference over the largest finite magnitude expected; infinite where shapes, types
    or the places of NaN and infinity differ."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return float("inf")
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(expected, got) else float("inf")
    exact, found = expected.astype(np.float64), got.astype(np.float64)
    is_finite = np.isfinite(exact)
    if not np.array_equal(exact[~is_finite], found[~is_finite], equal_nan=True):
        return float("inf")
    exact, found = exact[is_finite], found[is_finite]
    if not np.isfinite(found).all():
        return float("inf")
    scale = max(np.abs(exact).max(initial=0.0), float(np.finfo(np.float32).tiny))
    return float(np.abs(exact - found).max(initial=0.0) / scale)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except ENGINE_FAILURES as error:
        raise RuntimeFailure(f"the model cannot be loaded: {error}") from error


def _run(session: onnxruntime.InferenceSession, values: Inputs) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(values)), strict=True))
    except ENGINE_FAILURES as error:
        raise RuntimeFailure(f"the model cannot be run: {error}") from error


def _made_up(model: onnx.ModelProto, random: int, *, has_real: bool) -> Iterator[Inputs]:
    """Inputs that nobody measured; none where shapes are open and real inputs are to come."""
    stored = {tensor.name for tensor in model.graph.initializer}
    free = [value for value in model.graph.input if value.name not in stored]
    shapes = {value.name: _shape(value) for value in free}
    if any(shape is None for shape in shapes.values()):
        if has_real:
            return
        raise UnsupportedModel(
            "the shape of an input is open", "import the model with a fixed shape, or give inputs"
        )
    rng = np.random.default_rng(_SEED)
    for index in range(4 + random):
        yield {value.name: _filled(rng, value, shapes[value.name] or (), index) for value in free}


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    dims = value.type.tensor_type.shape.dim
    is_known = value.type.tensor_type.HasField("shape")
    if not is_known or not all(dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def _filled(
    rng: np.random.Generator, value: onnx.ValueInfoProto, shape: tuple[int, ...], index: int
) -> Array:
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if not np.issubdtype(dtype, np.floating):  # indices and conditions: what is valid for all
        return np.full(shape, index % 2).astype(dtype)
    if index < 3:
        return np.full(shape, (0.0, _EXTREME, -_EXTREME)[index]).astype(dtype)
    if index == 3:
        return (_EXTREME * rng.choice([-1.0, 1.0], shape)).astype(dtype)
    return rng.normal(size=shape).astype(dtype)
