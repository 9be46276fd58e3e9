"""A lineage tells every option, however many layers there are."""

import pytest

from camsdk.compress.lineages import lineage, name_of
from camsdk.compress.options import (
    Block,
    Budget,
    CodeSet,
    CompressOptions,
    Element,
    Filter,
    LayerOptions,
    NOfM,
    PruneGranularity,
    PruneOptions,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from support.small_detector import small_detector


def test_every_option_is_told() -> None:
    options = CompressOptions(
        QuantizeOptions(WeightOptions(CodeSet(3, "power-of-two"))),
        PruneOptions(0.75, Block(4, 1)),
        train=TrainOptions(epochs=3, learning_rate=0.5, seed=7),
        budget=Budget("latency", 2.5, "cpu-x86_64"),
    )
    made = lineage(small_detector(), options, None, {"seed": "7"}, None)
    told = made.options
    assert (told["weight_bits"], told["weight_codes"]) == ("3", "power-of-two")
    assert (told["sparsity"], told["granularity"]) == ("0.75", "4x1")
    assert (told["train_epochs"], told["train_learning_rate"]) == ("3", "0.5")
    assert (told["max_latency"], told["budget_device"]) == ("2.5", "cpu-x86_64")
    assert told["seed"] == told["train_seed"] == "7"
    assert made.source == "small-fp32:1"
    assert len(made.source_sha256) == 64


def test_large_numbers_are_told_to_the_last_digit() -> None:
    options = CompressOptions(train=TrainOptions(seed=123456789, learning_rate=0.00012345678))
    facts = {"activation_range": "learned"}
    told = lineage(small_detector(), options, None, facts, None).options
    assert told["train_seed"] == "123456789"
    assert told["train_learning_rate"] == "0.00012345678"
    assert told["activation_range"] == "learned"


def test_many_layers_are_told_in_parts() -> None:
    names = [f"a/rather/long/name/of/a/layer/{index}" for index in range(100)]
    layers = {name: LayerOptions(WeightOptions(CodeSet(2))) for name in names}
    layers[names[0]] = LayerOptions(None, None)
    options = CompressOptions(QuantizeOptions(layers=layers))
    shares = dict.fromkeys(names, 0.125)
    told = lineage(small_detector(), options, shares, {}, None).options
    rows = ",".join(part for key, part in told.items() if key.startswith("layers")).split(",")
    assert sorted(rows) == sorted([f"{names[0]}=float", *(f"{name}=w2a8" for name in names[1:])])
    assert all(len(text) <= 1024 for text in told.values())
    shared = [part for key, part in told.items() if key.startswith("layer_sparsity")]
    assert len(shared) > 1
    assert sorted(",".join(shared).split(",")) == sorted(f"{name}=0.125" for name in names)


@pytest.mark.parametrize(
    ("granularity", "name"),
    [(Element(), "element"), (NOfM(1, 4), "1:4"), (Block(8, 2), "8x2"), (Filter(), "filter")],
)
def test_granularities_have_names(granularity: PruneGranularity, name: str) -> None:
    assert name_of(granularity) == name
