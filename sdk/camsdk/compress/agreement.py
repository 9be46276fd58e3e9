"""How far a compressed artifact agrees with the float one that it was made from."""

from collections.abc import Callable

from camsdk.artifact.manifest import Manifest
from camsdk.compress.class_agreement import ClassJudge, MapJudge
from camsdk.compress.comparing import Contender, Judge, compare
from camsdk.compress.evaluate import BoxJudge
from camsdk.compress.figures import Agreement
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
        InvalidInput: They are not of one kind, or do not know the same classes.
    """
    if reference.manifest.kind != candidate.manifest.kind:
        raise InvalidInput(
            f"a {candidate.manifest.kind} does not compare with a {reference.manifest.kind}"
        )
    if reference.manifest.classes != candidate.manifest.classes:
        raise InvalidInput("the two models do not know the same classes")
    return compare(
        Contender(reference.manifest, Session(reference.model)),
        Contender(candidate.manifest, Session(candidate.model)),
        footage.read(frames),
        judge_of(reference.manifest, footage),
        on_frame,
    )


def judge_of(reference: Manifest, footage: Footage) -> Judge:
    """What compares models of this kind with each other."""
    if reference.kind == "classifier":
        return ClassJudge(footage.labels(reference.classes))
    if reference.kind == "segmenter":
        return MapJudge(len(reference.classes))
    return BoxJudge(reference, tuple(name for name in ("person",) if name in reference.classes))


def check_float(source: Draft) -> None:
    """Raises InvalidInput unless it is a float model."""
    if source.manifest.precision != "fp32":
        raise InvalidInput(
            f"{source.manifest.reference} is {source.manifest.precision}, only fp32 can be "
            "quantized",
            "give the artifact that camctl model import made",
        )
