"""Bits and sparsity of every layer, found so that the whole costs no more than it may."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import onnx

from camsdk.artifact.hardware import local_hardware
from camsdk.compress.allocate import (
    FLOAT_BITS,
    LayerChoice,
    OverBudgetError,
    Sensitivity,
    allocate,
    too_little,
    with_choices,
)
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.file_cost import measure_file_cost
from camsdk.compress.graph.layers import Layer, list_layers
from camsdk.compress.latency import DeviceProfile, load_profile, measure_profile, save_profile
from camsdk.compress.options import Budget, NOfM, PruneOptions, QuantizeOptions
from camsdk.compress.ptq.folding import as_if_trained, prepare
from camsdk.compress.quantize import quantize_int8
from camsdk.compress.sensitivity import Floats, measure_sensitivity
from camsdk.compress.sparsity import suits
from camsdk.errors import InvalidInput

_ATTEMPTS: Final = 8
_STEPS: Final = 2
_CLOSE: Final = 0.97
"""Of a budget: what costs more than this share of it is good enough."""

_FEWEST_INPUTS: Final = 4
_MOST_INPUTS: Final = 16
_INPUT_VALUES: Final = 2**20

_T = TypeVar("_T")


def inputs_to_measure(shape: Sequence[int]) -> int:
    """How many inputs of a shape the choices are tried on.

    Small ones are many: a classifier of 64 x 64 pixels came out with a divergence of 8 or of 3
    millinats by the four that were made up, and with 3 by any sixteen.
    """
    return max(_FEWEST_INPUTS, min(_MOST_INPUTS, _INPUT_VALUES // int(np.prod(shape))))


@dataclass(frozen=True)
class Allotment:
    """What was found.

    Attributes:
        quantize: With the bits of every layer.
        prune: With the sparsity of all weights together; None where nothing is pruned.
        layer_sparsity: By layer name.
    """

    quantize: QuantizeOptions
    prune: PruneOptions | None
    layer_sparsity: Mapping[str, float]


class Allotter:
    """Measures once what every choice does in every layer; then answers for any limit.

    Args:
        model: Float.
        budget: What it may cost, and what layers may choose from.
        quantize: Layers that it leaves in float stay there.
        prune: Granularity and schedule, if layers may be pruned.
        inputs: Of the model.
        is_synthetic: Whether they were made up.
        profile: Of the budget's device, for "latency"; or the file where what is measured on this
            machine is kept, so that the next call counts with the same times; None measures anew.
        on_progress: Called with layers done and in all.

    Raises:
        InvalidInput: The budget cannot be had this way; says why.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        budget: Budget,
        quantize: QuantizeOptions,
        prune: PruneOptions,
        inputs: Sequence[Floats],
        *,
        is_synthetic: bool = False,
        profile: DeviceProfile | Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._budget, self._quantize, self._prune = budget, quantize, prune
        prepared = prepare(model)  # as the file will be: without BatchNorm behind layers
        self._layers = list_layers(prepared.model)
        self._profile = profile if isinstance(profile, DeviceProfile) else None
        if budget.kind == "latency" and not isinstance(profile, DeviceProfile):
            self._profile = _kept_profile(prepared.model, budget, inputs, profile)
        measured = prepared.model
        if is_synthetic and prepared.normalised:
            # Made-up inputs move layers otherwise than the data did.
            measured = as_if_trained(prepared, self._layers, inputs)
        self._sensitivity: Sensitivity = measure_sensitivity(
            measured,
            self._layers,
            {layer.name: self._choices(layer) for layer in self._layers},
            inputs,
            options=quantize.weights,
            granularity=prune.granularity,
            is_unlike_data=is_synthetic and not prepared.normalised,
            on_progress=None if on_progress is None else lambda s: on_progress(int(1000 * s), 1000),
        )
        self._fixed_bytes = 0.0
        if budget.kind == "bytes":
            cost = measure_file_cost(prepared.model, quantize, budget.bit_widths, inputs)
            self._fixed_bytes = cost.fixed
            self._sensitivity = cost.added_to(self._sensitivity)

    @property
    def profile(self) -> DeviceProfile | None:
        """What times are predicted from; None for a budget of bytes or work."""
        return self._profile if self._budget.kind == "latency" else None

    def least(self) -> float:
        """Of the limits that ``allot`` has an answer for."""
        try:
            self.allot(0.0)
        except OverBudgetError as error:
            return error.least * (1 + 1e-12)  # sums of floats
        return 0.0

    def allot(self, limit: float) -> Allotment:
        """The best choices within a limit, which may be another than the budget's.

        Raises:
            OverBudgetError: It cannot be met; says the smallest that can.
        """
        choices = allocate(
            self._layers,
            self._sensitivity,
            replace(self._budget, limit=limit),
            profile=self._profile,
            fixed_bytes=self._fixed_bytes,
        )
        quantize, sparsity = with_choices(self._quantize, choices)
        sizes = {layer.name: float(np.prod(layer.shape)) for layer in self._layers}
        zeros = sum(sparsity[name] * size for name, size in sizes.items())
        share = zeros / max(1.0, sum(sizes.values()))
        prune = replace(self._prune, sparsity=share) if share else None
        return Allotment(quantize, prune, {n: s for n, s in sparsity.items() if s})

    def cost_of(self, made: CodedModel, packed_bytes: int) -> float:
        """What a compressed model costs, in the budget's unit."""
        if self._budget.kind == "bytes":
            return float(packed_bytes)
        total = 0.0
        for layer in list_layers(made.model):
            coded = made.weights.get(layer.name)
            zeros = 0.0 if coded is None else float(np.mean(coded.codes == 0))
            if self._profile is None or self._budget.kind == "macs":
                total += layer.macs * (1 - zeros)
            else:
                bits = FLOAT_BITS if coded is None else coded.code_set.bit_width
                total += self._profile.predict_ms(layer, bits, zeros)
        return total

    def _choices(self, layer: Layer) -> list[LayerChoice]:
        if self._quantize.of(layer.name).weights is None:
            return [LayerChoice(FLOAT_BITS)]
        shares = self._budget.sparsities
        if isinstance(self._prune.granularity, NOfM):
            pattern = self._prune.granularity
            shares = (0.0, 1 - pattern.n / pattern.m)
        if not suits(layer.shape, self._prune.granularity):
            shares = (0.0,)  # it stays dense, whatever is asked for
        widths = self._budget.bit_widths
        choices = [LayerChoice(bits, share) for bits in widths for share in shares]
        if self._is_faster_in_float(layer):
            choices.append(LayerChoice(FLOAT_BITS))
        return choices

    def _is_faster_in_float(self, layer: Layer) -> bool:
        """Than in the narrowest codes; engines have layers that they compute worse in 8 bits."""
        if self._budget.kind != "latency" or self._profile is None:
            return False
        try:
            in_float = self._profile.predict_ms(layer, FLOAT_BITS)
        except InvalidInput:  # a device without float
            return False
        return in_float < self._profile.predict_ms(layer, min(self._budget.bit_widths))


