"""Low-bit weights by ADMM, then adaptation of the network to the very values that are exported.

"Extremely Low Bit Neural Network: Squeeze the Last Bit Out with ADMM" (AAAI 2018, arXiv:1707.09870)
splits the loss f(W), the set C of coded weights and a dual variable u, section 3, eq. 6:

    L(W, G, u) = f(W) + I_C(G) + rho / 2 ||W - G + u||^2 - rho / 2 ||u||^2

and repeats: W by (extra)gradient steps on f plus the quadratic term, G = projection of W + u onto
C, u += W - G. Weights are float while this runs, so BatchNorm and the activations never see the
coded weights until the end, which costs accuracy where bits are few. So this relaxed phase takes at
most a first share of the training, with rho rising, and none by default; in the rest the network
computes with coded weights, gradients pass straight through the rounding, and the scales, which
begin as those of the projection, are learned one per filter together with the activations' ranges.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from camsdk.compress.codes import CodedTensor
from camsdk.compress.options import (
    CodeSet,
    Filter,
    LayerOptions,
    PruneOptions,
    QuantizeOptions,
    WeightOptions,
)
from camsdk.compress.training.filter_search import weight_uses
from camsdk.compress.training.importance import saved_tensor
from camsdk.compress.training.joints import Joints
from camsdk.compress.training.method import Range, State
from camsdk.compress.training.projection import project_scale, project_weight
from camsdk.compress.training.pruning import MaskSchedule
from camsdk.compress.training.quantizers import InputQuantizer, WeightQuantizer
from camsdk.compress.training.twin import TwinModule
from camsdk.errors import InvalidInput

_EDGE_BITS: Final = 8
_SAMPLE: Final = 65_536
"""Values per layer that the first range of its input is found from."""
_KINDS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class AdmmOptions:
    """How the relaxed phase runs.

    Attributes:
        relaxed: Share of the training that is ADMM on float weights; 1.0 is the paper's method.
            None by default: at one epoch of ResNet-20 a share of 0.15 lost accuracy, most so at
            2 bits.
        first_rho, last_rho: Weight of the augmented term per weight, rising geometrically.
        has_extra_gradient: Whether the relaxed phase takes each gradient twice (section 3.1).
    """

    relaxed: float = 0.0
    first_rho: float = 1e-3
    last_rho: float = 1e-1
    has_extra_gradient: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.relaxed <= 1:
            raise InvalidInput(f"a relaxed share of {self.relaxed}", "give 0 to 1")
        if not 0 < self.first_rho <= self.last_rho:
            raise InvalidInput("rho must be above 0 and must not fall")


def with_edges_at_8_bits(options: QuantizeOptions, layer_names: Sequence[str]) -> QuantizeOptions:
    """The first and the last layer on 8 bits, unless ``options.layers`` names them.

    They hold few of the weights and most of the damage; every peer leaves them at 8 bits.

    Args:
        layer_names: In the order of execution.
    """
    edges = {layer_names[0], layer_names[-1]} - set(options.layers) if layer_names else set()
    weights = WeightOptions(CodeSet(_EDGE_BITS), options.weights.granularity)
    edge = LayerOptions(weights, replace(options.activations, bit_width=_EDGE_BITS))
    return replace(options, layers={**options.layers, **dict.fromkeys(sorted(edges), edge)})


@dataclass
class _Coded:
    """One layer that is being quantized; target and dual only in the relaxed phase."""

    module: nn.Module
    weight: nn.Parameter
    quantizer: WeightQuantizer | None
    target: Tensor
    dual: Tensor


class AdmmMethod:
    """Quantization, or quantization and pruning in one schedule: a ``Method`` of the trainer.

    Args:
        quantize: Codes of weights and activations by layer (qualified module name).
        prune: What becomes zero on the way; whole filters are to be removed beforehand.
        admm: Of the relaxed phase.
        layer_sparsity: By layer, in place of the one for all; the others stay dense.
    """

    def __init__(
        self,
        quantize: QuantizeOptions,
        prune: PruneOptions | None = None,
        admm: AdmmOptions = AdmmOptions(),
        *,
        layer_sparsity: Mapping[str, float] | None = None,
    ) -> None:
        if prune is not None and isinstance(prune.granularity, Filter):
            raise InvalidInput(
                "whole filters cannot go while their weights are quantized",
                "prune filters first, then quantize what is left",
            )
        self._options = quantize
        self._admm = admm
        self._schedule = (
            None if prune is None else MaskSchedule(prune, layer_sparsity=layer_sparsity)
        )
        self._layers: dict[str, _Coded] = {}
        self._coded: dict[str, CodedTensor] = {}
        self._progress = 0.0

    @property
    def extra_gradient(self) -> bool:
        """In the relaxed phase, if the options ask for it."""
        return self._admm.has_extra_gradient and self._is_relaxed

    @property
    def rho(self) -> float:
        """Weight of the augmented term now."""
        admm = self._admm
        done = min(1.0, self._progress / admm.relaxed) if admm.relaxed else 1.0
        return float(admm.first_rho * (admm.last_rho / admm.first_rho) ** done)

    @property
    def _is_relaxed(self) -> bool:
        return self._progress < self._admm.relaxed

    def attach(self, module: nn.Module, example: Tensor) -> None:
        """Quantize all convolutions and linear layers, warm-started from their projection.

        Raises:
            InvalidInput: There are none, or ``quantize.layers`` names one that is not there.
        """
        inputs = _record_inputs(module, example)
        options = with_edges_at_8_bits(self._options, tuple(inputs))
        unknown = set(options.layers) - set(inputs)
        if unknown or not inputs:
            raise InvalidInput(
                f"no such layers in the network: {', '.join(sorted(unknown)) or 'none at all'}",
                f"those that can be quantized are {', '.join(inputs) or 'convolutions and linear'}",
            )
        uses = None if self._schedule is None else weight_uses(module, example)
        joints = Joints(module, example) if isinstance(module, TwinModule) else None
        for name, sample in inputs.items():
            layer = module.get_submodule(name)
            self._layers[name] = _install(layer, options.of(name), sample)
        if joints is not None:
            joints.install()
        if self._schedule is not None:
            weights = {name: layer.weight for name, layer in self._layers.items()}
            self._schedule.attach(weights, uses)
        self._relax(self._is_relaxed)

    def penalty(self) -> Tensor | None:
        """rho / 2 ||W - G + u||^2 (eq. 8) in the relaxed phase."""
        if not self._is_relaxed:
            return None
        terms = [
            (layer.weight - layer.target + layer.dual).square().sum()
            for layer in self._layers.values()
            if layer.quantizer is not None
        ]
        return 0.5 * self.rho * torch.stack(terms).sum() if terms else None

    def after_backward(self, progress: float) -> None:
        """Judge weights by their gradients, then hide those of pruned weights."""
        if self._schedule is None:
            return
        self._schedule.after_backward(progress)
        for name, mask in self._schedule.current.items():
            gradient = self._layers[name].weight.grad
            if gradient is not None:
                gradient.mul_(mask)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Masks; then the projection and the dual (eq. 9, 10), or the end of the relaxed phase."""
        was_relaxed = self._is_relaxed
        self._progress = progress
        self._prune(progress)
        for layer in self._layers.values():
            for quantizer in _input_quantizers(layer.module):
                quantizer.keep_valid()
            if layer.quantizer is None:
                continue
            layer.quantizer.keep_valid()
            if was_relaxed:
                _project(layer)
        if was_relaxed and not self._is_relaxed:
            self._relax(is_relaxed=False)

    @torch.no_grad()
    def finish(self) -> None:
        """Coded weights take the place of the float ones, ranges that of the learned ones."""
        if self._schedule is not None:
            self._prune(1.0)
        if self._is_relaxed or self._admm.relaxed == 1.0:
            # Nothing has trained on coded weights: G is the paper's result, not the nearest to W.
            self._progress = 1.0
            for layer in self._layers.values():
                if layer.quantizer is not None:
                    layer.weight.copy_(layer.target)
                    layer.dual.zero_()
            self._relax(is_relaxed=False)
        for name, layer in self._layers.items():
            for quantizer in _input_quantizers(layer.module):
                quantizer.settle()
            if layer.quantizer is not None:
                self._coded[name] = _export(layer)
                parametrize.remove_parametrizations(layer.module, "weight")

    def coded_weights(self) -> Mapping[str, CodedTensor]:
        """After ``finish``: exactly what the module computes with."""
        return self._coded

    def activation_ranges(self) -> Mapping[str, Range]:
        """After ``finish``: exactly what the layers read."""
        return {
            name: quantizer.range()
            for name, layer in self._layers.items()
            for quantizer in _input_quantizers(layer.module)
        }

    def state_dict(self) -> State:
        """Progress, targets, duals and masks."""
        state: State = {"progress": self._progress}
        for name, layer in self._layers.items():
            if self._is_relaxed:
                state[f"target/{name}"] = layer.target.clone()
                state[f"dual/{name}"] = layer.dual.clone()
        if self._schedule is not None:
            state |= {f"prune/{key}": v for key, v in self._schedule.state_dict().items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        """Continue, after ``attach``. Raises InvalidInput if the state is of another network."""
        self._progress = float(state["progress"])
        for name, layer in self._layers.items():
            if self._is_relaxed:
                layer.target = saved_tensor(state, f"target/{name}", layer.target)
                layer.dual = saved_tensor(state, f"dual/{name}", layer.dual)
            elif layer.quantizer is not None:
                layer.quantizer.is_relaxed = False
        if self._schedule is None:
            return
        self._schedule.load_state_dict(
            {k.removeprefix("prune/"): v for k, v in state.items() if k.startswith("prune/")}
        )
        for name, mask in self._schedule.current.items():
            quantizer = self._layers[name].quantizer
            if quantizer is not None:
                quantizer.mask.copy_(mask)

    @torch.no_grad()
    def _relax(self, is_relaxed: bool) -> None:
        """Begin or end the relaxed phase; it ends on the scales of the projection of W + u."""
        for layer in self._layers.values():
            if layer.quantizer is None:
                continue
            layer.quantizer.is_relaxed = is_relaxed
            layer.quantizer.fit(layer.weight + layer.dual)
            if is_relaxed:
                _project(layer, is_first=True)

    @torch.no_grad()
    def _prune(self, progress: float) -> None:
        if self._schedule is None:
            return
        # Momentum has moved pruned weights off zero; they are not to be judged by that.
        for name, mask in self._schedule.current.items():
            self._layers[name].weight.masked_fill_(~mask, 0.0)
        for name, mask in self._schedule.masks(progress).items():
            layer = self._layers[name]
            layer.weight.masked_fill_(~mask, 0.0)
            layer.dual.masked_fill_(~mask, 0.0)
            if layer.quantizer is not None:
                layer.quantizer.prune(layer.weight, mask)


@torch.no_grad()
def _project(layer: _Coded, *, is_first: bool = False) -> None:
    """G = projection of W + u (eq. 9 and 11 to 13), u += W - G (eq. 10)."""
    quantizer = cast(WeightQuantizer, layer.quantizer)
    options = quantizer.options
    shifted = layer.weight + layer.dual
    start = None if is_first else quantizer.scale
    scale = project_scale(shifted, options.code_set, options.granularity, quantizer.mask, start)
    quantizer.scale.copy_(scale)
    layer.target = project_weight(shifted, scale, options.code_set, quantizer.mask)
    if not is_first:
        layer.dual += layer.weight - layer.target


def _install(layer: nn.Module, options: LayerOptions, sample: Tensor) -> _Coded:
    weight = cast(nn.Parameter, layer.weight)
    quantizer = None
    if options.weights is not None:
        if not torch.isfinite(weight).all():
            raise InvalidInput("there are weights that are no finite numbers", "retrain the model")
        quantizer = WeightQuantizer(weight, options.weights)
        parametrize.register_parametrization(layer, "weight", quantizer)
        weight = cast(Any, layer).parametrizations.weight.original
    if options.activations is not None:
        layer.input_quantizer = InputQuantizer(sample, options.activations.bit_width)
        layer.register_forward_pre_hook(_quantize_input)
    zeros = torch.zeros_like(weight)
    return _Coded(layer, weight, quantizer, zeros, zeros.clone())


def _quantize_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    quantizer = cast(InputQuantizer, layer.input_quantizer)
    return (quantizer(inputs[0]), *inputs[1:])


def _input_quantizers(layer: nn.Module) -> Iterator[InputQuantizer]:
    if isinstance(getattr(layer, "input_quantizer", None), InputQuantizer):
        yield cast(InputQuantizer, layer.input_quantizer)


@torch.no_grad()
def _record_inputs(module: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """A sample of what enters each layer, in the order of execution, in evaluation mode."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, child in module.named_modules():
        if isinstance(child, _KINDS):

            def record(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                values = inputs[0].detach().reshape(-1)
                stride = max(1, len(values) // _SAMPLE)
                # Extremes decide whether a range begins at 0; a stride must not lose them.
                ends = torch.stack([values.min(), values.max()])
                found.setdefault(name, torch.cat([values[::stride], ends]))

            handles.append(child.register_forward_pre_hook(record))
    was_training = module.training
    module.eval()
    try:
        module(example)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return found


def _export(layer: _Coded) -> CodedTensor:
    quantizer = cast(WeightQuantizer, layer.quantizer)
    return CodedTensor(
        quantizer.codes(layer.weight).cpu().numpy(),
        quantizer.scale.detach().cpu().numpy().copy(),
        quantizer.options.code_set,
    )
