"""The options of ``camctl model compress``, and what they mean together."""

import math
import re
from collections.abc import Mapping
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
DEFAULT_CALIBRATION: Final = 32
DEFAULT_EVALUATION: Final = 50
DEFAULT_IMPORTANCE: Final = "magnitude"
_AS_INT8: Final = 7
"""Bits of weights from which an artifact counts as int8."""
_SEARCHED_BITS: Final = (2, 3, 4, 6, 8)
_SEARCHED_SPARSITIES: Final = (0.0, 0.5, 0.75, 0.9)

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
    Codes, typer.Option("--codes", help="Spacing of the weights' codes; power-of-two up to 4 bits.")
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
    typer.Option("--learning-rate", help=f"At its peak. Default: {DEFAULT_RATE:g}."),
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

_PRECONDITIONS: Final[Mapping[str, str]] = {
    "learning_rate": "training",
    "batch_size": "training",
    "distill_features": "training",
    "importance": "filters",
    "calibration": "data",
    "evaluation": "data",
    "profile": "time",
    "work": "training or time",
}
"""By option, what it would have no effect without."""
_LACKING: Final[Mapping[str, tuple[str, str]]] = {
    "training": ("nothing is trained", "give --data and --epochs above 0"),
    "filters": ("no filters are removed", "give --granularity filter and a --sparsity"),
    "data": ("there is no data", "give --data"),
    "time": ("there is no budget of time", "give --max-ms"),
    "training or time": (
        "there is neither a training nor a budget of time",
        "give --data and --epochs above 0, or --max-ms without a --profile",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The options that decide about one another, as given; None where not."""

    has_data: bool
    is_trainable: bool
    hardware: tuple[str, ...]
    bits: int | None = None
    activation_bits: int = 8
    codes: Codes = "uniform"
    rounding: Rounding = "gptq"
    range_rule: RangeRule | None = None
    float_layers: tuple[str, ...] = ()
    sparsity: float | None = None
    granularity: str = "element"
    importance: Importance | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    distill_features: float | None = None
    max_bytes: int | None = None
    max_macs: float | None = None
    max_ms: float | None = None
    profile: Path | None = None
    work: Path | None = None
    calibration: int | None = None
    evaluation: int | None = None

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
            Filter,
            LayerOptions,
            PruneOptions,
            QuantizeOptions,
            TrainOptions,
            WeightOptions,
        )

        width = self._stored(DEFAULT_BITS if self.bits is None else self.bits)
        quantize = QuantizeOptions(
            WeightOptions(CodeSet(width, self.codes)),
            ActivationOptions(
                self.activation_bits, self.range_rule or ActivationOptions().range_rule
            ),
            layers={layer: LayerOptions(None, None) for layer in self.float_layers},
            rounding=self.rounding,
        )
        granularity = parse_granularity(self.granularity)
        is_filter = isinstance(granularity, Filter)
        sparsity, budget = self._sparsity(granularity), self._budget()
        prune = None
        if sparsity or budget is not None:
            importance = self.importance or DEFAULT_IMPORTANCE
            prune = PruneOptions(sparsity, granularity, importance)
        epochs = self._epochs(sparsity)
        self._check_effects(is_training=epochs > 0, has_filters=sparsity > 0 and is_filter)
        if not epochs:
            return CompressOptions(quantize, prune, budget=budget)
        distill = None
        if self.distill_features:
            distill = DistillOptions(logits=0.0, features=self.distill_features)
        rate = DEFAULT_RATE if self.learning_rate is None else self.learning_rate
        train = TrainOptions(epochs, self.batch_size or DEFAULT_BATCH, rate)
        return CompressOptions(quantize, prune, distill, train, budget)

    @property
    def variant(self) -> str:
        """What was asked for, for the name of a file: ``int8``, ``w4a8-sparse50-4x1``."""
        limits = {"bytes": self.max_bytes, "macs": self.max_macs, "ms": self.max_ms}
        parts = [f"max{limit:.10g}{unit}" for unit, limit in limits.items() if limit is not None]
        bits, usual = self.bits or DEFAULT_BITS, self.activation_bits == DEFAULT_BITS
        if parts and self.bits is None:
            parts += [] if usual else [f"a{self.activation_bits}"]
        else:
            parts.append(
                "int8" if usual and bits >= _AS_INT8 else f"w{bits}a{self.activation_bits}"
            )
        parts += [self.codes] if self.codes != "uniform" else []
        parts += [f"sparse{100 * self.sparsity:g}"] if self.sparsity else []
        parts += [self.granularity.replace(":", "of")] if self.granularity != "element" else []
        return "-".join(parts)

    @property
    def untrained_because(self) -> str:
        """Why nothing is trained that would be by default; empty where that is not so."""
        if self.epochs is not None or not self._is_hard(self.sparsity or 0.0):
            return ""
        if not self.has_data:
            return "there is no data to train on"
        return "" if self.is_trainable else "a model with such outputs cannot be trained here"

    def _check_effects(self, *, is_training: bool, has_filters: bool) -> None:
        """An option that would change nothing is refused rather than ignored."""
        is_measured = self.max_ms is not None and self.profile is None
        holds = {
            "training": is_training,
            "filters": has_filters,
            "data": self.has_data,
            "time": self.max_ms is not None,
            "training or time": is_training or is_measured,
        }
        for name, precondition in _PRECONDITIONS.items():
            if getattr(self, name) is not None and not holds[precondition]:
                lacking, hint = _LACKING[precondition]
                option = "--" + name.replace("_", "-")
                raise InvalidInput(
                    f"{option} would have no effect: {lacking}", f"leave it out, or {hint}"
                )

    def _stored(self, bits: int) -> int:
        from camsdk.compress.compressing import storage_bits

        return storage_bits(bits, self.hardware)

    def _sparsity(self, granularity: "PruneGranularity") -> float:
        from camsdk.compress.options import Element, NOfM

        if isinstance(granularity, NOfM):
            share = 1 - granularity.n / granularity.m
            if self.sparsity is not None and not math.isclose(self.sparsity, share, abs_tol=1e-3):
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
        if self.epochs is not None:
            return self.epochs
        can_train = self.has_data and self.is_trainable
        return DEFAULT_EPOCHS if can_train and self._is_hard(sparsity) else 0.0

    def _is_hard(self, sparsity: float) -> bool:
        """Whether rounding alone is likely to lose much."""
        return (
            (self.bits is not None and self.bits < 4)
            or self.activation_bits < 8
            or sparsity > 0
            or self.granularity != "element"
            or self._budget() is not None
        )

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
