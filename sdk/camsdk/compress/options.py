"""What to do to a model, as frozen values: one vocabulary for every way of compressing.

Whether there is data, labels, time to train or none of them changes which algorithm runs, never how
its result is described. An option type says what is wanted; it holds no state and needs no torch.

>>> QuantizeOptions(WeightOptions(CodeSet(3, "power-of-two")), ActivationOptions(bit_width=4))
... # weights {0, +-1, +-2, +-4} x one scale per filter, 4-bit activations
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput

Granularity = Literal["tensor", "filter"]
"""What shares one scale: a whole weight tensor, or each filter (output channel, axis 0)."""
Spacing = Literal["uniform", "power-of-two"]
RangeRule = Literal["best", "extreme", "mean", "percentile", "mse"]
Rounding = Literal["nearest", "gptq", "adaround"]
Importance = Literal["magnitude", "taylor-1", "taylor-2"]

MAX_POWER_OF_TWO_BITS: Final = 4


@dataclass(frozen=True)
class CodeSet:
    """The integers that a weight may take before it is multiplied with its scale.

    Symmetric, so that a filter whose BatchNorm has a negative factor only changes its signs. The
    sets of "Extremely Low Bit Neural Network: Squeeze the Last Bit Out with ADMM" (AAAI 2018,
    section 3): 1 bit {-1, 1}, 2 bits {-1, 0, 1}, 3 bits {0, +-1, +-2, +-4} or, uniform,
    {-3 ... 3}; k bits uniform {-(2^(k-1) - 1) ... 2^(k-1) - 1}.

    Attributes:
        bit_width: 1 to 8; "power-of-two" up to 4, since 5 bits would not fit int8.
        spacing: Between the codes; the same up to 2 bits.
    """

    bit_width: int = 8
    spacing: Spacing = "uniform"

    def __post_init__(self) -> None:
        limit = 8 if self.spacing == "uniform" else MAX_POWER_OF_TWO_BITS
        if not 1 <= self.bit_width <= limit:
            raise InvalidInput(
                f"{self.bit_width} bits of {self.spacing} codes are not to be had",
                f"give 1 to {limit}",
            )

    @property
    def levels(self) -> NDArray[np.int8]:
        """All codes, ascending."""
        if self.bit_width == 1:
            return np.array([-1, 1], np.int8)
        count = 2 ** (self.bit_width - 1) - 1
        positive = np.arange(1, count + 1)
        if self.spacing == "power-of-two":
            positive = 2 ** (positive - 1)
        return np.concatenate([-positive[::-1], [0], positive]).astype(np.int8)

    @property
    def largest(self) -> int:
        """The largest code."""
        return int(self.levels[-1])

    @property
    def has_zero(self) -> bool:
        """Whether 0 is a code; only binary weights have none, unless they are pruned."""
        return self.bit_width > 1


@dataclass(frozen=True)
class WeightOptions:
    """Codes and scales of a layer's weights."""

    code_set: CodeSet = CodeSet()
    granularity: Granularity = "filter"


@dataclass(frozen=True)
class ActivationOptions:
    """Codes of a tensor between layers: unsigned, one scale and zero point a tensor.

    Attributes:
        bit_width: 2 to 8.
        range_rule: How a range is found from calibration inputs: their extremes, the mean of each
            input's own extremes, a percentile, or the range of least squared error. "best" is, for
            the whole model, whichever of extremes and least squared error leaves its outputs nearer
            to those in float; of made-up inputs it is the extremes.
    """

    bit_width: int = 8
    range_rule: RangeRule = "best"

    def __post_init__(self) -> None:
        if not 2 <= self.bit_width <= 8:
            raise InvalidInput(f"{self.bit_width}-bit activations are not to be had", "give 2 to 8")


@dataclass(frozen=True)
class LayerOptions:
    """Of one layer: its weights and the activations that enter it. None leaves them in float."""

    weights: WeightOptions | None = WeightOptions()
    activations: ActivationOptions | None = ActivationOptions()


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize a model.

    Attributes:
        weights, activations: Of every layer that ``layers`` does not name.
        layers: By layer name, what differs.
        rounding: After training: to the nearest code, one column after the other with the error
            carried on (GPTQ, arXiv:2210.17323), or learned per layer (AdaRound, arXiv:2004.10568).
        equalize: Cross-layer equalization before (arXiv:1906.04721, section 4.1).
        correct_bias: Bias correction after (the same, section 4.2).
    """

    weights: WeightOptions = WeightOptions()
    activations: ActivationOptions = ActivationOptions()
    layers: Mapping[str, LayerOptions] = field(default_factory=lambda: MappingProxyType({}))
    rounding: Rounding = "nearest"
    equalize: bool = True
    correct_bias: bool = True

    def of(self, layer: str) -> LayerOptions:
        """What holds for a layer."""
        return self.layers.get(layer, LayerOptions(self.weights, self.activations))


@dataclass(frozen=True)
class Element:
    """Single weights are pruned."""


@dataclass(frozen=True)
class NOfM:
    """Of every ``m`` neighbours along the input channels at most ``n`` stay; 2:4 by default."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise InvalidInput(f"{self.n}:{self.m} prunes nothing", "give n from 1 to m - 1")


