"""Ours: ``camsdk.compress.training`` in the shared loop, with the float network as its teacher."""

import copy

from torch import Tensor, nn

from camsdk.compress.options import (
    ActivationOptions,
    CodeSet,
    DistillOptions,
    Filter,
    LayerOptions,
    PruneOptions,
    QuantizeOptions,
    WeightOptions,
)
from camsdk.compress.training.admm import AdmmMethod
from camsdk.compress.training.distill import Distiller
from camsdk.compress.training.method import Method
from camsdk.compress.training.pruning import PruneMethod
from peers.recipe import Contender, Row

PRUNED_LOGITS = 2.0
"""Weight of the teacher of a float network with zeros; ``DistillOptions`` has the figures."""


def prepare(module: nn.Module, row: Row, edges: tuple[str, ...], example: Tensor) -> Contender:
    """Quantized, pruned, or both in one schedule."""
    teacher = copy.deepcopy(module)
    method = _method(row, edges)
    method.attach(module, example)
    options = DistillOptions(PRUNED_LOGITS) if row.weight_bits is None else DistillOptions()
    distiller = Distiller(options, teacher, module, example)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        logits = module(images)
        return nn.functional.cross_entropy(logits, labels) + distiller(logits, images)

    return Contender(
        module,
        loss=loss,
        after_backward=method.after_backward,
        after_step=method.after_step,
        finish=method.finish,
    )


def _method(row: Row, edges: tuple[str, ...]) -> Method:
    if row.removed_macs:
        return PruneMethod(PruneOptions(row.removed_macs, Filter(), saves="macs"))
    prune = PruneOptions(row.sparsity, saves=row.saves, dense=edges) if row.sparsity else None
    if row.weight_bits is None:
        assert prune is not None, row
        return PruneMethod(prune)
    inputs = ActivationOptions(row.activation_bits) if row.activation_bits else None
    assert inputs is not None, row
    quantize = QuantizeOptions(
        WeightOptions(CodeSet(row.weight_bits)),
        inputs,
        layers={edge: LayerOptions() for edge in edges},
    )
    return AdmmMethod(quantize, prune)
