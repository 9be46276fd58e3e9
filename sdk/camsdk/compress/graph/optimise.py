"""A graph with less in it that computes the same, which is checked every time.

The library onnxslim propagates constants, removes identities, dropout and dead branches, shares
equal subexpressions, moves padding into convolutions. It would also fold BatchNorm and arithmetic,
but gives layers other names while it does; that is done here (``folding``), and so is cancelling
transposes across what lies between them (``layout``). Names of inputs, outputs and layers stay.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnxslim
from onnx import numpy_helper, shape_inference

from camsdk.compress.graph.equivalence import TOLERANCE, Equivalence, Inputs, check_equivalent
from camsdk.compress.graph.folding import fold
from camsdk.compress.graph.layers import Macs, constants, count_macs
from camsdk.compress.graph.layout import cancel_transposes
from camsdk.errors import UnsupportedModel

_LEFT_TO_US: Final = (
    "FusionConvBN", "FusionConvTransposeBN", "FusionConvMul", "FusionConvTransposeMul",
    "FusionConvAdd", "FusionConvTransposeAdd", "FusionGemm", "FusionGemmMul", "FusionGemmAdd",
    "FusionGelu",
)  # fmt: skip
"""Patterns of onnxslim that rename layers; Gelu would need opset 20."""

_MAX_ROUNDS: Final = 4


@dataclass(frozen=True)
class Cost:
    """What a graph holds.

    Attributes:
        operators: Nodes by operator, constants not counted.
        macs: For one input.
        parameters: Floating-point numbers in its constants.
        size_bytes: Of the serialized model.
    """

    operators: Mapping[str, int]
    macs: Macs
    parameters: int
    size_bytes: int

    @property
    def nodes(self) -> int:
        """Of all operators."""
        return sum(self.operators.values())


@dataclass(frozen=True)
class Report:
    """What optimising has changed, and how exactly the result was checked."""

    before: Cost
    after: Cost
    equivalence: Equivalence


@dataclass(frozen=True)
class Optimised:
    """A model and what was done to it."""

    model: onnx.ModelProto
    report: Report


def optimise(
    model: onnx.ModelProto,
    *,
    keep_batchnorm: bool = False,
    inputs: Iterable[Inputs] | None = None,
    tolerance: float = TOLERANCE,
) -> Optimised:
    """Optimise a float model.

    Args:
        model: Static shapes; not changed.
        keep_batchnorm: Leave BatchNorm behind its layers, for training; ``folding.fold`` folds it
            later.
        inputs: Real ones by input name, on which the result is checked beside made-up ones.
        tolerance: See ``equivalence``.

    Returns:
        The model: every node has a name that is used once, every tensor a shape; no unused and no
        two equal initializers.

    Raises:
        UnsupportedModel: A layer's shapes are open, or the graph is not valid.
        InternalError: The result computes something else.
        RuntimeFailure: The model cannot be run.
    """
    source = _named(model)
    before = _cost(source)
    slim = _slimmed(_without_dropout(source))
    for _ in range(_MAX_ROUNDS):
        count = len(slim.graph.node)
        folded = fold(cancel_transposes(slim), keep_batchnorm=keep_batchnorm).model
        slim = _slimmed(folded)
        if len(slim.graph.node) == count:
            break
    result = _finished(slim, source)
    equivalence = check_equivalent(source, result, inputs, tolerance=tolerance)
    return Optimised(result, Report(before, _cost(result), equivalence))


def _cost(model: onnx.ModelProto) -> Cost:
    operators = Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")
    stored = constants(model).values()
    floats = sum(value.size for value in stored if np.issubdtype(value.dtype, np.floating))
    return Cost(dict(sorted(operators.items())), count_macs(model), int(floats), model.ByteSize())


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes have unique names and whose constants are not among its inputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    stored = {tensor.name for tensor in result.graph.initializer}
    for value in list(result.graph.input):
        if value.name in stored:  # so before IR version 4
            result.graph.input.remove(value)
    result.ir_version = max(result.ir_version, 4)
    _name_nodes(result)
    return result


def _name_nodes(model: onnx.ModelProto) -> None:
    """Names that are there stay, the first of equal ones too."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for node in model.graph.node:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        base = node.name or next((name for name in node.output if name), node.op_type)
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        node.name = name
        taken.add(name)
        seen.add(name)


def _without_dropout(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which dropout is an Identity; onnxslim leaves the one that makes an output."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        # A third input may switch it on; a second output tells which values it took away.
        if node.op_type == "Dropout" and len(node.input) < 3 and len(node.output) == 1:
            node.op_type = "Identity"
            del node.input[1:]
            del node.attribute[:]
    return result


def _slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxslim makes of a copy, with inputs, outputs and names of nodes as they were."""
    source = onnx.ModelProto()
    source.CopyFrom(model)
    names = {node.output[0]: (node.op_type, node.name) for node in model.graph.node}
    known = {node.name for node in model.graph.node}
    try:
        result: onnx.ModelProto = onnxslim.slim(source, skip_fusion_patterns=list(_LEFT_TO_US))
        onnx.checker.check_model(result)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedModel(f"the graph is not valid ONNX: {error}") from error
    for node in result.graph.node:
        operator, name = names.get(node.output[0], ("", ""))
        if operator == node.op_type and node.name not in known:
            node.name = name
    _name_nodes(result)
    del result.graph.input[:]  # it drops inputs that nothing reads, but callers give them
    result.graph.input.extend(model.graph.input)
    del result.graph.output[:]
    result.graph.output.extend(model.graph.output)
    return result


def _finished(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """With equal initializers shared and shapes of all tensors; provenance as it was."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _share_equal(result)
    result.producer_name, result.producer_version = source.producer_name, source.producer_version
    result.graph.name = source.graph.name
    result.ir_version = source.ir_version
    del result.graph.value_info[:]
    result = shape_inference.infer_shapes(result, data_prop=True)
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedModel(f"the graph is not valid ONNX: {error}") from error
    return result


def _share_equal(model: onnx.ModelProto) -> None:
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    rename: dict[str, str] = {}
    outputs = {value.name for value in model.graph.output}
    for tensor in model.graph.initializer:
        content = hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest()
        key = (tensor.data_type, tuple(tensor.dims), content)
        if tensor.name not in outputs:
            rename[tensor.name] = first.setdefault(key, tensor.name)
    for node in model.graph.node:
        node.input[:] = [rename.get(name, name) for name in node.input]
    used = {name for node in model.graph.node for name in node.input} | outputs
    kept = [
        onnx.TensorProto.FromString(tensor.SerializeToString())
        for tensor in model.graph.initializer
        if tensor.name in used
    ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
