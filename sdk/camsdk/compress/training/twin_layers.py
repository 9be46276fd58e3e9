"""Layers and BatchNorm of an ONNX model as torch modules, and their weights on the way back."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camsdk.compress.graph.layers import LAYER_OPERATORS, Array, attributes
from camsdk.errors import UnsupportedModel

_NORM: Final = "BatchNormalization"


def torch_module(
    node: onnx.NodeProto,
    fixed: Mapping[str, Array],
    known: Mapping[str, tuple[int, ...]],
    given: dict[str, Any],
) -> nn.Module | None:
    """The torch module of a node with constant weights, None for every other node.

    Args:
        fixed: Constants by name.
        known: Shapes by name of tensor.
        given: Attributes; of a convolution, what padding it must know is added.

    Raises:
        UnsupportedModel: The node uses what torch's module cannot.
    """
    if node.op_type != _NORM and node.op_type not in LAYER_OPERATORS:
        return None
    weights = [fixed.get(name) for name in node.input[1:] if name]
    if any(weight is None for weight in weights):
        if node.op_type == "MatMul":
            return None
        raise UnsupportedModel(
            f"node {node.name!r}: {node.op_type} with weights that are computed cannot be trained"
        )
    arrays = [np.asarray(weight) for weight in weights]
    if node.op_type == _NORM:
        return _norm(arrays, given, len(known.get(node.input[0], (0,) * 4)))
    if node.op_type in ("Conv", "ConvTranspose"):
        return _convolution(node, arrays, given)
    return _linear(node, arrays, given)


def _norm(arrays: Sequence[Array], given: Mapping[str, Any], rank: int) -> nn.Module:
    kind = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
    module = kind(
        len(arrays[0]), eps=given.get("epsilon", 1e-5), momentum=1 - given.get("momentum", 0.9)
    )
    targets = (module.weight, module.bias, module.running_mean, module.running_var)
    for target, array in zip(targets, arrays, strict=True):
        assert target is not None
        _fill(target, array)
    return module


def _convolution(node: onnx.NodeProto, arrays: Sequence[Array], given: dict[str, Any]) -> nn.Module:
    weight = arrays[0]
    if weight.ndim != 4:
        raise UnsupportedModel(
            f"node {node.name!r}: {node.op_type} over {weight.ndim - 2} axes cannot be trained",
            "give a model of pictures",
        )
    groups, kernel = given.get("group", 1), weight.shape[2:]
    window: dict[str, Any] = {
        "stride": _pair(given, "strides"),
        "dilation": _pair(given, "dilations"),
    }
    has_bias = len(arrays) > 1
    given |= {"kernel": kernel, **window}
    if node.op_type == "Conv":
        shape = weight.shape[1] * groups, weight.shape[0]
        pads = given.get("pads", (0, 0, 0, 0))
        symmetric = given.get("auto_pad", b"NOTSET") == b"NOTSET" and tuple(pads[:2]) == tuple(
            pads[2:]
        )
        given["pad_first"] = not symmetric
        module: nn.Module = nn.Conv2d(
            *shape, kernel, groups=groups, bias=has_bias,
            padding=tuple(pads[:2]) if symmetric else 0, **window,
        )  # fmt: skip
    else:
        module = _transposed(node, weight, given, groups, has_bias, window)
    _fill(module.get_parameter("weight"), weight)
    if has_bias:
        _fill(module.get_parameter("bias"), arrays[1])
    return module


def _transposed(
    node: onnx.NodeProto,
    weight: Array,
    given: dict[str, Any],
    groups: int,
    has_bias: bool,
    window: Mapping[str, Any],
) -> nn.Module:
    pads = tuple(given.get("pads", (0, 0, 0, 0)))
    extra = list(given.get("output_padding", (0, 0)))
    if given.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in given:
        raise UnsupportedModel(
            f"node {node.name!r}: ConvTranspose with an output size in place of pads "
            "cannot be trained",
            "export the model with explicit pads",
        )
    # What is cut less at the end than at the beginning is output padding to torch.
    extra = [more + pads[axis] - pads[2 + axis] for axis, more in enumerate(extra)]
    if min(extra) < 0 or any(
        more >= max(stride, dilation)
        for more, stride, dilation in zip(extra, window["stride"], window["dilation"], strict=True)
    ):
        raise UnsupportedModel(f"node {node.name!r}: pads {pads} of ConvTranspose are not usual")
    given["pad_first"] = False
    return nn.ConvTranspose2d(
        weight.shape[0], weight.shape[1] * groups, weight.shape[2:], groups=groups, bias=has_bias,
        padding=pads[:2], output_padding=tuple(extra), **window,
    )  # fmt: skip


def _linear(
    node: onnx.NodeProto, arrays: Sequence[Array], given: Mapping[str, Any]
) -> nn.Module | None:
    weight = arrays[0]
    if node.op_type == "MatMul":
        if weight.ndim != 2:
            return None
        weight = weight.T
    elif not given.get("transB"):
        weight = weight.T
    usual = given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0
    bias = np.ravel(arrays[1]) if len(arrays) > 1 else None
    if given.get("transA") or not usual or (bias is not None and len(bias) not in (1, len(weight))):
        raise UnsupportedModel(
            f"node {node.name!r}: Gemm with factors, a transposed input or a bias of rows "
            "cannot be trained",
            "export the model with plain linear layers",
        )
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    _fill(module.weight, weight)
    if bias is not None:
        _fill(module.bias, np.broadcast_to(bias, len(weight)))
    return module


def _pair(given: Mapping[str, Any], key: str) -> tuple[int, int]:
    first, second = given.get(key, (1, 1))
    return int(first), int(second)


def _fill(target: Tensor, array: Array) -> None:
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.array(array, np.float32)))


def stored_values(node: onnx.NodeProto, module: nn.Module) -> dict[int, NDArray[np.float32]]:
    """What the node's inputs from 1 on must hold, by index."""
    names = ["weight", "bias"]
    if node.op_type == _NORM:
        names += ["running_mean", "running_var"]
    values = {}
    for index, name in enumerate(names, start=1):
        tensor = getattr(module, name)
        if tensor is not None:
            values[index] = np.array(tensor.detach().cpu().numpy(), np.float32, order="C")
    is_turned = node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not attributes(node).get("transB")
    )
    if is_turned:
        values[1] = np.ascontiguousarray(values[1].T)
    return values
