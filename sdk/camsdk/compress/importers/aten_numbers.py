"""ATen operators that work on each number alone: arithmetic, rounding, activations."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_scope import Operator, Scope, common_type, label, refuse
from camsdk.compress.importers.pt2_reader import AtenNode, Tensor


def first_of(node: AtenNode, scope: Scope) -> str:
    """The first argument, in the type of the result."""
    return scope.typed(node.arguments[next(iter(node.arguments))], scope.type_of(node), label(node))


def _unary(op: str, *renames: tuple[str, str, float]) -> Operator:
    """An operator of one tensor; ``renames`` are (ATen's name, ONNX's name, default)."""

    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        attributes: dict[str, Any] = {
            onnx: float(node.arguments.get(aten, d)) for aten, onnx, d in renames
        }
        return scope.emitter.node(op, [first_of(node, scope)], label(node), **attributes)

    return emit


def _chain(*steps: tuple[str, float | None]) -> Operator:
    """One operator after another; a number is the second operand of its step."""

    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        name, value = label(node), first_of(node, scope)
        for place, (op, number) in enumerate(steps):
            others = [] if number is None else [scope.operand(number, name)]
            title = name if place + 1 == len(steps) else f"{name}/{op.lower()}"
            (value,) = scope.emitter.node(op, [value, *others], title)
        return (value,)

    return emit


def _binary(op: str, *, is_reversed: bool = False) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        given, name, kind = node.arguments, label(node), scope.type_of(node)
        left = scope.typed(given["self"], kind, name)
        right = scope.typed(given.get("other", given.get("exponent")), kind, name)
        alpha = given.get("alpha", 1)
        if alpha != 1:
            scale = scope.typed(alpha, kind, name)
            scaled = scope.emitter.node(
                "Mul", [left if is_reversed else right, scale], f"{name}/scaled"
            )
            left, right = (scaled[0], right) if is_reversed else (left, scaled[0])
        return scope.emitter.node(op, [right, left] if is_reversed else [left, right], name)

    return emit


def _divide(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Whole numbers are rounded towards minus infinity in double, as ONNX cuts them instead."""
    given, name, kind = node.arguments, label(node), scope.type_of(node)
    mode = given.get("rounding_mode")
    mode = "floor" if node.target.startswith("floor_divide") else mode
    is_whole = kind.kind != "f"
    wide = np.dtype(np.float64) if is_whole and mode == "floor" else kind
    parts = [scope.typed(given[key], wide, name) for key in ("self", "other")]
    (ratio,) = scope.emitter.node("Div", parts, name if mode is None else f"{name}/ratio")
    if mode is None or (mode == "trunc" and is_whole):
        return (ratio,)
    if mode == "trunc":
        return _cut(ratio, name, scope)
    (low,) = scope.emitter.node("Floor", [ratio], f"{name}/floor" if is_whole else name)
    return (scope.cast(low, kind, name),) if is_whole else (low,)


def _cut(value: str, name: str, scope: Scope) -> tuple[str, ...]:
    """Towards zero."""
    size = scope.emitter.node("Abs", [value], f"{name}/size")
    low = scope.emitter.node("Floor", size, f"{name}/low")
    sign = scope.emitter.node("Sign", [value], f"{name}/sign")
    return scope.emitter.node("Mul", [low[0], sign[0]], name)


