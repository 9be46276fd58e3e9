"""Two models run on the same frames in turn, so that what they say and what they cost compares."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from camsdk.artifact.manifest import Manifest
from camsdk.artifact.preprocess import make_input
from camsdk.compress.figures import Agreement, Figure
from camsdk.compress.sessions import Array, Session
from camsdk.vision.frames import Frame


@dataclass(frozen=True, eq=False)
class Contender:
    """A model with the manifest that says how to use it."""

    manifest: Manifest
    session: Session


@dataclass(frozen=True, eq=False)
class Answer:
    """A model's outputs for one frame, by name, with the manifest that says what they mean."""

    manifest: Manifest
    outputs: Mapping[str, Array]


class Judge(Protocol):
    """Compares what two models of one kind say."""

    def see(self, frame: Frame, reference: Answer, candidate: Answer) -> None:
        """One more frame."""

    def figures(self) -> tuple[Figure, ...]:
        """Of all frames so far; the first is the main one."""

    def counts(self) -> dict[str, int]:
        """What was compared so far, see ``Agreement.counts``."""


def compare(
    reference: Contender,
    candidate: Contender,
    frames: Iterable[Frame],
    judge: Judge,
    on_frame: Callable[[int], None] | None = None,
) -> Agreement:
    """Run both on every frame, in turn.

    Args:
        reference: What it says is taken as truth.
        candidate: What it says is judged.
        frames: Should not be those that the candidate was calibrated on.
        judge: Of this kind of model.
        on_frame: Called with the number of frames done.
    """
    times_ms: list[tuple[float, float]] = []
    for count, frame in enumerate(frames, start=1):
        wanted, reference_ms = _answer(reference, frame)
        given, candidate_ms = _answer(candidate, frame)
        judge.see(frame, wanted, given)
        times_ms.append((reference_ms, candidate_ms))
        if on_frame is not None:
            on_frame(count)
    main, *others = judge.figures()
    medians = np.median(times_ms, axis=0)
    return Agreement(main, tuple(others), judge.counts(), float(medians[0]), float(medians[1]))


def _answer(contender: Contender, frame: Frame) -> tuple[Answer, float]:
    """Outputs, and CPU milliseconds of the inference alone."""
    tensor = make_input(frame, contender.manifest.input)
    # One-thread sessions compute in the calling thread, so its CPU time is theirs: steadier than
    # the clock on a machine that does other things too.
    start_ns = time.thread_time_ns()
    outputs = contender.session.infer(tensor)
    spent_ms = (time.thread_time_ns() - start_ns) / 1e6
    return Answer(contender.manifest, outputs), spent_ms
