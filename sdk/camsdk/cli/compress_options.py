"""The options of ``camctl model compress``, and what they mean together."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from camsdk.errors import InvalidInput

if TYPE_CHECKING:
    from camsdk.compress.options import Budget, CompressOptions, PruneGranularity

DEFAULT_BITS: Final = 8
DEFAULT_EPOCHS: Final = 20.0
DEFAULT_BATCH: Final = 4
DEFAULT_RATE: Final = 5e-3
_SEARCHED_BITS: Final = (2, 3, 4, 6, 8)
_SEARCHED_SPARSITIES: Final = (0.0, 0.5, 0.75, 0.9)

Codes = Literal["uniform", "power-of-two"]
Rounding = Literal["nearest", "gptq"]

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
        help="Of the weights, one scale per filter. Default: 8; under --max-bytes what is best "
        "for each layer.",
    ),
]
ActivationBitsOption = Annotated[
    int, typer.Option("--activation-bits", min=2, max=8, help="Of what flows between layers.")
]
CodesOption = Annotated[
    Codes, typer.Option("--codes", help="Spacing of the weights' codes; power-of-two up to 4 bits.")
]
RoundingOption = Annotated[
    Rounding,
    typer.Option("--rounding", help="gptq lets later weights mend the errors of earlier ones."),
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
        help="How often to train on the frames of the first third; 0 rounds and prunes after "
        "training. Default: 0 without data; with data "
        f"{DEFAULT_EPOCHS:g} if weights have fewer than 4 bits, activations fewer than 8, or "
        "anything is pruned, else 0.",
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option("--learning-rate", help=f"At its peak. Default: {DEFAULT_RATE:g}."),
]
BatchOption = Annotated[
    int, typer.Option("--batch-size", min=1, help="Frames of a step of the training.")
]
DistillOption = Annotated[
    float,
    typer.Option(
        "--distill-features",
        min=0.0,
        metavar="WEIGHT",
        help="How much a training also learns the inner features of the float network; its outputs "
        "are always learned.",
    ),
]
ImportanceOption = Annotated[
    Literal["magnitude", "taylor-1", "taylor-2"],
    typer.Option(
        "--importance",
        help="Which filters a training removes: the smallest, or by gradients.",
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
        "this machine.",
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
WorkOption = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="FOLDER",
        help="Where a training keeps its checkpoint, from which the same command goes on after "
        "Ctrl-C or a kill. Default: in the user's cache.",
    ),
]


@dataclass(frozen=True)
class Wishes:
    """The options that decide about one another, as given; None where not."""

    has_data: bool
    is_trainable: bool
    hardware: tuple[str, ...]
    bits: int | None
    activation_bits: int
    codes: Codes
    rounding: Rounding
    float_layers: tuple[str, ...]
    sparsity: float | None
    granularity: str
    importance: Literal["magnitude", "taylor-1", "taylor-2"]
    epochs: float | None
    learning_rate: float | None
    batch_size: int
    distill_features: float
    max_bytes: int | None
    max_macs: float | None
    max_ms: float | None

    def as_options(self) -> "CompressOptions":
        """What ``compressing.compress`` takes.

        Raises:
            InvalidInput: Two options do not go together, or one is out of range.
        """
        from camsdk.compress.options import (
            ActivationOptions,
            CodeSet,
            CompressOptions,
            DistillOptions,
            LayerOptions,
            PruneOptions,
            QuantizeOptions,
            TrainOptions,
            WeightOptions,
        )

        width = self._stored(DEFAULT_BITS if self.bits is None else self.bits)
        quantize = QuantizeOptions(
            WeightOptions(CodeSet(width, self.codes)),
            ActivationOptions(self.activation_bits),
            layers={layer: LayerOptions(None, None) for layer in self.float_layers},
            rounding=self.rounding,
        )
        granularity = parse_granularity(self.granularity)
        sparsity, budget = self._sparsity(granularity), self._budget()
        prune = None
        if sparsity or budget is not None:
            prune = PruneOptions(sparsity, granularity, self.importance)
        epochs = self._epochs(sparsity)
        if not epochs:
            return CompressOptions(quantize, prune, budget=budget)
        distill = None
        if self.distill_features:
            distill = DistillOptions(logits=0.0, features=self.distill_features)
        rate = DEFAULT_RATE if self.learning_rate is None else self.learning_rate
        train = TrainOptions(epochs, self.batch_size, rate)
        return CompressOptions(quantize, prune, distill, train, budget)

    def _stored(self, bits: int) -> int:
        from camsdk.compress.compressing import storage_bits

        return storage_bits(bits, self.hardware)

    def _sparsity(self, granularity: "PruneGranularity") -> float:
        from camsdk.compress.options import Element, NOfM

        if isinstance(granularity, NOfM):
            share = 1 - granularity.n / granularity.m
            if self.sparsity is not None and self.sparsity != share:
                raise InvalidInput(
                    f"{self.granularity} leaves {granularity.n} of {granularity.m} weights, which "
                    f"is a sparsity of {share:g}, not {self.sparsity:g}",
                    f"leave --sparsity out, or give {share:g}",
                )
            return share
        if self.sparsity is None:
            if not isinstance(granularity, Element) and self._budget() is None:
                raise InvalidInput(
                    f"--granularity {self.granularity} prunes nothing by itself", "give --sparsity"
                )
            return 0.0
        return self.sparsity

    def _epochs(self, sparsity: float) -> float:
        is_hard = (
            (self.bits is not None and self.bits < 4)
            or self.activation_bits < 8
            or sparsity > 0
            or self._budget() is not None
        )
        if self.epochs is not None:
            epochs = self.epochs
        else:
            epochs = DEFAULT_EPOCHS if self.has_data and self.is_trainable and is_hard else 0.0
        if not epochs and (self.learning_rate is not None or self.distill_features):
            raise InvalidInput(
                "--learning-rate and --distill-features are of a training, and nothing is trained",
                "give --data and --epochs above 0",
            )
        return epochs

    def _budget(self) -> "Budget | None":
        from camsdk.compress.options import Budget

        given = {"bytes": self.max_bytes, "macs": self.max_macs, "latency": self.max_ms}
        kinds = [kind for kind, limit in given.items() if limit is not None]
        if not kinds:
            return None
        if len(kinds) > 1:
            raise InvalidInput(
                "only one budget can be met at a time",
                "give one of --max-bytes, --max-macs and --max-ms",
            )
        kind: Any = kinds[0]
        device = ""
        if kind == "latency":
            if len(self.hardware) != 1:
                raise InvalidInput(
                    "milliseconds are those of one device", "name it with --device, once"
                )
            device = self.hardware[0]
        bits = (self.bits or DEFAULT_BITS,) if kind == "macs" or self.bits else _SEARCHED_BITS
        widths = tuple(dict.fromkeys(self._stored(width) for width in bits))
        shares = _SEARCHED_SPARSITIES if self.sparsity is None else (self.sparsity,)
        return Budget(kind, float(given[kind] or 0), device, widths, shares)


def parse_granularity(text: str) -> "PruneGranularity":
    """``element``, ``2:4``, ``4x1`` or ``filter`` to its type.

    Raises:
        InvalidInput: It is none of these.
    """
    from camsdk.compress.options import Block, Element, Filter, NOfM

    if text == "element":
        return Element()
    if text == "filter":
        return Filter()
    match = re.fullmatch(r"([1-9]\d?)([:x])([1-9]\d?)", text)
    if match is None:
        raise InvalidInput(
            f"{text!r} is no granularity of pruning", "give element, 2:4, 4x1 or filter"
        )
    first, second = int(match[1]), int(match[3])
    return NOfM(first, second) if match[2] == ":" else Block(first, second)