def _trunc(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    return _cut(first_of(node, scope), label(node), scope)


def _frac(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, value = label(node), first_of(node, scope)
    whole = _cut(value, f"{name}/whole", scope)
    return scope.emitter.node("Sub", [value, whole[0]], name)


def _round(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    if node.arguments.get("decimals"):
        raise refuse(node, "rounds to decimals")
    return scope.emitter.node("Round", [first_of(node, scope)], label(node))


def _remainder(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Of the sign of the divisor."""
    given, name, kind = node.arguments, label(node), scope.type_of(node)
    left, right = (scope.typed(given[key], kind, name) for key in ("self", "other"))
    if kind.kind != "f":
        return scope.emitter.node("Mod", [left, right], name)
    ratio = scope.emitter.node("Div", [left, right], f"{name}/ratio")
    times = scope.emitter.node("Floor", ratio, f"{name}/times")
    product = scope.emitter.node("Mul", [times[0], right], f"{name}/product")
    return scope.emitter.node("Sub", [left, product[0]], name)


def _clamp(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name, kind = node.arguments, label(node), scope.type_of(node)
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    if node.target.startswith("hardtanh"):
        low, high = -1 if low is None else low, 1 if high is None else high
    if node.target.startswith("relu6"):
        low, high = 0, 6
    value = scope.typed(given["self"], kind, name)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        for op, limit in (("Max", low), ("Min", high)):
            if limit is not None:
                inputs = [value, scope.typed(limit, kind, name)]
                (value,) = scope.emitter.node(op, inputs, f"{name}/{op}")
        return (value,)
    limits = ["" if limit is None else scope.typed(limit, kind, name) for limit in (low, high)]
    return scope.emitter.node("Clip", [value, *limits], name)


def _silu(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, first = label(node), scope.operand(node.arguments["self"], label(node))
    gate = scope.emitter.node("Sigmoid", [first], f"{name}/sigmoid")
    return scope.emitter.node("Mul", [first, gate[0]], name)


def _softplus(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    beta, threshold = float(given.get("beta", 1)), float(given.get("threshold", 20))
    if threshold < 15:  # above it PyTorch returns its input; from 15 on the two are equal in float
        raise refuse(node, f"is linear from {threshold} on")
    first = scope.operand(given["self"], name)
    if beta == 1:
        return scope.emitter.node("Softplus", [first], name)
    factor = scope.operand(beta, name)
    scaled = scope.emitter.node("Mul", [first, factor], f"{name}/scaled")
    soft = scope.emitter.node("Softplus", scaled, f"{name}/softplus")
    return scope.emitter.node("Div", [soft[0], factor], name)


def _hard_sigmoid(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    first = scope.operand(node.arguments["self"], label(node))
    return scope.emitter.node("HardSigmoid", [first], label(node), alpha=1 / 6, beta=0.5)


def _prelu(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    slope = scope.stored.get(given["weight"].name)
    if slope is None:
        raise refuse(node, "has computed slopes")
    ones = (1,) * (len(scope.shape(given["self"])) - 2)
    shaped = scope.emitter.initializer(f"{name}.slope", slope.reshape(-1, *ones))
    return scope.emitter.node("PRelu", [scope.operand(given["self"], name), shaped], name)


def _threshold(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    x = scope.operand(given["self"], name)
    above = scope.emitter.node(
        "Greater", [x, scope.operand(given["threshold"], name)], f"{name}/above"
    )
    return scope.emitter.node("Where", [above[0], x, scope.operand(given["value"], name)], name)


def _log1p(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Near 0, log(u) + (x - (u - 1)) / u, where u is 1 + x as rounded.

    The second term is what rounding took, log((1 + x) / u), to first order. Elsewhere log(u) alone
    is exact enough, and has its limits at -1 and infinity, where the term would be NaN.
    """
    name, x, emitter = label(node), first_of(node, scope), scope.emitter
    one, near = scope.operand(1.0, name), scope.operand(0.5, name)

    def step(op: str, *inputs: str, title: str) -> str:
        return emitter.node(op, list(inputs), f"{name}/{title}")[0]

    moved = step("Add", x, one, title="moved")
    plain = step("Log", moved, title="log")
    lost = step("Sub", x, step("Sub", moved, one, title="kept"), title="lost")
    exact = step("Add", plain, step("Div", lost, moved, title="rest"), title="exact")
    is_near = step("Less", step("Abs", x, title="size"), near, title="near")
    return emitter.node("Where", [is_near, exact, plain], name)


def _expm1(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """tanh(x / 2) (exp(x) + 1), which subtracts nothing that is nearly equal."""
    name, x, emitter = label(node), first_of(node, scope), scope.emitter
    half = emitter.node("Mul", [x, scope.operand(0.5, name)], f"{name}/half")
    curve = emitter.node("Tanh", half, f"{name}/tanh")
    power = emitter.node("Exp", [x], f"{name}/exp")
    sum_ = emitter.node("Add", [power[0], scope.operand(1.0, name)], f"{name}/sum")
    return emitter.node("Mul", [curve[0], sum_[0]], name)


def _addc(op: str) -> Operator:
    """self + value * (tensor1 op tensor2)."""

    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        given, name = node.arguments, label(node)
        parts = [scope.operand(given[key], name) for key in ("tensor1", "tensor2")]
        both = scope.emitter.node(op, parts, f"{name}/both")
        factor = scope.operand(given.get("value", 1), name)
        scaled = scope.emitter.node("Mul", [both[0], factor], f"{name}/scaled")
        return scope.emitter.node("Add", [scope.operand(given["self"], name), scaled[0]], name)

    return emit


def _lerp(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    start, end = (scope.operand(given[key], name) for key in ("self", "end"))
    way = scope.emitter.node("Sub", [end, start], f"{name}/way")
    part = scope.emitter.node("Mul", [way[0], scope.operand(given["weight"], name)], f"{name}/part")
    return scope.emitter.node("Add", [start, part[0]], name)


def _elu(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """With both scales, as SELU and CELU are decomposed: x above zero and a (exp(s x) - 1) below
    are ELU of s x with s a, divided by s."""
    given, name = node.arguments, label(node)
    alpha, scale, inner = (float(given.get(key, 1)) for key in ("alpha", "scale", "input_scale"))
    if inner <= 0:
        raise refuse(node, f"has the input scale {inner:g}")
    x, outer = first_of(node, scope), scale / inner
    if inner != 1:
        (x,) = scope.emitter.node("Mul", [x, scope.operand(inner, name)], f"{name}/scaled")
    made = scope.emitter.node(
        "Elu", [x], name if outer == 1 else f"{name}/elu", alpha=alpha * inner
    )
    if outer == 1:
        return made
    return scope.emitter.node("Mul", [*made, scope.operand(outer, name)], name)


def _nan_to_num(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Infinities become the largest numbers of float32 unless they are given."""
    given, name = node.arguments, label(node)
    if given.get("posinf") is not None or given.get("neginf") is not None:
        raise refuse(node, "replaces infinities by numbers of its own")
    x = scope.operand(given["self"], name)
    bad = scope.emitter.node("IsNaN", [x], f"{name}/bad")
    fill = scope.operand(given.get("nan") or 0.0, name)
    good = scope.emitter.node("Where", [bad[0], fill, x], f"{name}/good")
    limits = np.finfo(np.float32)
    bounds = [scope.operand(limit, name) for limit in (limits.min, limits.max)]
    return scope.emitter.node("Clip", [good[0], *bounds], name)


def _compare(op: str, *, is_negated: bool = False) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        given, name = node.arguments, label(node)
        left, right = given["self"], given["other"]
        kind = common_type(left, right, scope)
        if kind.kind == "b" and op != "Equal":
            kind = np.dtype(np.int32)
        inputs = [scope.typed(value, kind, name) for value in (left, right)]
        made = scope.emitter.node(op, inputs, f"{name}/equal" if is_negated else name)
        return scope.emitter.node("Not", made, name) if is_negated else made

    return emit


def _logic(op: str) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        if scope.type_of(node).kind != "b":
            raise refuse(node, "works on the bits of numbers")
        name = label(node)
        truth = scope.type_of(node)
        inputs = [scope.typed(value, truth, name) for value in node.arguments.values()]
        return scope.emitter.node(op, inputs, name)

    return emit


NUMBERS: Final[Mapping[str, Operator]] = {
    **{
        op.lower(): _unary(op)
        for op in (
            *("Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal", "Erf"),
            *("HardSwish", "Floor", "Ceil", "Sign", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan"),
            *("Sinh", "Cosh"),
        )
    },
    "leaky_relu": _unary("LeakyRelu", ("negative_slope", "alpha", 0.01)),
    "elu": _elu,
    "celu": _unary("Celu", ("alpha", "alpha", 1.0)),
    "selu": _unary("Selu"),
    "hardsigmoid": _hard_sigmoid,
    "silu": _silu,
    "prelu": _prelu,
    "softplus": _softplus,
    "threshold": _threshold,
    "rsqrt": _chain(("Sqrt", None), ("Reciprocal", None)),
    "square": _chain(("Pow", 2.0)),
    "log_sigmoid": _chain(("Neg", None), ("Softplus", None), ("Neg", None)),
    "log1p": _log1p,
    "expm1": _expm1,
    "log2": _chain(("Log", None), ("Mul", 1 / math.log(2))),
    "log10": _chain(("Log", None), ("Mul", 1 / math.log(10))),
    **dict.fromkeys(("clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6"), _clamp),
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "rsub": _binary("Sub", is_reversed=True),
    "maximum": _binary("Max"),
    "minimum": _binary("Min"),
    "mul": _binary("Mul"),
    "pow": _binary("Pow"),
    **dict.fromkeys(("div", "floor_divide"), _divide),
    "remainder": _remainder,
    "addcmul": _addc("Mul"),
    "addcdiv": _addc("Div"),
    "lerp": _lerp,
    "round": _round,
    "trunc": _trunc,
    "frac": _frac,
    "nan_to_num": _nan_to_num,
    "eq": _compare("Equal"),
    "ne": _compare("Equal", is_negated=True),
    "gt": _compare("Greater"),
    "ge": _compare("GreaterOrEqual"),
    "lt": _compare("Less"),
    "le": _compare("LessOrEqual"),
    **dict.fromkeys(("logical_not", "bitwise_not"), _logic("Not")),
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__"), _logic("And")),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__"), _logic("Or")),
    **dict.fromkeys(("logical_xor", "bitwise_xor", "__xor__"), _logic("Xor")),
}
