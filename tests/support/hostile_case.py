"""One kind of damage that is done to a good model file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from support.foreign_models import (
    Foreign,
)


@dataclass(frozen=True)
class Case:
    """One kind of damage.

    Attributes:
        damage: Changes the files of the framework's model.
        words: That the error must have.
    """

    framework: str
    name: str
    damage: Callable[[Foreign], object]
    words: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.framework}: {self.name}"
