"""Low-bit weights by ADMM, then adaptation of the network to the very values that are exported.

"Extremely Low Bit Neural Network: Squeeze the Last Bit Out with ADMM" (AAAI 2018, arXiv:1707.09870,
section 3) splits the loss f(W), the set C of coded weights and a scaled dual variable u:

    L(W, G, u) = f(W) + I_C(G) + rho / 2 ||W - G + u||^2 - rho / 2 ||u||^2

and repeats: W towards the minimum of L by gradient steps, G = projection of W + u onto C by
alternating codes and scales, u += W - G. A first share of the training may run so;
by default none does, as learned scales alone ended at better networks.

That dual step is for a W that has come to rest. Here a round is one step of the optimizer, and
both move at one pace, the *pull* p: after the optimizer's step on f alone, W goes the share p of
its way to G - u, which is the implicit step on the quadratic term with rho = p / (1 - p) over the
learning rate, stable for any rho; and u takes the share p of W - G. With whole dual steps u grows
while W has hardly moved, until the codes of W + u are noise.

The gradient of f is taken at G, which the network computes with, so that BatchNorm and the ranges
of activations see coded weights from the first step on; at rest, where W = G, it is the gradient
that the paper takes at W. After this phase W + u takes the place of W, which changes no code: what
a gradient that passes straight through the rounding adds up in a weight is what u adds up. In the
rest of the training there is no augmented term, and scales are learned one per filter (LSQ,
arXiv:1902.08153), which begin as those of the projection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from camsdk.compress.codes import CodedTensor
from camsdk.compress.options import Filter, PruneOptions, QuantizeOptions
from camsdk.compress.ptq.edges import with_precise
from camsdk.compress.training.coded_layer import CodedLayer, install, record_inputs
from camsdk.compress.training.filter_search import weight_uses
from camsdk.compress.training.importance import saved_tensor
from camsdk.compress.training.joints import Joints
from camsdk.compress.training.method import Range, State
from camsdk.compress.training.pruning import FixedMasks, MaskSchedule
from camsdk.compress.training.quantizers import WeightQuantizer
from camsdk.compress.training.twin import TwinModule
from camsdk.errors import InvalidInput


@dataclass(frozen=True)
class AdmmOptions:
    """How the phase of ADMM runs.

    Attributes:
        share: Of the training that is ADMM, 0 to 1. None by default: with half of it, ResNet-20 of
            width 8 lost 0.7 to 2.0 points against none, in trainings of half an epoch (ternary
            and binary weights, 2-bit activations, 2 seeds each).
        least_rounds: A phase of fewer is left out: W would not get far on its way to G - u, while
            scales stay those of the projection. A detector that trained for 18 steps lost by it.
        first_pull, last_pull: Share of its way to G - u that W goes in a step, rising
            geometrically; the dual goes the same share of W - G.
        gradient_at: Where the network computes. "weights" with a share of 1 is the paper's method;
            in trainings of less than an epoch it lost accuracy.
        has_extra_gradient: Whether the phase takes each gradient twice, as the paper's
            proximal step does; a step then costs two.
    """

    share: float = 0.0
    least_rounds: int = 50
    first_pull: float = 1e-3
    last_pull: float = 1e-1
    gradient_at: Literal["codes", "weights"] = "codes"
    has_extra_gradient: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidInput(f"a share of {self.share} of ADMM", "give 0 to 1")
        if not 0 < self.first_pull <= self.last_pull < 1:
            raise InvalidInput(
                f"pulls from {self.first_pull} to {self.last_pull}",
                "give shares above 0 and below 1 that do not fall",
            )


class AdmmMethod:
    """Quantization, or quantization and pruning in one schedule: a ``Method`` of the trainer.

    Args:
        quantize: Codes of weights and activations by layer (qualified module name).
        prune: What becomes zero on the way; whole filters are to be removed beforehand. Or what is
            zero already and stays: masks by layer, True where a weight stays, filters first; those
            of layers that are not quantized here are not looked at.
        admm: Of the phase of ADMM.
        layer_sparsity: By layer, in place of the one for all; the others stay dense, as transposed
            convolutions do in any case.
    """

    def __init__(
        self,
        quantize: QuantizeOptions,
        prune: PruneOptions | Mapping[str, Tensor] | None = None,
        admm: AdmmOptions = AdmmOptions(),
        *,
        layer_sparsity: Mapping[str, float] | None = None,
    ) -> None:
        if isinstance(prune, PruneOptions) and isinstance(prune.granularity, Filter):
            raise InvalidInput(
                "whole filters cannot go while their weights are quantized",
                "prune filters first, then quantize what is left",
            )
        self._options = quantize
        self._admm = admm
        self._schedule: MaskSchedule | FixedMasks | None = None
        if isinstance(prune, PruneOptions):
            self._schedule = MaskSchedule(prune, layer_sparsity=layer_sparsity)
        elif prune is not None:
            self._schedule = FixedMasks(prune)
        self._layers: dict[str, CodedLayer] = {}
        self._coded: dict[str, CodedTensor] = {}
        self._progress = 0.0
        self._share = admm.share

    @property
    def extra_gradient(self) -> bool:
        """In the phase of ADMM, if the options ask for it."""
        return self._admm.has_extra_gradient and self._is_split

    @property
    def pull(self) -> float:
        """Share of its way that W goes in a step now."""
        admm = self._admm
        done = min(1.0, self._progress / admm.share) if admm.share else 1.0
        return float(admm.first_pull * (admm.last_pull / admm.first_pull) ** done)

    @property
    def _is_split(self) -> bool:
        """Whether W and G are two, which the phase of ADMM draws together."""
        return self._progress < self._share

    def attach(self, module: nn.Module, example: Tensor) -> None:
        """Quantize all convolutions and linear layers, warm-started from their projection.

        The first and the last to run keep more bits (``ptq.edges.with_precise``).

        Raises:
            InvalidInput: There are none, or ``quantize.layers`` names one that is not there.
        """
        inputs = record_inputs(module, example)
        names = tuple(inputs)
        options = with_precise(self._options, {*names[:1], *names[-1:]})
        unknown = set(options.layers) - set(inputs)
        if unknown or not inputs:
            raise InvalidInput(
                f"no such layers in the network: {', '.join(sorted(unknown)) or 'none at all'}",
                f"those that can be quantized are {', '.join(inputs) or 'convolutions and linear'}",
            )
        schedule = self._schedule
        uses = weight_uses(module, example) if isinstance(schedule, MaskSchedule) else None
        joints = Joints(module, example) if isinstance(module, TwinModule) else None
        for name, sample in inputs.items():
            layer = module.get_submodule(name)
            self._layers[name] = install(layer, options.of(name), sample)
        if joints is not None:
            joints.install()
        if isinstance(schedule, MaskSchedule):
            found = {n: of.parameter for n, of in self._layers.items() if not of.is_transposed}
            schedule.attach(found, len(example), uses)
        elif schedule is not None:
            known = {n: mask for n, mask in schedule.current.items() if n in self._layers}
            self._schedule = FixedMasks(known)
        self._prune(0.0)
        for coded in self._layers.values():
            if coded.quantizer is not None and self._is_split:
                coded.target = coded.quantizer.project(coded.weight)
                self._split(coded.quantizer, coded.dual)

    def after_backward(self, progress: float) -> None:
        """Judge weights by their gradients, then hide those of pruned weights."""
        if self._schedule is None:
            return
        self._schedule.after_backward(progress)
        for name, mask in self._schedule.current.items():
            self._layers[name].hide_gradient(mask)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Masks; then the rest of a round of ADMM, or the end of its phase."""
        was_split = self._is_split
        if 0 < (progress - self._progress) * self._admm.least_rounds > self._share:
            self._share = 0.0
        self._progress = progress
        self._prune(progress)
        for layer in self._layers.values():
            for of_input in layer.input_quantizers():
                of_input.keep_valid()
            if layer.quantizer is None:
                continue
            layer.quantizer.keep_valid()
            if was_split and self._share > 0:
                self._finish_round(layer, layer.quantizer)
            if was_split and not self._is_split:
                layer.weight.add_(layer.dual)
                _join(layer.quantizer)

    @torch.no_grad()
    def finish(self) -> None:
        """Coded weights take the place of the float ones, ranges that of the learned ones."""
        if self._schedule is not None:
            self._prune(1.0)
        if self._is_split:
            for layer in self._layers.values():
                if layer.quantizer is not None:
                    layer.weight.copy_(layer.target)
                    _join(layer.quantizer)
        for name, layer in self._layers.items():
            coded = layer.settle()
            if coded is not None:
                self._coded[name] = coded

    def coded_weights(self) -> Mapping[str, CodedTensor]:
        """After ``finish``: exactly what the module computes with, filters first."""
        return self._coded

    def activation_ranges(self) -> Mapping[str, Range]:
        """After ``finish``: exactly what the layers read."""
        return {
            name: quantizer.range()
            for name, layer in self._layers.items()
            for quantizer in layer.input_quantizers()
        }

    def state_dict(self) -> State:
        """Progress, targets, duals and masks."""
        state: State = {"progress": self._progress, "share": self._share}
        for name, layer in self._layers.items():
            if self._is_split:
                state[f"target/{name}"] = layer.target.clone()
                state[f"dual/{name}"] = layer.dual.clone()
        if self._schedule is not None:
            state |= {f"prune/{key}": v for key, v in self._schedule.state_dict().items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        """Continue, after ``attach``. Raises InvalidInput if the state is of another network."""
        self._progress, self._share = float(state["progress"]), float(state["share"])
        for name, layer in self._layers.items():
            if self._is_split:
                layer.target = saved_tensor(state, f"target/{name}", layer.target)
                layer.dual = saved_tensor(state, f"dual/{name}", layer.dual)
                if layer.quantizer is not None:
                    self._split(layer.quantizer, layer.dual)
            elif layer.quantizer is not None:
                _join(layer.quantizer)
        if self._schedule is None:
            return
        self._schedule.load_state_dict(
            {k.removeprefix("prune/"): v for k, v in state.items() if k.startswith("prune/")}
        )
        for name, mask in self._schedule.current.items():
            quantizer = self._layers[name].quantizer
            if quantizer is not None:
                quantizer.mask.copy_(mask)

    def _split(self, quantizer: WeightQuantizer, dual: Tensor) -> None:
        quantizer.shift = dual
        quantizer.is_float = self._admm.gradient_at == "weights"

    def _finish_round(self, layer: CodedLayer, quantizer: WeightQuantizer) -> None:
        """The augmented term's part of the W-step, then G and u; f's part was the optimizer's."""
        layer.weight.lerp_(layer.target - layer.dual, self.pull)
        shifted = layer.weight + layer.dual
        quantizer.fit(shifted)
        layer.target = quantizer.project(shifted)
        # In place: the quantizer reads it.
        layer.dual.add_(layer.weight - layer.target, alpha=self.pull)

    @torch.no_grad()
    def _prune(self, progress: float) -> None:
        if self._schedule is None:
            return
        # Momentum has moved pruned weights off zero; they are not to be judged by that.
        for name, mask in self._schedule.current.items():
            self._layers[name].weight.masked_fill_(~mask, 0.0)
        for name, mask in self._schedule.masks(progress).items():
            layer = self._layers[name]
            for tensor in (layer.weight, layer.target, layer.dual):
                tensor.masked_fill_(~mask, 0.0)
            if layer.quantizer is not None:
                layer.quantizer.prune(layer.weight, mask)


def _join(quantizer: WeightQuantizer) -> None:
    quantizer.shift, quantizer.is_float = None, False
