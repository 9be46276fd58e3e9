"""ATen activations and normalizations that become several ONNX operators."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_scope import Operator, Scope, label, refuse
from camsdk.compress.importers.pt2_reader import AtenNode
from camsdk.errors import DataCorrupted


def _gelu(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Hendrycks and Gimpel, arXiv:1606.08415: exact, or with tanh."""
    emitter, name = scope.emitter, label(node)
    x = scope.operand(node.arguments["self"], name)

    def step(op: str, left: str, right: str | float, title: str) -> str:
        other = right if isinstance(right, str) else scope.operand(right, name)
        return emitter.node(op, [left, other], f"{name}/{title}")[0]

    if node.arguments.get("approximate") == "tanh":
        cube = step("Mul", step("Mul", step("Mul", x, x, "square"), x, "cube"), 0.044715, "term")
        inner = step("Mul", step("Add", x, cube, "sum"), math.sqrt(2 / math.pi), "inner")
        (curve,) = emitter.node("Tanh", [inner], f"{name}/tanh")
    else:
        (curve,) = emitter.node("Erf", [step("Mul", x, math.sqrt(0.5), "inner")], f"{name}/erf")
    gate = step("Mul", step("Add", curve, 1.0, "one"), 0.5, "gate")
    return emitter.node("Mul", [x, gate], name)


def _mish(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Misra, arXiv:1908.08681."""
    name, x = label(node), scope.operand(node.arguments["self"], label(node))
    soft = scope.emitter.node("Softplus", [x], f"{name}/softplus")
    gate = scope.emitter.node("Tanh", soft, f"{name}/tanh")
    return scope.emitter.node("Mul", [x, gate[0]], name)


def _glu(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, axis = label(node), int(node.arguments.get("dim", -1))
    half = scope.shapes[node.outputs[0]][axis]
    inputs = [scope.operand(node.arguments["self"], name), scope.ints(f"{name}/sizes", [half] * 2)]
    value, gate = scope.emitter.node("Split", inputs, f"{name}/halves", outputs=2, axis=axis)
    opened = scope.emitter.node("Sigmoid", [gate], f"{name}/sigmoid")
    return scope.emitter.node("Mul", [value, opened[0]], name)


def _affine(node: AtenNode, scope: Scope, shape: tuple[int, ...]) -> list[str]:
    """Weight and bias of a normalization; ones and zeros where it has none."""
    name, found = label(node), []
    for key, default in (("weight", 1.0), ("bias", 0.0)):
        value = node.arguments.get(key)
        if value is None:
            scope.check_size(node, shape)
            full = np.full(shape, default, np.float32)
            found.append(scope.emitter.initializer(f"{name}.{key}", full))
        else:
            found.append(scope.operand(value, name))
    return found


def _layer_norm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    shape = tuple(given["normalized_shape"])
    whole = scope.shape(given["input"])
    if not shape or shape != whole[-len(shape) :]:
        raise DataCorrupted(f"{name!r} ({node.target}) normalizes {shape} of a tensor {whole}")
    inputs = [scope.operand(given["input"], name), *_affine(node, scope, shape)]
    settings: dict[str, Any] = {"axis": -len(shape), "epsilon": float(given.get("eps", 1e-5))}
    return scope.emitter.node("LayerNormalization", inputs, name, **settings)


def _group_norm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Each group becomes a channel of an InstanceNormalization; weight and bias follow."""
    given, name, emitter = node.arguments, label(node), scope.emitter
    shape, groups = scope.shape(given["input"]), int(given["num_groups"])
    x = scope.operand(given["input"], name)
    folded = scope.ints(f"{name}/groups", [shape[0], groups, -1])
    rows = emitter.node("Reshape", [x, folded], f"{name}/folded")
    scope.check_size(node, (groups, 2))
    unit = [
        emitter.initializer(f"{name}/{title}", np.full(groups, value, np.float32))
        for title, value in (("one", 1.0), ("zero", 0.0))
    ]
    epsilon = float(given.get("eps", 1e-5))
    even = emitter.node(
        "InstanceNormalization", [rows[0], *unit], f"{name}/normalized", epsilon=epsilon
    )
    back = emitter.node("Reshape", [even[0], scope.ints(f"{name}/shape", shape)], f"{name}/back")
    if given.get("weight") is None and given.get("bias") is None:
        return back
    wide = [shape[1], *[1] * (len(shape) - 2)]
    for op, factor in zip(("Mul", "Add"), _affine(node, scope, (shape[1],)), strict=True):
        target = scope.ints(f"{name}/{op}/shape", wide)
        shaped = emitter.node("Reshape", [factor, target], f"{name}/{op}/factor")
        back = emitter.node(op, [back[0], shaped[0]], f"{name}/{op}")
    return back


def _instance_norm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    if not given.get("use_input_stats", True):
        raise refuse(node, "uses statistics of its own, call it with its input's")
    channels = (scope.shape(given["input"])[1],)
    inputs = [scope.operand(given["input"], name), *_affine(node, scope, channels)]
    epsilon = float(given.get("eps", 1e-5))
    return scope.emitter.node("InstanceNormalization", inputs, name, epsilon=epsilon)


COMPOSED: Final[Mapping[str, Operator]] = {
    "gelu": _gelu,
    "mish": _mish,
    "glu": _glu,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