def meet(budget: Budget, least: float, make: Callable[[float], tuple[float, _T]]) -> _T:
    """Something that costs no more than a budget, where only making it tells what it costs.

    What costs more than it was allowed to is allowed so much less, twice; then as little as there
    are choices for; if that fits, halving the distance finds more that does.

    Args:
        least: Of what can be allowed.
        make: Takes what is allowed; gives what was made, after its cost.

    Raises:
        OverBudgetError: What was made costs more even so; says the least that was made.
    """
    allowed, refused, least_made = max(budget.limit, least), math.inf, math.inf
    best: tuple[float, _T] | None = None
    for attempt in range(_ATTEMPTS):
        cost, made = make(allowed)
        least_made = min(least_made, cost)
        if cost <= budget.limit:
            best = allowed, made
            if math.isinf(refused) or cost >= _CLOSE * budget.limit:
                break
        elif allowed <= least:
            break
        else:
            refused = allowed
        if best is not None:
            allowed = (best[0] + refused) / 2
        else:
            less = allowed - (cost - budget.limit)
            allowed = less if attempt < _STEPS and less > least else least
    if best is None:
        raise too_little(budget, least_made)
    return best[1]


def _kept_profile(
    model: onnx.ModelProto, budget: Budget, inputs: Sequence[Floats], kept: Path | None
) -> DeviceProfile:
    """Of a model as the file will be: an engine names the kernels of another otherwise."""
    if kept is not None and kept.exists():
        return load_profile(kept)
    profile = _profile_of_this_machine(model, budget, inputs)
    if kept is not None:
        save_profile(profile, kept)
    return profile


def _profile_of_this_machine(
    model: onnx.ModelProto, budget: Budget, inputs: Sequence[Floats]
) -> DeviceProfile:
    here = local_hardware()
    if budget.device != here:
        raise InvalidInput(
            f"how long layers take on {budget.device or 'no device'} is not known here, which is "
            f"{here}",
            "give the profile of that device with --profile, as docs/compression.md describes it",
        )
    return measure_profile(here, model, quantize_int8(model, inputs).model)
