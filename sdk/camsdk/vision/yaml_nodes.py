"""Strict reading of small YAML files that people write: every complaint names line and field.

The text is composed into nodes, never into objects, so nothing is constructed but what a reader
asks for. Anchors and aliases (exponential documents), tags, deep nesting, repeated keys and
oversized texts are refused before anything is composed or read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from camsdk.errors import InvalidInput

MAX_TEXT_BYTES: Final = 256 * 1024
_MAX_DEPTH: Final = 12
_PREFIX: Final = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Field:
    """One place in the document.

    Attributes:
        node: What stands there.
        path: Where, e.g. ``cameras.gate.lines[0].margin``.
    """

    node: yaml.Node
    path: str

    def error(self, problem: str, hint: str = "") -> InvalidInput:
        """An error about this place; ``problem`` continues the sentence "line 3, a.b ..."."""
        line = self.node.start_mark.line + 1
        return InvalidInput(f"line {line}, {self.path or 'document'} {problem}", hint)

    def mapping(
        self, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
    ) -> "Fields":
        """This place as a mapping of exactly these keys."""
        fields = self.entries()
        for name in fields:
            if name not in required + optional:
                known = ", ".join(required + optional)
                raise fields[name].error("is not known here", f"known are: {known}")
        for name in required:
            if name not in fields:
                raise self.error(f"lacks {name}", f"add {name}")
        return fields

    def entries(self) -> "Fields":
        """This place as a mapping with any keys, none twice."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error("is not a mapping", "write 'key: value' lines, indented")
        fields: Fields = {}
        for key_node, value_node in self.node.value:
            key = Field(key_node, self.path)
            name = key.text()
            if name in fields:
                raise key.error(f"has {name} twice", "keep one")
            fields[name] = Field(value_node, f"{self.path}.{name}" if self.path else name)
        return fields

    def items(self, *, at_least: int = 0, at_most: int) -> list["Field"]:
        """This place as a list of bounded length."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("is not a list", "write '- item' lines or [a, b]")
        if not at_least <= len(self.node.value) <= at_most:
            wanted = f"{at_least}" if at_least == at_most else f"{at_least} to {at_most}"
            raise self.error(f"has {len(self.node.value)} entries, not {wanted}")
        return [Field(node, f"{self.path}[{i}]") for i, node in enumerate(self.node.value)]

    def text(self) -> str:
        """This place as a string."""
        if self._kind() != "str":
            raise self.error("is not a text", "put it in quotes")
        return str(self.node.value)

    def flag(self) -> bool:
        """This place as ``true`` or ``false``."""
        if self._kind() != "bool" or self.node.value.lower() not in ("true", "false"):
            raise self.error("is not true or false")
        return bool(self.node.value.lower() == "true")

    def number(self, low: float, high: float) -> float:
        """This place as a number from ``low`` to ``high``, both allowed."""
        if self._kind() not in ("int", "float"):
            raise self.error("is not a number")
        try:
            value = float(self._decimal())
        except ValueError as error:
            raise self.error(f"{self.node.value!r} is not a decimal number") from error
        if not (math.isfinite(value) and low <= value <= high):
            raise self.error(f"is {self.node.value}, not between {low:g} and {high:g}")
        return value

    def value(self) -> object:
        """This place as plain values, for a reader that checks fields itself.

        A mapping with texts as keys, a list, a text, a whole or other number, or a flag.
        """
        if isinstance(self.node, yaml.MappingNode):
            return {name: field.value() for name, field in self.entries().items()}
        if isinstance(self.node, yaml.SequenceNode):
            return [field.value() for field in self.items(at_most=MAX_TEXT_BYTES)]
        kind = self._kind()
        if kind == "bool":
            return self.flag()
        if kind == "int":
            return self._whole()
        return self.number(-math.inf, math.inf) if kind == "float" else self.text()

    def _whole(self) -> int:
        try:
            return int(self._decimal())
        except ValueError as error:  # of another base, or of thousands of digits
            raise self.error("is not a decimal number") from error

    def _decimal(self) -> str:
        """The digits, unless they begin with a 0: YAML 1.1 reads 010 as 8, people as 10."""
        digits = str(self.node.value).lstrip("+-")
        if self._kind() == "int" and len(digits) > 1 and digits[0] == "0":
            raise ValueError("of another base")
        return str(self.node.value)

    def _kind(self) -> str:
        is_scalar = isinstance(self.node, yaml.ScalarNode)
        return self.node.tag.removeprefix(_PREFIX) if is_scalar else ""


Fields = dict[str, Field]


def read_document(text: str) -> Field:
    """Parse a text into its root.

    Raises:
        InvalidInput: It is no single, plain, bounded YAML document.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
        raise InvalidInput(f"the text is larger than {MAX_TEXT_BYTES // 1024} KiB")
    try:
        _refuse_tricks(yaml.parse(text, Loader=yaml.SafeLoader))
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InvalidInput(f"{line}not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"not valid YAML: {error}") from error
    if node is None:
        raise InvalidInput("the document is empty")
    return Field(node, "")


def _refuse_tricks(events: Iterator[yaml.Event]) -> None:
    depth = 0
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InvalidInput(f"line {line}: anchors and aliases are refused", "write it out")
        if getattr(event, "tag", None):
            raise InvalidInput(f"line {line}: tags are refused", "write plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise InvalidInput(f"line {line}: nested deeper than {_MAX_DEPTH} levels")
