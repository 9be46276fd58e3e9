"""The options of ``camctl model compress``; what they mean together is in ``compress_wishes``."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

DEFAULT_BITS: Final = 8
DEFAULT_EPOCHS: Final = 40.0
DEFAULT_BATCH: Final = 4
DEFAULT_RATE: Final = 5e-3
DEFAULT_CALIBRATION: Final = 32
DEFAULT_TRAINED_ON: Final = 100
"""With the epochs by default a thousand steps: with 160, on 32 frames, NanoDet-g at 3 bits and 90%
zeros agreed with its float self to .70."""
DEFAULT_EVALUATION: Final = 50
DEFAULT_IMPORTANCE: Final = "magnitude"

Codes = Literal["uniform", "power-of-two"]
Rounding = Literal["nearest", "gptq"]
RangeRule = Literal["best", "extreme", "mean", "percentile", "mse"]
Importance = Literal["magnitude", "taylor-1", "taylor-2"]

DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="PATH|none",
        help="A recording or a folder of pictures and recordings such as the cameras see. "
        "none: no data at all; inputs are made up, nothing is trained and nothing compared.",
    ),
]
BitsOption = Annotated[
    int | None,
    typer.Option(
        "--bits",
        min=1,
        max=8,
        help="Of the weights, one scale per filter. Default: 8; under --max-bytes and --max-ms "
        "what is best for each layer. Below 7, and without a budget, the first and the last layers "
        "keep 7.",
    ),
]
ActivationBitsOption = Annotated[
    int, typer.Option("--activation-bits", min=2, max=8, help="Of what flows between layers.")
]
CodesOption = Annotated[
    Codes,
    typer.Option(
        "--codes",
        help="Spacing of the weights' codes; power-of-two up to 4 bits, under a budget that finds "
        "bits in the layers that get no more.",
    ),
]
RoundingOption = Annotated[
    Rounding,
    typer.Option("--rounding", help="gptq lets later weights mend the errors of earlier ones."),
]
RangeRuleOption = Annotated[
    RangeRule | None,
    typer.Option(
        "--range-rule",
        help="What range of values between layers is told apart: all that was seen; the mean of "
        "each input's extremes; without the rarest values; that of the least squared error; or by "
        "default the best for this model of the first and the last.",
    ),
]
SparsityOption = Annotated[
    float | None,
    typer.Option(
        "--sparsity",
        metavar="SHARE",
        help="Share of the weights that become zero, 0 to below 1; those that stay make up for it. "
        "Default: 0, under a budget what is best for each layer, with 2:4 one half.",
    ),
]
GranularityOption = Annotated[
    str,
    typer.Option(
        "--granularity",
        metavar="element|2:4|4x1|filter",
        help="What becomes zero together: single weights; 2 of every 4 inputs; the same weight of "
        "4 filters, which CPUs can skip; whole filters, which makes the network smaller and needs "
        "training.",
    ),
]
EpochsOption = Annotated[
    float | None,
    typer.Option(
        "--epochs",
        min=0,
        help="How often to train on the frames of the first third; 0 rounds and prunes without "
        "training. Default: 0 without data or if the model cannot be trained; with data "
        f"{DEFAULT_EPOCHS:g} if weights have fewer than 4 bits, activations fewer than 8, anything "
        "is pruned, or there is a budget; else 0.",
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        help="At its peak, of scales and ranges; weights learn by Adam at a fifth of it. While "
        f"filters go, of all that learns, by SGD. Default: {DEFAULT_RATE:g}.",
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help=f"Frames of a step of the training. Default: {DEFAULT_BATCH}.",
    ),
]
DistillOption = Annotated[
    float | None,
    typer.Option(
        "--distill-features",
        min=0.0,
        metavar="WEIGHT",
        help="How much a training also learns the inner features of the float network; its outputs "
        "are always learned.",
    ),
]
ImportanceOption = Annotated[
    Importance | None,
    typer.Option(
        "--importance",
        help="Which filters a training removes: the smallest, or by gradients. "
        f"Default: {DEFAULT_IMPORTANCE}.",
    ),
]
MaxBytesOption = Annotated[
    int | None,
    typer.Option("--max-bytes", min=1, help="Budget: of the packed model. Finds bits per layer."),
]
MaxMacsOption = Annotated[
    float | None,
    typer.Option(
        "--max-macs",
        min=1,
        help="Budget: multiply-accumulates whose weight is not zero. Finds sparsity per layer.",
    ),
]
MaxMsOption = Annotated[
    float | None,
    typer.Option(
        "--max-ms",
        min=0,
        help="Budget: milliseconds of all layers on --device, by its --profile or as measured on "
        "this machine, once for each model.",
    ),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        exists=True,
        dir_okay=False,
        help="How long layers take on the device (YAML), for --max-ms.",
    ),
]
StillsOption = Annotated[
    bool,
    typer.Option(
        "--stills/--no-stills",
        help="Whether the samples in the report are on frames of the data, or on a plain ground "
        "that shows nobody.",
    ),
]
WorkOption = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="FOLDER",
        help="Where a run with a training keeps its finished rounding and its checkpoint, from "
        "which the same command goes on after Ctrl-C or a kill, and --max-ms its measured times. "
        "Default: in the user's cache.",
    ),
]
