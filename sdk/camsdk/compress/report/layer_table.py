"""The part of the page that tells of layers."""

import html
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Final

from camsdk.compress.report import drawing
from camsdk.compress.report.facts import LayerFacts, RunFacts

_SHOWN_HISTOGRAMS: Final = 6
_FLOAT_BITS: Final = 32
_MOST_BITS: Final = 8
_PROBES: Final = {"noise": "noise to signal", "sensitivity": "sensitivity"}


def layers(facts: RunFacts) -> str:
    """A line with its name and one with its figures, with bars that compare it with the others."""
    if not facts.layers:
        return ""
    largest = {
        "macs": max(layer.macs for layer in facts.layers),
        "noise": max(layer.noise_to_signal or 0.0 for layer in facts.layers),
        "sensitivity": max(layer.sensitivity or 0.0 for layer in facts.layers),
    }
    rows = "".join(_row(layer, largest, _shared(facts.layers)) for layer in facts.layers)
    columns = ["bits: weights, inputs", "zeros", "million MACs, share left"]
    columns += [title for key, title in _PROBES.items() if largest[key]]
    titles = "".join(f"<th>{name}</th>" for name in columns)
    return (
        f'<section><h2>Layers</h2><table class="layers"><thead><tr>{titles}</tr></thead>{rows}'
        f'</table><p class="soft">{_explained(facts, largest)}</p></section>'
    )


def _row(layer: LayerFacts, largest: Mapping[str, float], shared: str) -> str:
    left = layer.nonzero_macs / max(1, layer.macs)
    bits = layer.bit_width or _FLOAT_BITS
    shape = "x".join(map(str, layer.shape))
    cells = [
        f"{_width(layer.bit_width)}, {_width(layer.activation_bits)}"
        f"{drawing.bar(bits / _MOST_BITS)}",
        f"{layer.sparsity:.1%}{drawing.bar(layer.sparsity)}",
        f"{layer.macs / 1e6:.1f}, {left:.0%}{_bar(layer.macs, largest['macs'])}",
    ]
    probes = {"noise": layer.noise_to_signal, "sensitivity": layer.sensitivity}
    cells += [_figure(value, largest[key]) for key, value in probes.items() if largest[key]]
    return (
        f'<tbody><tr><th colspan="{len(cells)}">{_breakable(layer.name, shared)} '
        f"<small>{html.escape(layer.operator)}, {shape}</small></th></tr>"
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr></tbody>"
    )


def _shared(of: Sequence[LayerFacts]) -> str:
    """What all names begin with, up to a separator: not worth the room."""
    if len(of) < 2:
        return ""
    first, last = min(layer.name for layer in of), max(layer.name for layer in of)
    pairs = zip(first, last, strict=False)
    start = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return start[: max(start.rfind("/"), start.rfind(".")) + 1]


def _breakable(name: str, shared: str) -> str:
    """A name that may go on in the next line after a separator."""
    return re.sub("([/._])", r"\1<wbr>", html.escape(name.removeprefix(shared)))


def _explained(facts: RunFacts, largest: Mapping[str, float]) -> str:
    told = []
    if largest["noise"]:
        told.append("Noise to signal: squared error of a layer's output over its square.")
    if largest["sensitivity"]:
        told.append(
            "Sensitivity: squared error of the model's outputs over their squares when the "
            "weights of one layer alone are compressed"
            f"{', on ' + html.escape(facts.probe_inputs) if facts.probe_inputs else ''}."
        )
        told.append(_probed(facts.layers))
    elif facts.unprobed:
        told.append(f"How sensitive layers are is not known: {html.escape(facts.unprobed)}")
    shared = _shared(facts.layers)
    if shared:
        told.append(f"All names begin with {html.escape(shared)}")
    return " ".join(told)


def _width(bits: int | None) -> str:
    return "float" if bits is None else str(bits)


def _bar(value: float, largest: float) -> str:
    return drawing.bar(value / largest if largest > 0 else 0.0)


def _figure(value: float | None, largest: float) -> str:
    return "" if value is None else f"{value:.1e}{_bar(value, largest)}"


def _probed(of: Sequence[LayerFacts]) -> str:
    coded = [layer for layer in of if layer.bit_width is not None]
    probed = sum(layer.sensitivity is not None for layer in coded)
    if probed == len(coded):
        return ""
    return f"{probed} of {len(coded)} compressed layers were measured in the time given to it."


def histograms(of: Sequence[LayerFacts]) -> str:
    """Weights and codes of the layers that matter most."""
    shared = _shared(of)
    chosen = sorted((layer for layer in of if layer.bit_width is not None), key=_weight_of)
    figures = "".join(_histograms(layer, shared) for layer in chosen[:_SHOWN_HISTOGRAMS])
    if not figures:
        return ""
    return (
        "<section><h2>Weights and their codes</h2>"
        f'<div class="grid">{figures}</div><p class="soft">Of the most sensitive layers; heights '
        "are square roots of counts, so that rare values show. Codes are the integers before "
        "they are multiplied with their filter's scale.</p></section>"
    )


def _weight_of(layer: LayerFacts) -> tuple[float, float, float]:
    """The most sensitive first; where that is not known, by noise, then by the weights' error."""
    return -(layer.sensitivity or 0.0), -(layer.noise_to_signal or 0.0), -layer.weight_error


def _histograms(layer: LayerFacts, shared: str) -> str:
    return (
        f'<div><h3>{_breakable(layer.name, shared)}</h3><div class="pair">'
        f"<figure>{drawing.bins(layer.weights)}<figcaption>weights</figcaption></figure>"
        f"<figure>{drawing.bins(layer.codes, is_after=True)}<figcaption>codes, "
        f"{_width(layer.bit_width)} bits</figcaption></figure></div></div>"
    )
