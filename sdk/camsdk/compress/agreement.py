"""How far a compressed artifact agrees with the float one that it was made from."""

from collections.abc import Callable

from camsdk.compress.evaluate import Agreement, Contender, compare
from camsdk.compress.footage import Footage
from camsdk.compress.packaging import Draft
from camsdk.compress.sessions import Session
from camsdk.errors import InvalidInput


def evaluate(
    reference: Draft,
    candidate: Draft,
    footage: Footage,
    frames: tuple[int, ...],
    *,
    on_frame: Callable[[int], None] | None = None,
) -> Agreement:
    """How far ``candidate`` agrees with ``reference`` on these frames.

    Raises:
        InvalidInput: They do not know the same classes.
    """
    if reference.manifest.classes != candidate.manifest.classes:
        raise InvalidInput("the two models do not know the same classes")
    named = tuple(name for name in ("person",) if name in reference.manifest.classes)
    return compare(
        Contender(reference.manifest, Session(reference.model)),
        Contender(candidate.manifest, Session(candidate.model)),
        footage.read(frames),
        class_names=named,
        on_frame=on_frame,
    )


def check_float(source: Draft) -> None:
    """Raises InvalidInput unless it is a float model."""
    if source.manifest.precision != "fp32":
        raise InvalidInput(
            f"{source.manifest.reference} is {source.manifest.precision}, only fp32 can be "
            "quantized",
            "give the artifact that camctl model import made",
        )
