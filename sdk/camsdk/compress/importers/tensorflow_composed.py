"""TensorFlow operators that become several ONNX operators, or one with other options."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from camsdk.compress.importers.onnx_emitter import Value
from camsdk.compress.importers.tfjs_operators import OPERATORS
from camsdk.compress.importers.tfjs_reader import TfNode
from camsdk.compress.importers.tfjs_windows import Context, Operator
from camsdk.errors import UnsupportedModel


def _each(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    """As many outputs as inputs; functions with a gradient of their own, such as swish, end so."""
    return tuple(inputs)


def _sum_of_all(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    total = inputs[0]
    for index, value in enumerate(inputs[1:], 2):
        name = node.name if index == len(inputs) else f"{node.name}/{index}"
        (total,) = OPERATORS["AddV2"](replace(node, name=name, op="AddV2"), (total, value), context)
    return (total,)


def _squared_difference(
    node: TfNode, inputs: Sequence[Value], context: Context
) -> tuple[Value, ...]:
    step = replace(node, name=f"{node.name}/difference", op="Sub")
    (difference,) = OPERATORS["Sub"](step, inputs, context)
    return OPERATORS["Mul"](replace(node, op="Mul"), (difference, difference), context)


def _power(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    base, exponent = inputs
    if base.constant is not None or exponent.constant is None or exponent.constant.size != 1:
        raise UnsupportedModel(
            f"layer {node.name!r} ({node.op}) has an exponent that is not one number",
            "cut the graph before this layer with an output",
        )
    emitter = context.emitter
    number = np.array(exponent.constant, np.float32).reshape(())
    power = emitter.initializer(f"{node.name}/exponent", number)
    (name,) = emitter.node("Pow", [emitter.held(base, node.name), power], node.name)
    return (Value(name, base.perm, base.shape),)


def _log_softmax(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    (value,) = inputs
    source = context.emitter.held(value, node.name)
    axis = value.perm[len(value.shape) - 1]
    (name,) = context.emitter.node("LogSoftmax", [source], node.name, axis=axis)
    return (Value(name, value.perm, value.shape),)


COMPOSED: Final[Mapping[str, Operator]] = {
    "IdentityN": _each,
    "AddN": _sum_of_all,
    "SquaredDifference": _squared_difference,
    "Pow": _power,
    "LogSoftmax": _log_softmax,
}