@dataclass(frozen=True)
class Block:
    """``filters`` neighbouring filters lose the same input weight together.

    4x1 is what a CPU's vector registers can skip; see ``docs/compression.md``.
    """

    filters: int = 4
    inputs: int = 1


@dataclass(frozen=True)
class Filter:
    """Whole filters go, with every weight that read their output."""


PruneGranularity = Element | NOfM | Block | Filter
Saved = Literal["weights", "macs"]


@dataclass(frozen=True)
class PruneOptions:
    """What share of the weights becomes zero, and how it is chosen.

    Attributes:
        sparsity: Share of zeros over all prunable layers at the end, 0 to below 1; with filters,
            share of what is removed. With N:M, layers whose inputs are not whole groups stay dense.
        granularity: What is pruned together.
        importance: |w|; |w g| (Taylor, arXiv:1906.10771, eq. 8); or w g with second-order terms
            (g w - h w^2 / 2, the diagonal of the empirical Fisher matrix for h).
        begin, end: Progress of the training, 0 to 1, between which sparsity rises along the cubic
            schedule of arXiv:1710.01878, eq. 1.
        regrow: At each update, the share of the weights that stay which must stand up to pruned
            ones that the gradient asks for; falls to 0 towards ``end``. Filters do not come back.
            None by default: in trials at 97% it earned nothing.
        is_global: One threshold over all layers instead of the same share in each.
        saves: What sparsity is a share of, weights or multiply-accumulates, and what importance is
            weighed against.
        dense: Layers that nothing is pruned in and that ``sparsity`` does not count, by name. Not
            for filters, which are tied across layers.
    """

    sparsity: float
    granularity: PruneGranularity = Element()
    importance: Importance = "taylor-1"
    begin: float = 0.0
    end: float = 0.6
    regrow: float = 0.0
    is_global: bool = True
    saves: Saved = "weights"
    dense: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise InvalidInput(f"sparsity {self.sparsity} is out of range", "give 0 to below 1")
        if not 0 <= self.begin < self.end <= 1:
            raise InvalidInput("pruning must begin before it ends", "give 0 <= begin < end <= 1")
        if self.dense and isinstance(self.granularity, Filter):
            raise InvalidInput("filters are tied across layers", "leave dense empty, or no filters")


@dataclass(frozen=True)
class DistillOptions:
    """What the student learns from the float network.

    Attributes:
        logits: Weight of the Kullback-Leibler divergence of softened logits (arXiv:1503.02531),
            beside the labels of a task. A student that can surpass its teacher wants a small one,
            one that has lost much a large one: ResNet-20 on held-out pictures of Fashion-MNIST,
            half an epoch, mean of 2 seeds, had 91.3, 91.6, 91.6 and 91.2% with weights 0, 1/4, 1/2
            and 1 at 3 bits, and 87.0, 87.8, 88.5 and 88.8% with 0, 1/4, 1 and 2 at 97% zeros. Half
            of the latter gain is the greater gradient: with both terms divided by 1 + 2 it was 88.0
            for 88.8 (one seed). Learned scales bear that badly: 88.2 with 2 for 89.8 with 1/2 at
            3 bits and 90% zeros.
        temperature: Of the softening.
        features: Weight of the squared error of normalised inner features (arXiv:1612.03928).
    """

    logits: float = 0.5
    temperature: float = 4.0
    features: float = 0.0


@dataclass(frozen=True)
class Budget:
    """What the compressed model may cost; bits and sparsity per layer are found under it.

    Attributes:
        kind: Non-zero multiply-accumulates times nothing else, bytes of the packed file, or
            predicted milliseconds on ``device``.
        limit: In that unit.
        device: Hardware name such as ``cpu-x86_64``, for "latency".
        bit_widths, sparsities: What each layer may choose from.
    """

    kind: Literal["macs", "bytes", "latency"]
    limit: float
    device: str = ""
    bit_widths: tuple[int, ...] = (2, 3, 4, 6, 8)
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class TrainOptions:
    """How long and how fast to train.

    Attributes:
        epochs: Over the data.
        learning_rate: At its peak; warms up over the first ``warm_up`` of the training, then falls
            along a cosine.
        seed: Of everything random; the same seed gives the same weights on the same machine.
        checkpoint_every_s: A kill loses at most this much work.
    """

    epochs: float = 2.0
    batch_size: int = 128
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.05
    seed: int = 0
    checkpoint_every_s: float = 30.0

    def __post_init__(self) -> None:
        for name, value, usual in (
            ("epochs", self.epochs, "1 to 100"),
            ("batch size", self.batch_size, "1 to 128"),
            ("learning rate", self.learning_rate, "0.0001 to 0.1"),
        ):
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(f"{name} {value:g} is no number above 0", f"usual are {usual}")


@dataclass(frozen=True)
class CompressOptions:
    """All of it; None leaves a step out. Without ``train`` nothing is trained."""

    quantize: QuantizeOptions | None = QuantizeOptions()
    prune: PruneOptions | None = None
    distill: DistillOptions | None = None
    train: TrainOptions | None = None
    budget: Budget | None = None
