"""ATen's products of matrices: linear layers, Einstein sums, attention."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_scope import Operator, Scope, label, refuse
from camsdk.compress.importers.pt2_reader import AtenNode, Tensor


def _linear(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    first, weight = scope.operand(given["input"], name), given["weight"]
    bias = None if given.get("bias") is None else scope.operand(given["bias"], name)
    if len(scope.shape(given["input"])) == 2:
        inputs = [first, scope.operand(weight, name)] + ([bias] if bias else [])
        return scope.emitter.node("Gemm", inputs, name, transB=1)
    stored = scope.stored.get(weight.name)
    if stored is None:
        turned = scope.operand(weight, name)
        (turned,) = scope.emitter.node("Transpose", [turned], f"{name}/weight.T", perm=[1, 0])
    else:
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


def _baddbmm(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """beta * self + alpha * batch1 @ batch2."""
    given, name, emitter = node.arguments, label(node), scope.emitter
    parts = [scope.operand(given[key], name) for key in ("batch1", "batch2")]
    (product,) = emitter.node("MatMul", parts, f"{name}/product")
    added = scope.operand(given["self"], name)
    for key in ("alpha", "beta"):
        factor = float(given.get(key, 1))
        if factor != 1:
            inputs = [product if key == "alpha" else added, scope.operand(factor, name)]
            (scaled,) = emitter.node("Mul", inputs, f"{name}/{key}")
            product, added = (scaled, added) if key == "alpha" else (product, scaled)
    return emitter.node("Add", [product, added], name)


def _matmul(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    operands = [scope.operand(value, label(node)) for value in node.arguments.values()]
    return scope.emitter.node("MatMul", operands, label(node))


def _einsum(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given, name = node.arguments, label(node)
    operands = [scope.operand(value, name) for value in given["tensors"]]
    return scope.emitter.node("Einsum", operands, name, equation=str(given["equation"]))


def _mask(node: AtenNode, scope: Scope) -> str | None:
    """What is added to the scores: minus infinity where nothing may be seen."""
    given, name = node.arguments, label(node)
    mask = given.get("attn_mask")
    if given.get("is_causal"):
        rows, columns = scope.shape(given["query"])[-2], scope.shape(given["key"])[-2]
        scope.check_size(node, (rows, columns))
        triangle = np.tril(np.ones((rows, columns), np.bool_))
        value = np.where(triangle, 0, -np.inf).astype(np.float32)
        return scope.emitter.initializer(f"{name}/causal", value)
    if not isinstance(mask, Tensor):
        return None
    found = scope.operand(mask, name)
    if scope.types[mask.name].kind != "b":
        return found
    seen, hidden = scope.operand(0.0, name), scope.operand(-np.inf, name)
    return scope.emitter.node("Where", [found, seen, hidden], f"{name}/mask")[0]


def _may_hide_rows(node: AtenNode, scope: Scope) -> bool:
    """Whether a query may see nothing: PyTorch answers zeros, where Softmax answers NaN."""
    mask = node.arguments.get("attn_mask")
    if not isinstance(mask, Tensor):
        return False
    known = scope.stored.get(mask.name)
    if known is None or scope.emitter.producer(scope.tensors[mask.name]) is not None:
        return True  # computed, or stored and then changed in place
    hidden = known == (False if known.dtype.kind == "b" else -np.inf)
    return bool(np.all(hidden, axis=-1).any())


def _attention(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """softmax(query key^T scale + mask) value; Vaswani et al., arXiv:1706.03762, Equation 1."""
    given, name, emitter = node.arguments, label(node), scope.emitter
    if given.get("dropout_p"):
        raise refuse(node, "drops weights, call module.eval() before the export")
    if given.get("enable_gqa"):
        raise refuse(node, "shares keys among groups of queries")
    shape = scope.shape(given["key"])
    scale = given.get("scale")
    scale = 1 / math.sqrt(shape[-1]) if scale is None else float(scale)
    query, key, value = (scope.operand(given[part], name) for part in ("query", "key", "value"))
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    (turned,) = emitter.node("Transpose", [key], f"{name}/key", perm=order)
    (scaled,) = emitter.node("Mul", [query, scope.operand(scale, name)], f"{name}/query")
    (scores,) = emitter.node("MatMul", [scaled, turned], f"{name}/scores")
    mask = _mask(node, scope)
    if mask is not None:
        (scores,) = emitter.node("Add", [scores, mask], f"{name}/masked")
    (weights,) = emitter.node("Softmax", [scores], f"{name}/weights", axis=-1)
    if _may_hide_rows(node, scope):
        (top,) = emitter.node("ReduceMax", [scores], f"{name}/top", axes=[-1], keepdims=1)
        (blind,) = emitter.node("Equal", [top, scope.operand(-np.inf, name)], f"{name}/blind")
        chosen = [blind, scope.operand(0.0, name), weights]
        (weights,) = emitter.node("Where", chosen, f"{name}/seen")
    return emitter.node("MatMul", [weights, value], name)


PRODUCTS: Final[Mapping[str, Operator]] = {
    "linear": _linear,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}
