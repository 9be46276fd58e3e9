"""Rounding between the layers of a twin, so that it trains as integer kernels will compute.

Which tensors, ``placement`` says. Their ranges begin as those of least squared error and are
learned like all others.
"""

from torch import Tensor, nn

from camsdk.compress.graph import folding as graph_folding
from camsdk.compress.training.method import Range
from camsdk.compress.training.placement import JOINT_BITS, place
from camsdk.compress.training.quantizers import InputQuantizer, sample_of
from camsdk.compress.training.twin import TwinModule


class Joint(InputQuantizer):
    """An 8-bit quantizer that keeps itself valid: no method knows of it."""

    def forward(self, x: Tensor) -> Tensor:
        """The nearest multiples of the step within the range."""
        self.keep_valid()
        return super().forward(x)


class Joints:
    """Looks at the float twin first; installs when the inputs of layers have their quantizers.

    Args:
        module: In float.
        example: A batch of its inputs.
    """

    def __init__(self, module: TwinModule, example: Tensor) -> None:
        self._module = module
        self._samples: dict[str, Tensor] = {}
        was_training = module.training
        module.eval()
        module.watch(self._keep, example)
        module.train(was_training)

    def install(self) -> None:
        """Round between layers, if any layer has an ``input_quantizer``.

        A layer at 8 bits that reads a joint loses its own quantizer; layers that read the same
        tensor alone get one together.
        """
        module_of = self._module.module_of
        layers = {node: self._module.get_submodule(name) for node, name in module_of.items()}
        own = {node: held for node, layer in layers.items() if (held := _quantizer_of(layer))}
        if not own:
            return
        placed = place(
            graph_folding.fold(self._module.model).model,
            {node: quantizer.bit_width for node, quantizer in own.items()},
        )
        for node in placed.covered:
            layers[node].input_quantizer = nn.Identity()
        for first, *others in placed.shared:
            for node in others:
                layers[node].input_quantizer = layers[first].input_quantizer
        joints = {
            name: Joint(self._samples[name], JOINT_BITS)
            for name in placed.joints
            if name in self._samples
        }
        of = {**{name: name for name in placed.joints}, **placed.repeated}
        of = {name: joint for name, joint in of.items() if joint in joints}
        self._module.round_with(joints, of)

    def _keep(self, name: str, value: Tensor) -> None:
        self._samples[name] = sample_of(value)


def _quantizer_of(layer: nn.Module) -> InputQuantizer | None:
    held = getattr(layer, "input_quantizer", None)
    return held if isinstance(held, InputQuantizer) else None


def joint_ranges(module: TwinModule) -> dict[str, Range]:
    """Of every tensor that a twin rounds between its layers, by name; each begins at a step."""
    for quantizer in module.rounded_by.values():
        if isinstance(quantizer, Joint):
            quantizer.settle()
    return {
        name: quantizer.range()
        for name, quantizer in module.rounded_by.items()
        if isinstance(quantizer, Joint)
    }
