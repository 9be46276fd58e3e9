"""ATen operators that make tensors of nothing but numbers, and triangles and grids of them."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from camsdk.compress.importers.aten_scope import Operator, Scope, label
from camsdk.compress.importers.pt2_reader import AtenNode


def _full(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """One number everywhere, as an Expand: a stranger's file does not make us fill memory."""
    given, name, base = node.arguments, label(node), node.target.split(".")[0]
    value = (
        1 if "ones" in base else 0 if "zeros" in base else given.get("fill_value", given.get("s"))
    )
    number = scope.typed(value, scope.type_of(node), name)
    target = scope.ints(f"{name}/shape", scope.shapes[node.outputs[0]])
    return scope.emitter.node("Expand", [number, target], name)


def _vector(node: AtenNode, scope: Scope) -> int:
    (count,) = scope.shapes[node.outputs[0]]
    scope.check_size(node, (count,))
    return count


def _arange(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    """Where they are whole numbers the start and the step are cut, not what comes of them."""
    given, kind = node.arguments, scope.type_of(node)
    given.get("end")  # the shape says how many there are
    wide = np.dtype(np.float64) if kind.kind == "f" else kind
    start = np.array(given.get("start", 0)).astype(wide)
    step = np.array(given.get("step", 1)).astype(wide)
    numbers = start + step * np.arange(_vector(node, scope))
    return (scope.emitter.initializer(label(node), numbers.astype(kind)),)


def _linspace(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    given = node.arguments
    numbers = np.linspace(given["start"], given["end"], _vector(node, scope))
    return (scope.emitter.initializer(label(node), numbers.astype(scope.type_of(node))),)


def _triangle(*, is_upper: bool) -> Operator:
    def emit(node: AtenNode, scope: Scope) -> tuple[str, ...]:
        given, name, kind = node.arguments, label(node), scope.type_of(node)
        diagonal = scope.emitter.initializer(
            f"{name}/diagonal", np.array(given.get("diagonal", 0), np.int64)
        )
        wide = kind if kind.kind == "f" else np.dtype(np.int64)  # what onnxruntime cuts
        x = scope.typed(given["self"], wide, name)
        is_same = wide == kind
        title = name if is_same else f"{name}/wide"
        made = scope.emitter.node("Trilu", [x, diagonal], title, upper=int(is_upper))
        return made if is_same else (scope.cast(made[0], kind, name),)

    return emit


def _meshgrid(node: AtenNode, scope: Scope) -> tuple[str, ...]:
    name, given = label(node), node.arguments
    made: list[str] = []
    for place, (part, output) in enumerate(zip(given["tensors"], node.outputs, strict=True)):
        shape = scope.shapes[output]
        axis = 1 - place if given.get("indexing") == "xy" and place < 2 <= len(shape) else place
        line: list[Any] = [1] * len(shape)
        line[axis] = shape[axis]
        inputs = [scope.operand(part, name), scope.ints(f"{name}/line", line)]
        thin = scope.emitter.node("Reshape", inputs, f"{name}/{place}/thin")
        target = scope.ints(f"{name}/shape", shape)
        made += scope.emitter.node("Expand", [thin[0], target], f"{name}/{place}")
    return tuple(made)


CONSTANTS: Final[Mapping[str, Operator]] = {
    **dict.fromkeys(("full", "ones", "zeros", "scalar_tensor"), _full),
    **dict.fromkeys(("full_like", "ones_like", "zeros_like"), _full),
    **dict.fromkeys(("new_full", "new_ones", "new_zeros"), _full),
    "arange": _arange,
    "linspace": _linspace,
    "tril": _triangle(is_upper=False),
    "triu": _triangle(is_upper=True),
    "meshgrid": _meshgrid,
}
