"""What each ATen operator becomes in ONNX.

An operator's function takes the node and a ``Scope`` and returns the name of each ONNX tensor that
the node makes. Shapes come from the exported program, so none is inferred here. Semantics follow
the operators' signatures in ``native_functions.yaml`` of PyTorch.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_composed import COMPOSED
from camsdk.compress.importers.aten_scope import Operator, Scope, label, positive, refuse
from camsdk.compress.importers.pt2_reader import AtenNode
from camsdk.errors import UnsupportedModel


def _pair(value: Any, default: int | None = None) -> list[int]:
    if value is None or value == []:
        assert default is not None
        return [default, default]
    numbers = [value] if isinstance(value, int) else [int(number) for number in value]
    return numbers * 2 if len(numbers) == 1 else numbers


def _unary(op: str, *renames: tuple[str, str, float]) -> Operator:
    """An operator of one tensor; ``renames`` are (ATen's name, ONNX's name, default)."""

    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        name = label(node)
        attributes: dict[str, Any] = {
            onnx: float(node.arguments.get(aten, d)) for aten, onnx, d in renames
        }
        first = next(iter(node.arguments.values()))
        return scope.emitter.node(op, [scope.operand(first, name)], name, **attributes)

    return emit


def _same(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    return (scope.operand(next(iter(node.arguments.values())), label(node)),)


def _dropout(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    if node.arguments.get("train"):
        raise refuse(node, "is in training mode, call module.eval() before the export")
    return _same(node, scope)


def _binary(op: str, *, is_reversed: bool = False) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        given, name = node.arguments, label(node)
        if given.get("rounding_mode"):
            raise refuse(node, "rounds")
        left = scope.operand(given["self"], name)
        right = scope.operand(given.get("other", given.get("exponent")), name)
        alpha = float(given.get("alpha", 1))
        if alpha != 1:
            scale = scope.operand(alpha, name)
            scaled = scope.emitter.node(
                "Mul", [left if is_reversed else right, scale], f"{name}/scaled"
            )
            left, right = (scaled[0], right) if is_reversed else (left, scaled[0])
        return scope.emitter.node(op, [right, left] if is_reversed else [left, right], name)

    return emit


def _conv(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    inputs = [scope.operand(given["input"], name), scope.operand(given["weight"], name)]
    if given.get("bias") is not None:
        inputs.append(scope.operand(given["bias"], name))
    kernel = list(scope.shape(given["weight"])[2:])
    rank = len(kernel)
    stride, dilation = (_spread(given.get(key), rank, 1) for key in ("stride", "dilation"))
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    attributes |= {"dilations": dilation, "group": int(given.get("groups", 1))}
    padding = given.get("padding", 0)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        attributes["pads"] = [t // 2 for t in totals] + [t - t // 2 for t in totals]
    else:
        attributes["pads"] = _spread(0 if padding == "valid" else padding, rank, 0) * 2
    transposed = given.get("transposed") or "transpose" in node.target
    if transposed:
        attributes["output_padding"] = _spread(given.get("output_padding"), rank, 0)
    op = "ConvTranspose" if transposed else "Conv"
    return scope.emitter.node(op, inputs, name, **attributes)


def _spread(value: Any, rank: int, default: int) -> list[int]:
    if value is None or value == []:
        return [default] * rank
    numbers = [value] if isinstance(value, int) else [int(number) for number in value]
    return numbers * rank if len(numbers) == 1 else numbers


def _batch_norm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    if given.get("training") or given.get("running_mean") is None:
        raise refuse(node, "is in training mode, call module.eval() before the export")
    channels = scope.shape(given["running_mean"])
    default = {"weight": np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32)}
    inputs = [scope.operand(given["input"], name)]
    for key in ("weight", "bias"):
        inputs.append(
            scope.emitter.initializer(f"{name}.{key}", default[key])
            if given.get(key) is None
            else scope.operand(given[key], name)
        )
    inputs += [scope.operand(given[key], name) for key in ("running_mean", "running_var")]
    return scope.emitter.node("BatchNormalization", inputs, name, epsilon=float(given["eps"]))


def _linear(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    first, weight = scope.operand(given["input"], name), given["weight"]
    bias = None if given.get("bias") is None else scope.operand(given["bias"], name)
    if len(scope.shape(given["input"])) == 2:
        inputs = [first, scope.operand(weight, name)] + ([bias] if bias else [])
        return scope.emitter.node("Gemm", inputs, name, transB=1)
    stored = scope.stored.get(weight.name)
    if stored is None:
        raise refuse(node, "has a computed weight")
    turned = scope.emitter.initializer(f"{name}.weight.T", stored.T)
    product = scope.emitter.node("MatMul", [first, turned], name)
    return scope.emitter.node("Add", [product[0], bias], f"{name}/bias") if bias else product


def _addmm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    inputs = [scope.operand(given[key], name) for key in ("mat1", "mat2", "self")]
    scales: dict[str, Any] = {
        "alpha": float(given.get("alpha", 1)),
        "beta": float(given.get("beta", 1)),
    }
    return scope.emitter.node("Gemm", inputs, name, **scales)


def _matmul(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    operands = [scope.operand(value, label(node)) for value in node.arguments.values()]
    return scope.emitter.node("MatMul", operands, label(node))


def _pool_pads(node: AtenNode, scope: Scope, dilation: list[int]) -> list[int]:
    """Padding before and after, so that rounding down gives the program's size.

    PyTorch rounds up only as long as the last window begins within the image or the padding before
    it; ONNX's ``ceil_mode`` does not know that rule.
    """
    given = node.arguments
    kernel, before = _pair(given["kernel_size"]), _pair(given.get("padding"), 0)
    if not given.get("ceil_mode"):
        return before * 2
    stride = _pair(given.get("stride") or kernel)
    sizes = scope.shape(given["self"])[-2:], scope.shapes[node.outputs[0]][-2:]
    after = [
        max(0, (made - 1) * step + reach * (taps - 1) + 1 - length - pad)
        for length, made, step, taps, reach, pad in zip(
            *sizes, stride, kernel, dilation, before, strict=True
        )
    ]
    return before + after


def _max_pool(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    kernel, dilation = _pair(given["kernel_size"]), _pair(given.get("dilation"), 1)
    return scope.emitter.node(
        "MaxPool",
        [scope.operand(given["self"], name)],
        name,
        kernel_shape=kernel,
        strides=_pair(given.get("stride") or kernel),
        pads=_pool_pads(node, scope, dilation),
        dilations=dilation,
    )


def _average_pool(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    kernel = _pair(given["kernel_size"])
    padding, is_ceil = _pair(given.get("padding"), 0), bool(given.get("ceil_mode"))
    counts_pad = given.get("count_include_pad", True) and any(padding)
    if given.get("divisor_override") or (is_ceil and counts_pad):
        raise refuse(node, "divides by another number than the pixels under the window")
    return scope.emitter.node(
        "AveragePool",
        [scope.operand(given["self"], name)],
        name,
        kernel_shape=kernel,
        strides=_pair(given.get("stride") or kernel),
        pads=_pool_pads(node, scope, [1, 1]),
        count_include_pad=int(counts_pad),
    )


def _adaptive_pool(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Equal windows where the output divides the input; others differ in size."""
    name, size = label(node), scope.shape(node.arguments["self"])[-2:]
    wanted = _pair(node.arguments["output_size"])
    first = scope.operand(node.arguments["self"], name)
    if wanted == [1, 1]:
        op = "GlobalAveragePool" if "avg" in node.target else "GlobalMaxPool"
        return scope.emitter.node(op, [first], name)
    if any(length % count for length, count in zip(size, wanted, strict=True)):
        raise refuse(node, f"pools {size} to {wanted}, which does not divide it")
    window = [length // count for length, count in zip(size, wanted, strict=True)]
    op = "AveragePool" if "avg" in node.target else "MaxPool"
    return scope.emitter.node(op, [first], name, kernel_shape=window, strides=window)


def _mean(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    first, rank = scope.operand(given["self"], name), len(scope.shape(given["self"]))
    axes = given.get("dim")
    axes = list(range(rank)) if axes is None else sorted(positive(axes, rank))
    keep = int(bool(given.get("keepdim")))
    if axes == [2, 3] and rank == 4 and keep:
        return scope.emitter.node("GlobalAveragePool", [first], name)
    return scope.emitter.node("ReduceMean", [first], name, axes=axes, keepdims=keep)


def _reshape(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Everything that only changes the shape, which the program states."""
    name, shape = label(node), scope.shapes[node.outputs[0]]
    first = scope.operand(node.arguments["self"], name)
    if node.target.startswith("flatten") and len(shape) == 2 and shape[0] == 1:
        return scope.emitter.node("Flatten", [first], name, axis=1)
    return scope.emitter.node("Reshape", [first, scope.ints(f"{name}/shape", shape)], name)


def _permute(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    rank = len(scope.shape(given["self"]))
    order = list(range(rank))
    if "dims" in given:
        order = positive(given["dims"], rank)
    else:
        one, other = (given.get(key, i) % rank for i, key in enumerate(("dim0", "dim1")))
        order[one], order[other] = order[other], order[one]
    return scope.emitter.node("Transpose", [scope.operand(given["self"], name)], name, perm=order)


def _cat(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name = label(node)
    parts = [scope.operand(part, name) for part in node.arguments["tensors"]]
    return scope.emitter.node("Concat", parts, name, axis=int(node.arguments.get("dim", 0)))


def _split(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    axis = int(given.get("dim", 0))
    sizes = [scope.shapes[output][axis] for output in node.outputs]
    inputs = [scope.operand(given["self"], name), scope.ints(f"{name}/sizes", sizes)]
    return scope.emitter.node("Split", inputs, name, outputs=len(sizes), axis=axis)


def _slice(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    limits = [given.get("start") or 0, min(given.get("end") or (1 << 62), 1 << 62)]
    if given.get("end") == 0:
        limits[1] = 0
    numbers = {"start": limits[0], "end": limits[1], "axis": given.get("dim", 0)}
    numbers["step"] = given.get("step", 1)
    inputs = [scope.ints(f"{name}/{key}", [value]) for key, value in numbers.items()]
    return scope.emitter.node("Slice", [scope.operand(given["self"], name), *inputs], name)


def _select(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    index = scope.emitter.initializer(f"{name}/index", np.array(given["index"], np.int64))
    inputs = [scope.operand(given["self"], name), index]
    return scope.emitter.node("Gather", inputs, name, axis=int(given["dim"]))


def _softmax(op: str) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        first = scope.operand(node.arguments["self"], label(node))
        return scope.emitter.node(op, [first], label(node), axis=int(node.arguments["dim"]))

    return emit


def _clamp(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    if node.target.startswith("hardtanh"):
        low, high = -1 if low is None else low, 1 if high is None else high
    if node.target.startswith("relu6"):
        low, high = 0, 6
    limits = ["" if limit is None else scope.operand(float(limit), name) for limit in (low, high)]
    return scope.emitter.node("Clip", [scope.operand(given["self"], name), *limits], name)


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


_RESIZE_MODES: Final[Mapping[str, Mapping[str, Any]]] = {
    "upsample_nearest2d": {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    "_upsample_nearest_exact2d": {
        "mode": "nearest",
        "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_ceil",
    },
    "upsample_bilinear2d": {"mode": "linear"},
    "upsample_bicubic2d": {"mode": "cubic", "cubic_coeff_a": -0.75},
}


def _upsample(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """By the output's size; by the scale where rounding made the size another one than it says."""
    given, name = node.arguments, label(node)
    mode = dict(_RESIZE_MODES[node.target.split(".")[0]])
    if mode["mode"] != "nearest":
        corners = "align_corners" if given.get("align_corners") else "half_pixel"
        mode["coordinate_transformation_mode"] = corners
    source = given.get("input", given.get("self"))
    first, made = scope.operand(source, name), scope.shapes[node.outputs[0]]
    scales = given.get("scale_factors") or []
    exact = zip(scales, scope.shape(source)[2:], made[2:], strict=False)
    if all(scale * length == size for scale, length, size in exact):
        sizes = scope.ints(f"{name}/size", made)
        return scope.emitter.node("Resize", [first, "", "", sizes], name, **mode)
    factors = scope.emitter.initializer(f"{name}/scales", np.array([1, 1, *scales], np.float32))
    return scope.emitter.node("Resize", [first, "", factors], name, **mode)


_PAD_MODES: Final = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def _pad(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    mode = _PAD_MODES.get(given.get("mode") or "constant")
    if mode is None:
        raise refuse(node, f"pads by {given['mode']}")
    rank, pads = len(scope.shape(given["self"])), given["pad"]
    before, after = [0] * rank, [0] * rank
    for index in range(len(pads) // 2):  # the last axis comes first
        before[rank - 1 - index], after[rank - 1 - index] = pads[2 * index : 2 * index + 2]
    value = scope.operand(float(given.get("value") or 0), name)
    inputs = [scope.operand(given["self"], name), scope.ints(f"{name}/pads", before + after), value]
    return scope.emitter.node("Pad", inputs, name, mode=mode)


def _pixel_shuffle(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    first = scope.operand(node.arguments["self"], label(node))
    size = int(node.arguments["upscale_factor"])
    return scope.emitter.node("DepthToSpace", [first], label(node), blocksize=size, mode="CRD")


_BY_OPERATOR: Final[Mapping[str, Operator]] = {
    **COMPOSED,
    **dict.fromkeys(("conv1d", "conv2d", "convolution", "conv_transpose2d"), _conv),
    "batch_norm": _batch_norm,
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    "relu": _unary("Relu"),
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "exp": _unary("Exp"),
    "log": _unary("Log"),
    "sqrt": _unary("Sqrt"),
    "abs": _unary("Abs"),
    "neg": _unary("Neg"),
    "softplus": _softplus,
    "reciprocal": _unary("Reciprocal"),
    "erf": _unary("Erf"),
    "hardswish": _unary("HardSwish"),
    "leaky_relu": _unary("LeakyRelu", ("negative_slope", "alpha", 0.01)),
    "elu": _unary("Elu", ("alpha", "alpha", 1.0)),
    "hardsigmoid": _hard_sigmoid,
    "silu": _silu,
    "prelu": _prelu,
    **dict.fromkeys(("clamp", "clip", "clamp_min", "hardtanh", "relu6"), _clamp),
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "rsub": _binary("Sub", is_reversed=True),
    "maximum": _binary("Max"),
    "minimum": _binary("Min"),
    "mul": _binary("Mul"),
    "div": _binary("Div"),
    "pow": _binary("Pow"),
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
    "mean": _mean,
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten"), _reshape),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("cat", "concat"), _cat),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "slice": _slice,
    "select": _select,
    "softmax": _softmax("Softmax"),
    "log_softmax": _softmax("LogSoftmax"),
    **dict.fromkeys(_RESIZE_MODES, _upsample),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "pixel_shuffle": _pixel_shuffle,
    **dict.fromkeys(("dropout", "feature_dropout"), _dropout),
    **dict.fromkeys(("contiguous", "clone", "detach", "alias", "lift_fresh_copy"), _same),
}

VIEWS: Final = frozenset(
    {"view", "reshape", "flatten", "squeeze", "unsqueeze", "permute"}
    | {"transpose", "t", "slice", "select", "split", "chunk", "expand", "expand_as", "unbind"}
)
"""Results share the memory of their input: changing them in place changes it too."""


def operator_of(node: AtenNode) -> Operator:
    """The function for a node.

    Raises:
        UnsupportedModel: There is none; names the operator and the layer.
    """
    found = _BY_OPERATOR.get(base_name(node))
    if found is None:
        raise UnsupportedModel(
            f"operator {node.target!r} of layer {label(node)!r} cannot be imported",
            f"supported are {', '.join(sorted(_BY_OPERATOR))}",
        )
    return found


def base_name(node: AtenNode) -> str:
    """The operator without its overload and without the mark of in-place operators."""
    return node.target.split(".")[0].rstrip("_")


def is_in_place(node: AtenNode) -> bool:
    """Whether the node overwrites its first argument."""
    return node.target.split(".")[0].endswith("_")
