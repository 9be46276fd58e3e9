"""What a compressed network learns from the float one: logits, inner features, a head's outputs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from camsdk.compress.options import DistillOptions
from camsdk.errors import InvalidInput

Outputs = Tensor | Sequence[Tensor]

_SIDES: Final = 4
_FOCUS: Final = 2.0


class Distiller:
    """The terms of ``options`` that are not 0, for a student and its teacher.

    Args:
        options: Weight of each term.
        teacher: The float network; from here on in evaluation mode.
        student: Of the same layers, by name, where features are compared.
        example: Inputs, to find the layers to compare with.
        layers: Names of the layers whose outputs are compared; by default the last convolution of
            each resolution that is not an output.

    Raises:
        InvalidInput: A layer is not in both networks.
    """

    def __init__(
        self,
        options: DistillOptions,
        teacher: nn.Module,
        student: nn.Module,
        example: Tensor,
        layers: Sequence[str] | None = None,
    ) -> None:
        self._options = options
        self._teacher = teacher.eval()
        self._hooks: list[Any] = []
        self._of_teacher: dict[str, Tensor] = {}
        self._of_student: dict[str, Tensor] = {}
        if options.features:
            names = layers if layers is not None else last_of_each_resolution(teacher, example)
            self._watch(teacher, names, self._of_teacher)
            self._watch(student, names, self._of_student)

    def __call__(self, outputs: Outputs, inputs: Tensor) -> Tensor:
        """The weighted sum of all terms, shape ().

        Args:
            outputs: Of the student, for ``inputs``.
            inputs: Of both.
        """
        with torch.no_grad():
            wanted = self._teacher(inputs)
        options, total = self._options, inputs.new_zeros(())
        if options.logits:
            given, target = _single(outputs), _single(wanted)
            total = total + options.logits * logit_loss(given, target, options.temperature)
        if options.features:
            for name, feature in self._of_teacher.items():
                total = total + options.features * attention_loss(self._of_student[name], feature)
        return total

    def close(self) -> None:
        """Stop watching the two networks."""
        for hook in self._hooks:
            hook.remove()

    def _watch(self, module: nn.Module, names: Sequence[str], into: dict[str, Tensor]) -> None:
        modules = dict(module.named_modules())
        for name in names:
            if name not in modules:
                raise InvalidInput(
                    f"features cannot be compared at {name!r}: not a layer of both networks",
                    "name layers that both have, or leave the features out",
                )

            def keep(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                into[name] = output

            self._hooks.append(modules[name].register_forward_hook(keep))


def logit_loss(given: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened classes, times the temperature squared.

    Hinton et al., arXiv:1503.02531, section 2. Classes lie along axis 1; the mean is over the rest,
    so that pixels of a segmentation count like examples.
    """
    soft = functional.log_softmax(given / temperature, 1)
    wanted = functional.log_softmax(target / temperature, 1)
    divergence = functional.kl_div(soft, wanted, log_target=True, reduction="none").sum(1)
    return divergence.mean() * temperature**2


def attention_loss(given: Tensor, target: Tensor) -> Tensor:
    """Squared distance of normalised attention maps, mean over the batch.

    Zagoruyko and Komodakis, arXiv:1612.03928, eq. 2 with p = 2: a map is the sum of squares over
    the channels. The number of channels may differ, the resolution may not. Shapes (n, c, h, w).
    """
    maps = [functional.normalize(x.square().sum(1).flatten(1), dim=1) for x in (given, target)]
    return (maps[0] - maps[1]).square().sum(1).mean()


def imitation_loss(given: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """How a detection head of class logits and distance distributions differs from the teacher's.

    Classes: quality focal loss (Li et al., arXiv:2006.04388, section 3) with the teacher's scores
    as qualities, over all cells. Distances: Kullback-Leibler divergence of each side's
    distribution, weighted by the teacher's highest score in the cell, so only where it sees
    something. Both are divided by the sum of those scores, at least 1.

    Args:
        given, target: Per stride class logits (n, classes, h, w), then distances
            (n, 4 * bins, h, w).
    """
    if len(given) != len(target) or len(given) % 2:
        raise InvalidInput(
            f"a head of {len(given)} outputs cannot imitate one of {len(target)}",
            "both need class logits and distances per stride, in this order",
        )
    classes, sides = given[0].new_zeros(()), given[0].new_zeros(())
    seen = given[0].new_zeros(())
    for level in range(0, len(given), 2):
        quality = target[level].sigmoid()
        cross = functional.binary_cross_entropy_with_logits(given[level], quality, reduction="none")
        focus = (given[level].sigmoid() - quality).abs().pow(_FOCUS)
        classes = classes + (focus * cross).sum()
        weight = quality.amax(1)
        soft, wanted = (
            x[level + 1].reshape(len(weight), _SIDES, -1, *weight.shape[1:]).log_softmax(2)
            for x in (given, target)
        )
        apart = functional.kl_div(soft, wanted, log_target=True, reduction="none").sum((1, 2))
        sides = sides + (weight * apart).sum() / _SIDES
        seen = seen + weight.sum()
    return (classes + sides) / seen.clamp(min=1.0)


def last_of_each_resolution(module: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Names of the last convolution at each resolution above 1 x 1.

    Convolutions that no other follows are left out: what they give is compared as outputs.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    made: dict[Any, str] = {}
    hooks = []
    for name, inner in module.named_modules():
        if isinstance(inner, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):

            def note(of: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                made[output.grad_fn] = name
                if isinstance(of, nn.Conv2d):
                    sizes[name] = tuple(output.shape[2:])

            hooks.append(inner.register_forward_hook(note))
    try:
        with torch.enable_grad():
            outputs = module(example[:1].clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    final = _nearest(outputs, made)
    last = {size: name for name, size in sizes.items() if name not in final}
    return tuple(name for size, name in last.items() if max(size) > 1)


def _nearest(outputs: Outputs, made: Mapping[Any, str]) -> set[str]:
    """Names of the layers between which and the outputs there is no other.

    Args:
        made: By the node of the gradient's graph that stands for the layer's output.
    """
    tensors = [outputs] if isinstance(outputs, Tensor) else outputs
    open_nodes = [tensor.grad_fn for tensor in tensors]
    found, seen = set(), set()
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in made:
            found.add(made[node])
        else:
            open_nodes += [before for before, _ in node.next_functions]
    return found


def _single(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    raise InvalidInput(
        "logits can only be distilled from a network with one output",
        "set logits=0; a detection head is imitated by the task, tasks.Detection",
    )
