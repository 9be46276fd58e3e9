"""TensorFlow operators that only graphs from TensorFlow itself hold, not those of TensorFlow.js.

TensorFlow.js' converter folds batch norms and the arithmetic of shapes; a frozen graph still has
both. Shapes are static here, so that ``Shape`` and what follows from it is folded into constants.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from camsdk.compress.importers.onnx_emitter import CHANNELS_FIRST, Perm, Value, constant
from camsdk.compress.importers.runnable import MAX_TENSOR_ELEMENTS
from camsdk.compress.importers.tensorflow_composed import COMPOSED
from camsdk.compress.importers.tensorflow_folding import only_folded, or_folded, window_of
from camsdk.compress.importers.tfjs_operators import OPERATORS
from camsdk.compress.importers.tfjs_reader import TfNode
from camsdk.compress.importers.tfjs_windows import (
    Context,
    Operator,
    known_numbers,
    known_value,
    window_pads,
)
from camsdk.errors import UnsupportedModel


def _slice(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    value = inputs[0]
    rank = len(value.shape)
    begin, end, strides = (known_numbers(item, node, "the range") for item in inputs[1:4])
    window = window_of(node, rank, begin, end, strides)
    rows = [item if isinstance(item, slice) else None for item in window]
    if None in rows and node.integer("new_axis_mask", 0):
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) adds an axis")
    bounds = []
    for axis, item in enumerate(window):
        full = item if isinstance(item, slice) else slice(item, item + 1 or None, 1)
        bounds.append((value.perm[axis], *full.indices(value.shape[axis])))
    if any(step < 1 for *_, step in bounds):
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) slices backwards")
    emitter = context.emitter
    columns = [[row[i] for row in bounds] for i in (1, 2, 0, 3)]  # starts, ends, axes, steps
    names = [
        emitter.initializer(f"{node.name}/{what}", np.asarray(column, np.int64))
        for what, column in zip(("starts", "ends", "axes", "steps"), columns, strict=True)
    ]
    (name,) = emitter.node("Slice", [emitter.held(value, node.name), *names], node.name)
    shape = list(value.shape)
    for axis, (_, first, last, step) in enumerate(bounds):
        shape[axis] = len(range(first, last, step))
    result = Value(name, value.perm, tuple(shape))
    dropped = tuple(axis for axis, item in enumerate(rows) if item is None)
    return (_without(result, dropped, node, context),) if dropped else (result,)


def _without(value: Value, axes: Sequence[int], node: TfNode, context: Context) -> Value:
    """The tensor without these axes of length 1, in whatever layout it is."""
    emitter = context.emitter
    physical = sorted(value.perm[axis] for axis in axes)
    rows = emitter.initializer(f"{node.name}/axes", np.asarray(physical, np.int64))
    (name,) = emitter.node(
        "Squeeze", [emitter.held(value, node.name), rows], f"{node.name}/squeezed"
    )
    kept = [axis for axis in range(len(value.shape)) if axis not in axes]
    places = [value.perm[axis] for axis in kept]
    perm: Perm = tuple(sorted(places).index(place) for place in places)
    return Value(name, perm, tuple(value.shape[axis] for axis in kept))


def _squeeze(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    (value,) = inputs
    rank = len(value.shape)
    axes = node.ints("squeeze_dims") or tuple(i for i in range(rank) if value.shape[i] == 1)
    axes = tuple(sorted({axis % rank for axis in axes}))
    if any(value.shape[axis] != 1 for axis in axes):
        raise ValueError(f"axes {axes} are longer than 1")
    if value.constant is not None:
        return (constant(np.squeeze(value.constant, axes)),)
    return (_without(value, axes, node, context),) if axes else (value,)


def _expand(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    value = inputs[0]
    (axis,) = known_numbers(inputs[1], node, "the axis")
    axis %= len(value.shape) + 1
    emitter = context.emitter
    rows = emitter.initializer(f"{node.name}/axes", np.asarray([axis], np.int64))
    (name,) = emitter.node("Unsqueeze", [emitter.plain(value, node.name), rows], node.name)
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    return (Value(name, tuple(range(len(shape))), shape),)


def _batch_norm(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    image = inputs[0]
    if node.flag("is_training", True):
        raise UnsupportedModel(
            f"layer {node.name!r} ({node.op}) is in training mode", "export the model for inference"
        )
    if node.text("data_format", "NHWC") != "NHWC" or len(image.shape) != 4:
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) is not NHWC")
    emitter = context.emitter
    names = [emitter.arranged(image, CHANNELS_FIRST, node.name)]
    for what, value in zip(("scale", "offset", "mean", "variance"), inputs[1:5], strict=True):
        known = known_value(value, node, f"the {what}").astype(np.float32)
        if known.shape != image.shape[3:]:
            raise ValueError(f"{what} of shape {known.shape}")
        names.append(emitter.initializer(f"{node.name}/{what}", known))
    (name,) = emitter.node(
        "BatchNormalization", names, node.name, epsilon=node.number("epsilon", 1e-4)
    )
    return (Value(name, CHANNELS_FIRST, image.shape),)


def _matmul(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    left, right = inputs
    weights = known_value(right, node, "the weights").astype(np.float32)
    if node.flag("transpose_a") or node.flag("adj_x"):
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) transposes its input")
    if node.flag("transpose_b") or node.flag("adj_y"):
        weights = np.swapaxes(weights, -1, -2)
    if weights.ndim != 2 or left.shape[-1] != weights.shape[0]:
        raise ValueError(f"weights of shape {weights.shape}")
    emitter = context.emitter
    names = [
        emitter.plain(left, node.name),
        emitter.initializer(f"{node.name}/weights", weights),
    ]
    (name,) = emitter.node("Gemm" if len(left.shape) == 2 else "MatMul", names, node.name)
    shape = (*left.shape[:-1], weights.shape[1])
    return (Value(name, tuple(range(len(shape))), shape),)


def _divide(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    """A quotient as a product, which optimisers fold into the layer before."""
    left, right = inputs
    if left.constant is not None and right.constant is not None:
        return (constant(np.asarray(np.true_divide(left.constant, right.constant))),)
    if right.constant is not None:
        inverse = constant(np.asarray(np.true_divide(1.0, right.constant), np.float32))
    else:
        emitter = context.emitter
        source = emitter.held(right, node.name)
        (name,) = emitter.node("Reciprocal", [source], f"{node.name}/inverse")
        inverse = replace(right, name=name)
    return OPERATORS["Mul"](replace(node, op="Mul"), (left, inverse), context)


def _reduce(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    value = inputs[0]
    rank = len(value.shape)
    axes = tuple(sorted({axis % rank for axis in known_numbers(inputs[1], node, "the axes")}))
    emitter = context.emitter
    source = emitter.held(value, node.name)
    physical = [value.perm[axis] for axis in axes]
    if node.op == "Mean" and value.perm == CHANNELS_FIRST and axes == (1, 2):
        (name,) = emitter.node("GlobalAveragePool", [source], node.name)
    elif node.op == "Sum":
        rows = emitter.initializer(f"{node.name}/over", np.asarray(physical, np.int64))
        (name,) = emitter.node("ReduceSum", [source, rows], node.name, keepdims=1)
    else:
        (name,) = emitter.node(f"Reduce{node.op}", [source], node.name, axes=physical, keepdims=1)
    shape = tuple(1 if axis in axes else length for axis, length in enumerate(value.shape))
    result = Value(name, value.perm, shape)
    return (result if node.flag("keep_dims") else _without(result, axes, node, context),)


def _shape(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    return (constant(np.asarray(inputs[0].shape, np.int32)),)


def _cast(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    """Values that are computed are float32 from the first; only a cast to float leaves them so."""
    target = node.attributes.get("DstT", {}).get("type")
    if inputs[0].constant is not None:
        integer = target in (3, 9, "DT_INT32", "DT_INT64")
        return (constant(inputs[0].constant.astype(np.int64 if integer else np.float32)),)
    if target not in (1, 2, 19, "DT_FLOAT", "DT_HALF"):
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) casts to type {target}")
    return (inputs[0],)


def _pack(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    rank = len(inputs[0].shape) + 1
    axis = node.integer("axis", 0) % rank
    emitter = context.emitter
    rows = emitter.initializer(f"{node.name}/axes", np.asarray([axis], np.int64))
    names = [
        emitter.node(
            "Unsqueeze", [emitter.plain(value, f"{node.name}/{i}"), rows], f"{node.name}/part{i}"
        )[0]
        for i, value in enumerate(inputs)
    ]
    (name,) = emitter.node("Concat", names, node.name, axis=axis)
    shape = (*inputs[0].shape[:axis], len(inputs), *inputs[0].shape[axis:])
    return (Value(name, tuple(range(rank)), shape),)


def _unpack(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    (value,) = inputs
    axis = node.integer("axis", 0) % len(value.shape)
    count = value.shape[axis]
    if value.constant is not None:
        parts = np.moveaxis(value.constant, axis, 0)
        return tuple(constant(np.asarray(part)) for part in parts)
    emitter = context.emitter
    lengths = emitter.initializer(f"{node.name}/sizes", np.ones(count, np.int64))
    names = emitter.node(
        "Split",
        [emitter.held(value, node.name), lengths],
        f"{node.name}/split",
        outputs=count,
        axis=value.perm[axis],
    )
    shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
    return tuple(_without(Value(name, value.perm, shape), (axis,), node, context) for name in names)


def _rank(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    return (constant(np.asarray(len(inputs[0].shape), np.int32)),)


def _unary(onnx_op: str) -> Operator:
    def apply(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
        (value,) = inputs
        emitter = context.emitter
        source = emitter.held(value, node.name)
        if node.op == "Square":
            (name,) = emitter.node("Mul", [source, source], node.name)
        elif node.op == "Rsqrt":
            (root,) = emitter.node("Sqrt", [source], f"{node.name}/root")
            (name,) = emitter.node("Reciprocal", [root], node.name)
        else:
            (name,) = emitter.node(onnx_op, [source], node.name)
        return (Value(name, value.perm, value.shape),)

    return apply


def _transposed_convolution(
    node: TfNode, inputs: Sequence[Value], context: Context
) -> tuple[Value, ...]:
    """The gradient of a convolution by its input, which networks use to enlarge."""
    sizes = known_numbers(inputs[0], node, "the size")
    kernel, image = known_value(inputs[1], node, "the kernel"), inputs[2]
    strides = (node.ints("strides") or (1, 1, 1, 1))[1:3]
    if node.text("data_format", "NHWC") != "NHWC" or set(node.ints("dilations")) - {1}:
        raise UnsupportedModel(f"layer {node.name!r} ({node.op}) is dilated or not NHWC")
    if len(sizes) == 2:
        sizes = (image.shape[0], *sizes, kernel.shape[2])
    before, after, extra = [], [], []
    mode = node.text("padding", "VALID")
    stated = window_pads(node, (1, 1), (1, 1), (1, 1))  # by the file itself, if at all
    for axis in (0, 1):
        full = (image.shape[1 + axis] - 1) * strides[axis] + kernel.shape[axis]
        rest = full - sizes[1 + axis]
        cut = max(rest, 0) if mode == "SAME" else 0
        first, last = (cut // 2, cut - cut // 2) if mode == "SAME" else stated[axis::2]
        before.append(first)
        after.append(last)
        extra.append(first + last - rest)
    emitter = context.emitter
    names = [
        emitter.arranged(image, CHANNELS_FIRST, node.name),
        emitter.initializer(f"{node.name}/weights", kernel.transpose(3, 2, 0, 1)),
    ]
    (name,) = emitter.node(
        "ConvTranspose",
        names,
        node.name,
        strides=strides,
        kernel_shape=kernel.shape[:2],
        pads=[*before, *after],
        output_padding=extra,
    )
    return (Value(name, CHANNELS_FIRST, (image.shape[0], *sizes[1:3], kernel.shape[2])),)


def _resize(node: TfNode, inputs: Sequence[Value], context: Context) -> tuple[Value, ...]:
    """Of all three conventions of TensorFlow; the newest is that of TensorFlow.js."""
    if node.flag("half_pixel_centers"):
        return OPERATORS[node.op](node, inputs, context)
    image = inputs[0]
    rows, columns = known_numbers(inputs[1], node, "the size")
    size = (image.shape[0], image.shape[3], rows, columns)
    if min(size) < 1 or np.prod(size, dtype=float) > MAX_TENSOR_ELEMENTS:
        raise ValueError(f"an image of shape {size}")
    is_aligned = node.flag("align_corners")
    emitter = context.emitter
    (name,) = emitter.node(
        "Resize",
        [
            emitter.arranged(image, CHANNELS_FIRST, node.name),
            "",
            "",
            emitter.initializer(f"{node.name}/size", np.asarray(size, np.int64)),
        ],
        node.name,
        mode="linear" if node.op == "ResizeBilinear" else "nearest",
        coordinate_transformation_mode="align_corners" if is_aligned else "asymmetric",
        nearest_mode="round_prefer_ceil" if is_aligned else "floor",
    )
    return (Value(name, CHANNELS_FIRST, (image.shape[0], rows, columns, image.shape[3])),)


_UNARY: Final = {
    "Abs": "Abs",
    "Erf": "Erf",
    "Exp": "Exp",
    "Log": "Log",
    "Neg": "Neg",
    "Rsqrt": "Rsqrt",
    "Selu": "Selu",
    "Softplus": "Softplus",
    "Softsign": "Softsign",
    "Sqrt": "Sqrt",
    "Square": "Square",
}


TENSORFLOW_OPERATORS: Final[dict[str, Operator]] = {
    **OPERATORS,
    **COMPOSED,
    **{op: or_folded(_unary(name)) for op, name in _UNARY.items()},
    **dict.fromkeys(("Fill", "GatherV2", "Prod", "Range", "Slice", "Tile"), or_folded(only_folded)),
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "MatMul"), _matmul),
    **dict.fromkeys(("CheckNumerics", "PreventGradient", "StopGradient"), OPERATORS["Identity"]),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _batch_norm),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), _reduce),
    **dict.fromkeys(("ResizeBilinear", "ResizeNearestNeighbor"), _resize),
    "Cast": _cast,
    "ConcatV2": or_folded(OPERATORS["ConcatV2"]),
    "Conv2DBackpropInput": _transposed_convolution,
    "ExpandDims": or_folded(_expand),
    "Pack": or_folded(_pack),
    "Rank": _rank,
    "RealDiv": _divide,
    "Shape": _shape,
    "Squeeze": _squeeze,
    "StridedSlice": or_folded(_slice),
    "Unpack": _unpack,
}
"""All that can be imported from a graph of TensorFlow's own, by operator name."""
