"""ATen operators that become a reduction, a normalization or several ONNX operators."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_scope import Operator, Scope, label, positive, refuse
from camsdk.compress.importers.pt2_reader import AtenNode


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


def _square(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    x = scope.operand(node.arguments["self"], label(node))
    return scope.emitter.node("Mul", [x, x], label(node))


def _rsqrt(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, x = label(node), scope.operand(node.arguments["self"], label(node))
    root = scope.emitter.node("Sqrt", [x], f"{name}/sqrt")
    return scope.emitter.node("Reciprocal", root, name)


def _reduce(op: str) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        given, name = node.arguments, label(node)
        if given.get("ord", 2) != 2:
            raise refuse(node, f"is a norm of order {given['ord']}")
        rank, axes = len(scope.shape(given["self"])), given.get("dim")
        axes = list(range(rank)) if axes in (None, []) else sorted(positive(axes, rank))
        inputs, keep = [scope.operand(given["self"], name)], int(bool(given.get("keepdim")))
        if op == "ReduceSum":  # whose axes are an input in opset 17
            inputs.append(scope.ints(f"{name}/axes", axes))
            return scope.emitter.node(op, inputs, name, keepdims=keep)
        return scope.emitter.node(op, inputs, name, axes=axes, keepdims=keep)

    return emit


def _affine(node: AtenNode, scope: Scope, shape: tuple[int, ...]) -> list[str]:
    """Weight and bias of a normalization; ones and zeros where it has none."""
    name, found = label(node), []
    for key, default in (("weight", 1.0), ("bias", 0.0)):
        value = node.arguments.get(key)
        if value is None:
            full = np.full(shape, default, np.float32)
            found.append(scope.emitter.initializer(f"{name}.{key}", full))
        else:
            found.append(scope.operand(value, name))
    return found


def _layer_norm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    shape = tuple(given["normalized_shape"])
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


def _stack(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, rank = label(node), len(scope.shapes[node.outputs[0]])
    axis = int(node.arguments.get("dim", 0)) % rank
    target = scope.ints(f"{name}/axis", [axis])
    parts = [
        scope.emitter.node("Unsqueeze", [scope.operand(part, name), target], f"{name}/part")[0]
        for part in node.arguments["tensors"]
    ]
    return scope.emitter.node("Concat", parts, name, axis=axis)


def _unbind(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, axis = label(node), int(node.arguments.get("dim", 0))
    x = scope.operand(node.arguments["self"], name)
    made: list[str] = []
    for place in range(len(node.outputs)):
        index = scope.emitter.initializer(f"{name}/index", np.array(place, np.int64))
        made += scope.emitter.node("Gather", [x, index], f"{name}/{place}", axis=axis)
    return tuple(made)


def _expand(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, shape = label(node), scope.shapes[node.outputs[0]]
    x = scope.operand(node.arguments["self"], name)
    return scope.emitter.node("Expand", [x, scope.ints(f"{name}/shape", shape)], name)


def _repeat(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    counts = list(given["repeats"])
    if len(counts) != len(scope.shape(given["self"])):
        raise refuse(node, "repeats along new axes")
    inputs = [scope.operand(given["self"], name), scope.ints(f"{name}/repeats", counts)]
    return scope.emitter.node("Tile", inputs, name)


COMPOSED: Final[Mapping[str, Operator]] = {
    "gelu": _gelu,
    "mish": _mish,
    "glu": _glu,
    "square": _square,
    "rsqrt": _rsqrt,
    "sum": _reduce("ReduceSum"),
    "amax": _reduce("ReduceMax"),
    "amin": _reduce("ReduceMin"),
    "linalg_vector_norm": _reduce("ReduceL2"),
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "stack": _stack,
    "unbind": _unbind,
    **dict.fromkeys(("expand", "expand_as"), _expand),
    "repeat": _repeat,
}
