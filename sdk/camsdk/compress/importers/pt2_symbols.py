"""Lengths that an exported program leaves free, and the lengths that follow from them.

``torch.export`` writes a free length as SymPy writes an expression (``sympy.srepr``), such as
``Mul(Integer(2), Symbol('s77', positive=True, integer=True))``. A symbol gets the value that the
shape of an input gives it; nothing is executed.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

from camsdk.compress.importers.given_shapes import lacks_shape
from camsdk.errors import DataCorrupted, InvalidInput, UnsupportedModel

_MAX_CHARACTERS: Final = 1000
_FUNCTIONS: Final[Mapping[str, Callable[[Sequence[int]], int]]] = {
    "Add": sum,
    "Mul": prod,
    "Max": max,
    "Min": min,
    "FloorDiv": lambda terms: terms[0] // terms[1],
    "CleanDiv": lambda terms: terms[0] // terms[1],
    "Mod": lambda terms: terms[0] % terms[1],
}


class Symbols:
    """The value of every free length of a program.

    Args:
        ranges: ``range_constraints`` of the program: least and greatest value by symbol.
    """

    def __init__(self, ranges: Mapping[str, Any]) -> None:
        self._ranges = ranges
        self._values: dict[str, int] = {}

    def bind(
        self, name: str, sizes: Sequence[Mapping[str, Any]], given: tuple[int, ...] | None
    ) -> None:
        """Take the values of the symbols in an input's shape; a batch that alone is free is 1.

        Raises:
            InvalidInput: The rank differs, another length is free and not given, or a value is out
                of the program's range.
        """
        if given is not None and len(given) != len(sizes):
            raise InvalidInput(
                f"the shape {given} is given for {name!r}, which has {len(sizes)} axes",
                "give as many lengths as it has axes",
            )
        for axis, entry in enumerate(sizes):
            symbol = _symbol(entry)
            if symbol is None or symbol in self._values:
                continue
            if given is None and axis > 0:
                raise lacks_shape(name, [int(item.get("as_int", 0)) for item in sizes])
            self._values[symbol] = self._in_range(symbol, name, 1 if given is None else given[axis])

    def _in_range(self, symbol: str, name: str, value: int) -> int:
        limits = self._ranges.get(symbol) or {}
        least, most = limits.get("min_val") or 0, limits.get("max_val")
        if value < least or (most is not None and value > most):
            raise InvalidInput(
                f"a length of {value} in input {name!r} is not from {least} to {most}",
                "export the program for a wider range",
            )
        return value

    def length(self, entry: Mapping[str, Any]) -> int:
        """One length: a number, or an expression.

        Raises:
            UnsupportedModel: The expression is of no known form, or a symbol has no value.
        """
        if "as_int" in entry:
            return int(entry["as_int"])
        text = str(entry["as_expr"]["expr_str"])
        try:
            if len(text) <= _MAX_CHARACTERS:
                return self._value(ast.parse(text, mode="eval").body)
        except (SyntaxError, MemoryError, RecursionError, ZeroDivisionError, IndexError) as error:
            raise DataCorrupted(f"the length {text[:80]!r} is no expression") from error
        raise DataCorrupted(f"the length {text[:80]!r} is no expression")

    def _value(self, tree: ast.expr) -> int:
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            if tree.func.id in ("Integer", "Symbol") and len(tree.args) == 1:
                return self._atom(tree.args[0])
            function = _FUNCTIONS.get(tree.func.id)
            if function is not None and tree.args:
                return function([self._value(term) for term in tree.args])
        raise UnsupportedModel(
            f"the program computes a length by {ast.unparse(tree)[:80]!r}",
            "export it without dynamic_shapes",
        )

    def _atom(self, tree: ast.expr) -> int:
        value = tree.value if isinstance(tree, ast.Constant) else _negative(tree)
        if isinstance(value, str) and value in self._values:
            return self._values[value]
        if isinstance(value, int) and abs(value) < 1 << 62:
            return value
        if isinstance(value, str) and value[:1] == "u" and value[1:].isdigit():
            raise UnsupportedModel(
                "a shape in the program depends on data, such as how many values are true",
                "leave that step out of forward(), such as the suppression of boxes",
            )
        raise UnsupportedModel(
            f"the program's length {ast.unparse(tree)[:80]!r} follows from no input",
            "export it without dynamic_shapes",
        )


def _negative(tree: ast.expr) -> Any:
    is_negative = isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub)
    inner = tree.operand if isinstance(tree, ast.UnaryOp) and is_negative else None
    return -inner.value if isinstance(inner, ast.Constant) and type(inner.value) is int else None


def _symbol(entry: Mapping[str, Any]) -> str | None:
    """The name of a length that is a symbol alone."""
    if "as_expr" not in entry:
        return None
    text = str(entry["as_expr"]["expr_str"])
    head, _, rest = text.partition("('")
    name = rest.partition("'")[0]
    return name if head == "Symbol" and name.isidentifier() else None
