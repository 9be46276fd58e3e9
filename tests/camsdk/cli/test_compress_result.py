"""What is said beside the figures of a comparison."""

import math

import pytest

from camsdk.cli.compress_result import note_doubts
from camsdk.cli.output import Output
from camsdk.compress.figures import Agreement, Figure


def agreement(counts: dict[str, int], *others: Figure, main: float = 1.0) -> Agreement:
    return Agreement(Figure("ap50", main, "all"), others, counts, 2.0, 1.0)


def right(share: float) -> Figure:
    return Figure("accuracy", 0.9, reference=share, is_labelled=True)


@pytest.mark.parametrize(
    ("compared", "said"),
    [
        (agreement({"frames": 5, "boxes": 19}), "19 boxes alone were compared"),
        (agreement({"frames": 5, "boxes": 20}), ""),
        (agreement({"frames": 9}), "9 frames alone were compared"),
        (agreement({"frames": 2, "cells": 5000}), ""),
        (agreement({"frames": 5, "boxes": 0}, main=math.nan), "found nothing on these frames"),
        (agreement({"frames": 40}, right(0.32)), "accuracy of 0.32"),
        (agreement({"frames": 40}, right(0.5)), ""),
        (None, ""),
    ],
)
def test_figures_that_say_little_come_with_a_word_of_it(
    compared: Agreement | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note_doubts(Output(is_json=True), compared)
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) == bool(said)
    assert ("--mean" in told) == ("accuracy" in said)
