"""What a compressed artifact says of how it was made: all options as text."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Final

from camsdk.artifact.manifest import Lineage
from camsdk.compress.options import (
    Block,
    CompressOptions,
    Element,
    Filter,
    LayerOptions,
    NOfM,
    PruneGranularity,
    QuantizeOptions,
)
from camsdk.compress.packaging import TOOL_VERSION, Draft

TOOL: Final = "camsdk.compress"
_LONGEST: Final = 1024
"""Of one option's text in a manifest."""


def lineage(
    source: Draft,
    options: CompressOptions,
    layer_sparsity: Mapping[str, float] | None,
    facts: Mapping[str, str],
    calibration_sha256: str | None,
) -> Lineage:
    """The lineage of what was made from a float artifact.

    Args:
        options: As they were carried out (``candidates.carried_out``): with a budget, those that
            were found.
        layer_sparsity: By layer name, where each had its own.
        facts: What else is to be told, or told otherwise.
        calibration_sha256: Of the inputs, None where they were made up.
    """
    told = {} if options.quantize is None else _quantization(options.quantize)
    told |= facts
    if layer_sparsity:
        rows = (f"{layer}={share:.4g}" for layer, share in sorted(layer_sparsity.items()))
        told |= _in_parts("layer_sparsity", rows)
    if options.prune is not None:
        prune = options.prune
        told |= {"sparsity": f"{prune.sparsity:.4g}", "granularity": name_of(prune.granularity)}
        if options.train is not None and isinstance(prune.granularity, Filter):
            told |= {
                "importance": prune.importance,
                "pruned_between": f"{prune.begin:.4g} and {prune.end:.4g}",
                "regrowth": f"{prune.regrow:.4g}",
            }
    for part, of in (("train", options.train), ("distill", options.distill)):
        if of is not None:
            values = ((field.name, getattr(of, field.name)) for field in fields(of))
            told |= {f"{part}_{name}": _number(value) for name, value in values}
    if options.budget is not None:
        budget = options.budget
        told |= {f"max_{budget.kind}": f"{budget.limit:.10g}"}
        told |= {"budget_device": budget.device} if budget.device else {}
    return Lineage(
        source=source.manifest.reference,
        source_sha256=hashlib.sha256(source.model).hexdigest(),
        tool=TOOL,
        tool_version=TOOL_VERSION,
        options=told,
        calibration_sha256=calibration_sha256,
    )


def name_of(granularity: PruneGranularity) -> str:
    """``element``, ``2:4``, ``4x1`` or ``filter``."""
    match granularity:
        case Element():
            return "element"
        case NOfM(n, m):
            return f"{n}:{m}"
        case Block(filters, inputs):
            return f"{filters}x{inputs}"
        case Filter():
            return "filter"


def _quantization(options: QuantizeOptions) -> dict[str, str]:
    weights, activations = options.weights, options.activations
    return {
        "weight_bits": str(weights.code_set.bit_width),
        "weight_codes": weights.code_set.spacing,
        "weight_scale_per": weights.granularity,
        "activation_bits": str(activations.bit_width),
        "activation_range": activations.range_rule,
        "rounding": options.rounding,
        "equalize": str(options.equalize).lower(),
        "correct_bias": str(options.correct_bias).lower(),
        **_in_parts(
            "layers", (f"{name}={_told(of)}" for name, of in sorted(options.layers.items()))
        ),
    }


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.10g}"


def _told(of: LayerOptions) -> str:
    weights = "float" if of.weights is None else f"w{of.weights.code_set.bit_width}"
    return weights + ("" if of.activations is None else f"a{of.activations.bit_width}")


def _in_parts(name: str, rows: Iterator[str]) -> dict[str, str]:
    """The rows, comma between them, under the name and, where it gets too long, name_2 and on."""
    parts = [""]
    for row in rows:
        if parts[-1] and len(parts[-1]) + 1 + len(row) > _LONGEST:
            parts.append("")
        parts[-1] += ("," if parts[-1] else "") + row[:_LONGEST]
    return {name if not index else f"{name}_{index + 1}": part for index, part in enumerate(parts)}
