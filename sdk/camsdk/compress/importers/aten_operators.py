"""What each ATen operator becomes in ONNX: the table, and layers with weights and resizing.

An operator's function takes the node and a ``Scope`` and returns the name of each ONNX tensor that
the node makes. Shapes and types come from the exported program, so none is inferred here. Semantics
follow the operators' signatures in ``native_functions.yaml`` of PyTorch.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_attention import PRODUCTS
from camsdk.compress.importers.aten_choices import CHOICES
from camsdk.compress.importers.aten_composed import COMPOSED
from camsdk.compress.importers.aten_constants import CONSTANTS
from camsdk.compress.importers.aten_layouts import LAYOUTS, same
from camsdk.compress.importers.aten_numbers import NUMBERS
from camsdk.compress.importers.aten_pools import POOLS
from camsdk.compress.importers.aten_scope import Operator, Scope, label, refuse, spread
from camsdk.compress.importers.pt2_reader import AtenNode, unknown_operator

_DROPOUTS: Final = ("dropout", "feature_dropout", "alpha_dropout")


def _dropout(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    if node.arguments.get("train"):
        raise refuse(node, "is in training mode, call module.eval() before the export")
    return same(node, scope)


def _conv(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    inputs = [scope.operand(given["input"], name), scope.operand(given["weight"], name)]
    if given.get("bias") is not None:
        inputs.append(scope.operand(given["bias"], name))
    kernel = list(scope.shape(given["weight"])[2:])
    rank = len(kernel)
    stride, dilation = (spread(given.get(key), rank, 1) for key in ("stride", "dilation"))
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    attributes |= {"dilations": dilation, "group": int(given.get("groups", 1))}
    padding = given.get("padding", 0)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        attributes["pads"] = [t // 2 for t in totals] + [t - t // 2 for t in totals]
    else:
        attributes["pads"] = spread(0 if padding == "valid" else padding, rank, 0) * 2
    transposed = given.get("transposed") or "transpose" in node.target
    if transposed:
        attributes["output_padding"] = spread(given.get("output_padding"), rank, 0)
    op = "ConvTranspose" if transposed else "Conv"
    return scope.emitter.node(op, inputs, name, **attributes)


def _batch_norm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    if given.get("training") or given.get("running_mean") is None:
        raise refuse(node, "is in training mode, call module.eval() before the export")
    channels = scope.shape(given["running_mean"])
    scope.check_size(node, channels)
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


def _softmax(op: str) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        first = scope.operand(node.arguments["self"], label(node))
        return scope.emitter.node(op, [first], label(node), axis=int(node.arguments["dim"]))

    return emit


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
    "upsample_linear1d": {"mode": "linear"},
    "upsample_trilinear3d": {"mode": "linear"},
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
    apart = [given.get(f"scales{axis}") for axis in ("_d", "_h", "_w", "")]
    scales = given.get("scale_factors") or [scale for scale in apart if scale is not None]
    exact = zip(scales, scope.shape(source)[2:], made[2:], strict=False)
    if all(scale * length == size for scale, length, size in exact):
        sizes = scope.ints(f"{name}/size", made)
        return scope.emitter.node("Resize", [first, "", "", sizes], name, **mode)
    factors = scope.emitter.initializer(f"{name}/scales", np.array([1, 1, *scales], np.float32))
    return scope.emitter.node("Resize", [first, "", factors], name, **mode)


_SAMPLING: Final = (("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"))


def _grid_sample(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    if len(scope.shape(given["input"])) != 4:
        raise refuse(node, "samples no image")
    inputs = [scope.operand(given[key], name) for key in ("input", "grid")]
    mode, padding = (
        names[int(given[key])]
        for names, key in zip(_SAMPLING, ("interpolation_mode", "padding_mode"), strict=True)
    )
    settings: dict[str, Any] = {"mode": mode, "padding_mode": padding}
    settings["align_corners"] = int(bool(given.get("align_corners")))
    return scope.emitter.node("GridSample", inputs, name, **settings)


_CONVOLUTIONS: Final = (
    "convolution",
    *(f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3)),
)

_BY_OPERATOR: Final[Mapping[str, Operator]] = {
    **NUMBERS,
    **CHOICES,
    **CONSTANTS,
    **LAYOUTS,
    **POOLS,
    **PRODUCTS,
    **COMPOSED,
    **dict.fromkeys(_CONVOLUTIONS, _conv),
    "batch_norm": _batch_norm,
    "softmax": _softmax("Softmax"),
    "log_softmax": _softmax("LogSoftmax"),
    **dict.fromkeys(_RESIZE_MODES, _upsample),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d"), _grid_sample),
    **dict.fromkeys(_DROPOUTS, _dropout),
}

_SAME_MEMORY: Final = (
    (frozenset(LAYOUTS) | {"meshgrid"})
    - {"cat", "concat", "concatenate", "hstack", "stack"}
    - {
        *("repeat", "tile", "repeat_interleave", "flip", "roll", "pad", "constant_pad_nd", "clone"),
        *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "_to_copy"),
    }
)
"""Operators whose results may share the memory of their first argument, or each of its own where
the first argument is a list."""


def operator_of(node: AtenNode) -> Operator:
    """The function for a node.

    Raises:
        UnsupportedModel: There is none; names the operator, the layer and its place.
    """
    found = _BY_OPERATOR.get(base_name(node))
    if found is None:
        raise unknown_operator(f"aten.{node.target}", label(node), node.place)
    return found


def base_name(node: AtenNode) -> str:
    """The operator without its overload and without the mark of in-place operators."""
    name = node.target.split(".")[0]
    return name if name.endswith("__") else name.removesuffix("_")


def is_in_place(node: AtenNode) -> bool:
    """Whether the node overwrites its first argument."""
    name = base_name(node)
    return node.target.split(".")[0] == f"{name}_" and name not in (*_DROPOUTS, "detach")


def shares_memory(node: AtenNode) -> bool:
    """Whether changing what the node makes may change its first argument too."""
    return base_name(node) in _SAME_MEMORY or base_name(node) in _DROPOUTS or is_in_place(node)
