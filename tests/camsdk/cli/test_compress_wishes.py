"""What options of ``camctl model compress`` come to, by themselves and by default."""

from dataclasses import replace

import pytest

from camsdk.cli.compress_options import DEFAULT_EPOCHS
from camsdk.cli.compress_wishes import Wishes
from camsdk.compress.options import ActivationOptions, Block, CodeSet, Filter, NOfM
from camsdk.errors import InvalidInput

WISHES = Wishes(has_data=True, is_trainable=True, hardware=("cpu-x86_64",))


def test_what_is_hard_is_trained_by_default_where_there_is_data() -> None:
    hard = (
        replace(WISHES, bits=3),
        replace(WISHES, activation_bits=4),
        replace(WISHES, sparsity=0.3),
        replace(WISHES, granularity="2:4"),
        replace(WISHES, max_bytes=1000),
    )
    for wishes in hard:
        train = wishes.as_options().train
        assert train is not None
        assert train.epochs == DEFAULT_EPOCHS
        assert replace(wishes, has_data=False).as_options().train is None
        assert replace(wishes, is_trainable=False).as_options().train is None
        assert replace(wishes, epochs=0.0).as_options().train is None
    for easy in (WISHES, replace(WISHES, bits=4)):
        assert easy.as_options().train is None
        train = replace(easy, epochs=2.0, learning_rate=0.5, distill_features=3.0).as_options()
        assert train.train is not None
        assert (train.train.epochs, train.train.learning_rate) == (2.0, 0.5)
        assert train.distill is not None
        assert (train.distill.logits, train.distill.features) == (0.0, 3.0)


def test_files_are_named_after_what_was_asked_for() -> None:
    names = {
        "int8": WISHES,
        "w4a8": replace(WISHES, bits=4),
        "w8a4-power-of-two": replace(WISHES, activation_bits=4, codes="power-of-two"),
        "int8-sparse50-4x1": replace(WISHES, sparsity=0.5, granularity="4x1"),
        "int8-2of4": replace(WISHES, granularity="2:4"),
        "max900000bytes": replace(WISHES, max_bytes=900000),
        "max2.5ms-w4a8": replace(WISHES, max_ms=2.5, bits=4),
    }
    assert [wishes.variant for wishes in names.values()] == list(names)


def test_why_nothing_is_trained_is_said_where_it_would_be() -> None:
    low = replace(WISHES, bits=3)
    assert low.untrained_because == ""
    assert replace(low, has_data=False).untrained_because == "there is no data to train on"
    assert "cannot be trained" in replace(low, is_trainable=False).untrained_because
    for silent in (replace(low, epochs=0.0), replace(WISHES, bits=4)):
        assert replace(silent, is_trainable=False).untrained_because == ""


def test_what_is_given_is_fixed_under_a_budget_and_the_rest_is_found() -> None:
    size = replace(WISHES, max_bytes=1000).as_options().budget
    assert size is not None
    assert size.bit_widths == (2, 3, 4, 6, 7)  # 8 are 7 on x86
    assert len(size.sparsities) > 1
    fixed = replace(WISHES, max_bytes=1000, bits=4, sparsity=0.5).as_options().budget
    assert fixed is not None
    assert (fixed.bit_widths, fixed.sparsities) == ((4,), (0.5,))
    work = replace(WISHES, max_macs=1e6, hardware=("cpu-aarch64",)).as_options().budget
    assert work is not None
    assert (work.kind, work.bit_widths) == ("macs", (8,))
    time = replace(WISHES, max_ms=2.5).as_options().budget
    assert time is not None
    assert (time.kind, time.limit, time.device) == ("latency", 2.5, "cpu-x86_64")


def test_a_share_that_rounds_to_that_of_a_pattern_is_its_share() -> None:
    prune = replace(WISHES, granularity="1:3", sparsity=0.666667).as_options().prune
    assert prune is not None
    assert prune.sparsity == 1 - 1 / 3
    with pytest.raises(InvalidInput, match=r"not 0\.66"):
        replace(WISHES, granularity="1:3", sparsity=0.66).as_options()


def test_the_rule_of_ranges_may_be_named() -> None:
    for rule, expected in ((None, ActivationOptions().range_rule), ("mse", "mse")):
        quantize = replace(WISHES, range_rule=rule).as_options().quantize
        assert quantize is not None
        assert quantize.activations.range_rule == expected


def test_granularities_have_names() -> None:
    def prune(**changes: object) -> object:
        options = replace(WISHES, **changes).as_options()  # type: ignore[arg-type] # of the test
        assert options.prune is not None
        return options.prune.granularity

    assert prune(granularity="2:4") == NOfM(2, 4)
    assert prune(granularity="8x1", sparsity=0.5) == Block(8, 1)
    assert prune(granularity="filter", sparsity=0.5) == Filter()
    kept = replace(WISHES, bits=3, codes="power-of-two").as_options().quantize
    assert kept is not None
    assert kept.weights.code_set == CodeSet(3, "power-of-two")
