"""ONNX operators without weights of their own, in torch: what the twin does between its layers.

Each function takes the node's inputs (None where one is left out) and its attributes and returns
one tensor or several, as the ONNX operator specification says for opset 13 to 17. Sizes arrive as
int64 tensors.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from camsdk.compress.training.twin_resize import resize
from camsdk.errors import UnsupportedModel

Inputs = Sequence[Any]
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Tensor | Sequence[Tensor]]

_TYPES: Final = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""By number of ``onnx.TensorProto``."""


def integers(values: Any) -> list[int]:
    """Sizes, axes or indices, from an int64 tensor or an attribute."""
    return values.flatten().tolist() if isinstance(values, Tensor) else [int(v) for v in values]


def window_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    given: Attributes,
) -> list[tuple[int, int]]:
    """Padding before and after, per spatial axis, from ``pads`` or ``auto_pad``."""
    mode = given.get("auto_pad", b"NOTSET").decode()
    rank = len(kernel)
    if mode in ("NOTSET", "VALID"):
        pads = list(given.get("pads", [0] * 2 * rank)) if mode == "NOTSET" else [0] * 2 * rank
        return list(zip(pads[:rank], pads[rank:], strict=True))
    result = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return result


def padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """The last axes padded with a value."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


def _window(x: Tensor, given: Attributes) -> tuple[list[int], list[int], list[int], Any]:
    """Kernel, strides, dilations and pads of a pooling; ceil_mode pads the end further."""
    kernel = list(given["kernel_shape"])
    if len(kernel) != 2:
        raise UnsupportedModel(f"pooling over {len(kernel)} axes", "give a model of pictures")
    strides = list(given.get("strides", [1, 1]))
    dilations = list(given.get("dilations", [1, 1]))
    pads = window_pads(x.shape[2:], kernel, strides, dilations, given)
    return kernel, strides, dilations, pads


def _ceiled(x: Tensor, kernel: Any, strides: Any, dilations: Any, pads: Any) -> Any:
    """Further padding at the end that makes the last, partial window a whole one."""
    extra = []
    for axis, (before, after) in enumerate(pads):
        size = x.shape[2 + axis]
        span = size + before + after - dilations[axis] * (kernel[axis] - 1) - 1
        count = math.ceil(span / strides[axis])
        if count * strides[axis] >= size + before:  # it would begin in the padding
            count -= 1
        extra.append((0, max(0, count * strides[axis] - span)))
    return extra


def _max_pool(inputs: Inputs, given: Attributes) -> Tensor:
    x = inputs[0]
    kernel, strides, dilations, pads = _window(x, given)
    x = padded(x, pads, -math.inf)
    if given.get("ceil_mode"):
        extra = _ceiled(inputs[0], kernel, strides, dilations, pads)
        x = padded(x, extra, -math.inf)
    return functional.max_pool2d(x, kernel, strides, 0, dilations)


def _average_pool(inputs: Inputs, given: Attributes) -> Tensor:
    x = inputs[0]
    kernel, strides, dilations, pads = _window(x, given)
    if dilations != [1, 1]:
        raise UnsupportedModel("average pooling with dilation", "export the model without it")
    extra = [(0, 0), (0, 0)]
    if given.get("ceil_mode"):
        extra = _ceiled(x, kernel, strides, dilations, pads)
    pooled = functional.avg_pool2d(padded(padded(x, pads), extra), kernel, strides)
    if not any(amount for pair in (*pads, *extra) for amount in pair):
        return pooled
    # Padding given by the model counts if it says so; that of a partial last window never does.
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    counted = padded(ones, pads, 1.0 if given.get("count_include_pad") else 0.0)
    return pooled / functional.avg_pool2d(padded(counted, extra), kernel, strides)


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def reduce(inputs: Inputs, given: Attributes) -> Tensor:
        x = inputs[0]
        axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else given.get("axes")
        if axes is None and given.get("noop_with_empty_axes"):
            return x  # type: ignore[no-any-return] # a tensor by the standard
        dims = list(range(x.ndim)) if axes is None else integers(axes)
        return function(x, dim=dims, keepdim=bool(given.get("keepdims", 1)))

    return reduce


def _split(inputs: Inputs, given: Attributes) -> Sequence[Tensor]:
    x, axis = inputs[0], given.get("axis", 0)
    sizes = inputs[1] if len(inputs) > 1 else given.get("split")
    if sizes is not None:
        return torch.split(x, integers(sizes), axis)
    return torch.split(x, math.ceil(x.shape[axis] / given["outputs"]), axis)


def _slice(inputs: Inputs, given: Attributes) -> Tensor:
    x = inputs[0]
    starts, ends = integers(inputs[1]), integers(inputs[2])
    given_axes = inputs[3] if len(inputs) > 3 else None
    given_steps = inputs[4] if len(inputs) > 4 else None
    axes = range(len(starts)) if given_axes is None else integers(given_axes)
    steps = [1] * len(starts) if given_steps is None else integers(given_steps)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = range(x.shape[axis])[start:end:step]
        if step == 1:
            x = x.narrow(axis, chosen.start, len(chosen))
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), device=x.device))
    return x  # type: ignore[no-any-return] # a tensor by the standard


def _pad(inputs: Inputs, given: Attributes) -> Tensor:
    x, amounts = inputs[0], integers(inputs[1])
    axes = inputs[3] if len(inputs) > 3 else None
    pairs = [(0, 0)] * x.ndim
    half = len(amounts) // 2
    for axis, pair in zip(
        range(x.ndim) if axes is None else integers(axes),
        zip(amounts[:half], amounts[half:], strict=True),
        strict=True,
    ):
        pairs[axis] = pair
    mode = given.get("mode", b"constant").decode()
    if mode == "constant":
        fill = inputs[2] if len(inputs) > 2 else None
        return padded(x, pairs, 0.0 if fill is None else float(fill))
    if any(pairs[0]) or any(pairs[1]) or mode not in ("reflect", "edge"):
        raise UnsupportedModel(f"padding by {mode!r} of axes that are no rows or columns")
    flat = [amount for pair in reversed(pairs[2:]) for amount in pair]
    return functional.pad(x, flat, mode="replicate" if mode == "edge" else mode)


def _resize(inputs: Inputs, given: Attributes) -> Tensor:
    scales = inputs[2] if len(inputs) > 2 else None
    sizes = inputs[3] if len(inputs) > 3 else None
    return resize(
        inputs[0],
        None if scales is None else torch.as_tensor(scales).tolist(),
        None if sizes is None else integers(sizes),
        given,
    )


def _flatten(inputs: Inputs, given: Attributes) -> Tensor:
    x, axis = inputs[0], given.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)  # type: ignore[no-any-return] # a tensor


def _squeeze(inputs: Inputs, given: Attributes) -> Tensor:
    x, axes = inputs[0], inputs[1] if len(inputs) > 1 else given.get("axes")
    dims = [d for d in range(x.ndim) if x.shape[d] == 1] if axes is None else integers(axes)
    return x.squeeze(tuple(dims))  # type: ignore[no-any-return] # a tensor by the standard


def _unsqueeze(inputs: Inputs, given: Attributes) -> Tensor:
    x, axes = inputs[0], integers(inputs[1] if len(inputs) > 1 else given["axes"])
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x  # type: ignore[no-any-return] # a tensor by the standard


def _gather(inputs: Inputs, given: Attributes) -> Tensor:
    x, indices, axis = inputs[0], inputs[1].long(), given.get("axis", 0)
    axis %= x.ndim
    wrapped = torch.where(indices < 0, indices + x.shape[axis], indices)
    chosen = x.index_select(axis, wrapped.reshape(-1))
    return chosen.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])  # type: ignore[no-any-return] # a tensor


def _clip(inputs: Inputs, given: Attributes) -> Tensor:
    low = inputs[1] if len(inputs) > 1 else given.get("min")
    high = inputs[2] if len(inputs) > 2 else given.get("max")
    return torch.clamp(
        inputs[0],
        None if low is None else float(low),
        None if high is None else float(high),
    )


def _depth_to_space(inputs: Inputs, given: Attributes) -> Tensor:
    x, block = inputs[0], given["blocksize"]
    if given.get("mode", b"DCR").decode() == "CRD":
        return functional.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    split = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n, -1, h * block, w * block)  # type: ignore[no-any-return] # a tensor


def _divide(inputs: Inputs, _: Attributes) -> Tensor:
    if not inputs[0].is_floating_point():
        return torch.div(inputs[0], inputs[1], rounding_mode="trunc")
    return torch.div(inputs[0], inputs[1])


def _shape(inputs: Inputs, given: Attributes) -> Tensor:
    shape = list(inputs[0].shape)[given.get("start", 0) : given.get("end", None)]
    return torch.tensor(shape, dtype=torch.int64)


def _filled(inputs: Inputs, given: Attributes) -> Tensor:
    value = given["value"] if "value" in given else torch.zeros(1)
    return value.reshape(()).expand(integers(inputs[0])).clone()


def _hard_sigmoid(inputs: Inputs, given: Attributes) -> Tensor:
    return (inputs[0] * given.get("alpha", 0.2) + given.get("beta", 0.5)).clamp(0.0, 1.0)  # type: ignore[no-any-return] # a tensor


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Of any number of inputs."""

    def fold(inputs: Inputs, _: Attributes) -> Tensor:
        result = inputs[0]
        for x in inputs[1:]:
            result = function(result, x)
        return result  # type: ignore[no-any-return] # a tensor by the standard

    return fold


