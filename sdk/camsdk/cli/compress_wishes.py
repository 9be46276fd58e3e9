"""What the options of ``camctl model compress`` mean together."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camsdk.cli.compress_options import (
    DEFAULT_BATCH,
    DEFAULT_BITS,
    DEFAULT_EPOCHS,
    DEFAULT_IMPORTANCE,
    DEFAULT_RATE,
    Codes,
    Importance,
    RangeRule,
    Rounding,
)
from camsdk.errors import InvalidInput

if TYPE_CHECKING:
    from camsdk.compress.options import (
        Budget,
        CompressOptions,
        PruneGranularity,
        PruneOptions,
        QuantizeOptions,
        TrainOptions,
    )

_AS_INT8: Final = 7
"""Bits of weights from which an artifact counts as int8."""
_SEARCHED_BITS: Final = (2, 3, 4, 6, 8)
_SEARCHED_SPARSITIES: Final = (0.0, 0.5, 0.75, 0.9)

_RULES_OF_DATA: Final = ("best", "mean")
"""Rules of ranges that come to ``extreme`` on inputs that are made up."""

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
        from camsdk.compress.options import CompressOptions, DistillOptions, Filter

        granularity = parse_granularity(self.granularity)
        sparsity, budget = self._sparsity(granularity), self._budget()
        has_filters = sparsity > 0 and isinstance(granularity, Filter)
        epochs = self._epochs(sparsity)
        self._check_effects(is_training=epochs > 0, has_filters=has_filters)
        distill = None
        if epochs and self.distill_features:
            distill = DistillOptions(logits=0.0, features=self.distill_features)
        return CompressOptions(
            self._quantization(),
            self._pruning(sparsity, granularity) if sparsity or budget is not None else None,
            distill,
            self._training(epochs) if epochs else None,
            budget,
        )

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
                raise _without_effect("--" + name.replace("_", "-"), precondition)
        if self.range_rule in _RULES_OF_DATA and not self.has_data:
            raise _without_effect(f"--range-rule {self.range_rule}", "data")

    def _quantization(self) -> "QuantizeOptions":
        from camsdk.compress.options import (
            ActivationOptions,
            CodeSet,
            LayerOptions,
            QuantizeOptions,
            WeightOptions,
        )

        range_rule = self.range_rule or ActivationOptions().range_rule
        return QuantizeOptions(
            WeightOptions(CodeSet(self._width(), self.codes)),
            ActivationOptions(self.activation_bits, range_rule),
            layers={layer: LayerOptions(None, None) for layer in self.float_layers},
            rounding=self.rounding,
        )

    def _width(self) -> int:
        """Of the weights that nothing else decides about."""
        from camsdk.compress.options import MAX_POWER_OF_TWO_BITS

        width = self._stored(DEFAULT_BITS if self.bits is None else self.bits)
        if self.codes == "uniform" or width <= MAX_POWER_OF_TWO_BITS:
            return width
        if self.bits is None and (self.max_bytes, self.max_ms) != (None, None):
            return MAX_POWER_OF_TWO_BITS  # layers with more are uniform
        raise InvalidInput(
            f"{self.codes} codes have {MAX_POWER_OF_TWO_BITS} bits at the most, not {width}",
            f"give --bits 1 to {MAX_POWER_OF_TWO_BITS}, or leave --codes out",
        )

    def _pruning(self, sparsity: float, granularity: "PruneGranularity") -> "PruneOptions":
        from camsdk.compress.options import PruneOptions

        return PruneOptions(sparsity, granularity, self.importance or DEFAULT_IMPORTANCE)

    def _training(self, epochs: float) -> "TrainOptions":
        from camsdk.compress.options import TrainOptions

        rate = DEFAULT_RATE if self.learning_rate is None else self.learning_rate
        return TrainOptions(epochs, self.batch_size or DEFAULT_BATCH, rate)

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


def _without_effect(option: str, precondition: str) -> InvalidInput:
    lacking, hint = _LACKING[precondition]
    return InvalidInput(f"{option} would have no effect: {lacking}", f"leave it out, or {hint}")


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