def _one(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda inputs, _: function(inputs[0])


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda inputs, _: function(inputs[0], inputs[1])


OPERATORS: Final[Mapping[str, Operator]] = {
    "Abs": _one(torch.abs),
    "Add": _two(torch.add),
    "AveragePool": _average_pool,
    "Cast": lambda inputs, given: inputs[0].to(_TYPES[given["to"]]),
    "Ceil": _one(torch.ceil),
    "Clip": _clip,
    "Concat": lambda inputs, given: torch.cat(list(inputs), given["axis"]),
    "ConstantOfShape": _filled,
    "DepthToSpace": _depth_to_space,
    "Div": _divide,
    "Dropout": _one(lambda x: x),
    "Elu": lambda inputs, given: functional.elu(inputs[0], given.get("alpha", 1.0)),
    "Equal": _two(torch.eq),
    "Erf": _one(torch.erf),
    "Exp": _one(torch.exp),
    "Expand": lambda inputs, _: inputs[0] * inputs[0].new_ones(integers(inputs[1])),
    "Flatten": _flatten,
    "Floor": _one(torch.floor),
    "Gather": _gather,
    "GlobalAveragePool": _one(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _one(lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)),
    "Greater": _two(torch.gt),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one(functional.hardswish),
    "Identity": _one(lambda x: x),
    "LeakyRelu": lambda inputs, given: functional.leaky_relu(inputs[0], given.get("alpha", 0.01)),
    "Less": _two(torch.lt),
    "Log": _one(torch.log),
    "LogSoftmax": lambda inputs, given: inputs[0].log_softmax(given.get("axis", -1)),
    "MatMul": _two(torch.matmul),
    "Max": _many(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _many(torch.minimum),
    "Mul": _two(torch.mul),
    "Neg": _one(torch.neg),
    "PRelu": _two(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pad": _pad,
    "Pow": _two(lambda x, power: torch.pow(x, power.to(x.dtype))),
    "Reciprocal": _one(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _one(torch.relu),
    "Resize": _resize,
    "Round": _one(torch.round),
    "Shape": _shape,
    "Sigmoid": _one(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda inputs, given: inputs[0].softmax(given.get("axis", -1)),
    "Softplus": _one(functional.softplus),
    "Split": _split,
    "Sqrt": _one(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _two(torch.sub),
    "Sum": _many(torch.add),
    "Tanh": _one(torch.tanh),
    "Transpose": lambda inputs, given: inputs[0].permute(
        given.get("perm", tuple(reversed(range(inputs[0].ndim))))
    ),
    "Unsqueeze": _unsqueeze,
    "Where": lambda inputs, _: torch.where(inputs[0], inputs[1], inputs[2]),
}
"""By ONNX operator. Reshape is the twin's own: it knows the batch."""
