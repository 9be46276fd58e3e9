"""The report as one HTML page that needs nothing else: no script, no font, no file beside it."""

import base64
import html
from collections.abc import Iterable, Mapping
from typing import Final

from camsdk.compress.report import drawing
from camsdk.compress.report.facts import LayerFacts, RunFacts, Sample

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #6b7686; --paper: #fff; --rail: #e8ecf1;
  --fill: #7fb4e6; --line: #d9dfe7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #98a4b5; --paper: #14181e;
  --rail: #262d37; --fill: #35628f; --line: #2d3540; } }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .6rem; text-align: left;
  border-bottom: 1px solid var(--line); vertical-align: middle; }
th { color: var(--soft); font-weight: 500; } td.n { text-align: right;
  font-variant-numeric: tabular-nums; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; } .card { border: 1px solid var(--line);
  border-radius: 6px; padding: .6rem 1rem; } .card b { display: block; font-size: 1.3rem; }
.card span, p.soft { color: var(--soft); } .scroll { overflow-x: auto; }
svg text { font-size: 11px; fill: var(--ink); } .rail { fill: var(--rail); }
.fill, .bins rect { fill: var(--fill); }
.curve polyline { fill: none; stroke: var(--fill); stroke-width: 2; }
figure { margin: 0 0 1rem; display: inline-block; } img { max-width: 100%; border-radius: 4px; }
figcaption { color: var(--soft); }
"""


def to_html(facts: RunFacts) -> str:
    """The page, UTF-8."""
    title = f"{facts.source} to {facts.result}"
    sections = (
        f'<div class="cards">{_cards(facts)}</div>',
        _table("Accuracy", facts.accuracy, "{:.4f}", "Without data nothing was compared."),
        _table("CPU time of an inference, one thread, median ms", facts.latency_ms, "{:.2f}", ""),
        _table("Size, bytes", facts.sizes_bytes, "{:,}", ""),
        _training(facts.history),
        _layers(facts.layers),
        _samples(facts.samples),
        _table("Options", facts.options, "{}", ""),
        _table("Duration, seconds", facts.duration_s, "{:.1f}", ""),
        f'<p class="soft">Largest resident size {facts.peak_rss_bytes / 2**20:.0f} MiB.</p>',
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{''.join(sections)}</html>\n"
    )


def _cards(facts: RunFacts) -> str:
    sizes = list(facts.sizes_bytes.values())
    cards = {
        "smaller": f"{max(sizes) / max(1, min(sizes)):.1f} x" if sizes else "-",
        "weights that are zero": f"{facts.sparsity:.1%}",
        "multiply-accumulates left": f"{facts.nonzero_macs / max(1, facts.macs):.1%}",
        **{name: f"{value:.4f}" for name, value in list(facts.accuracy.items())[:3]},
    }
    return "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
        for name, value in cards.items()
    )


def _table(title: str, rows: Mapping[str, object], shape: str, otherwise: str) -> str:
    if not rows:
        return f"<h2>{html.escape(title)}</h2><p>{html.escape(otherwise)}</p>" if otherwise else ""
    lines = "".join(
        f'<tr><th>{html.escape(name)}</th><td class="n">{html.escape(shape.format(value))}</td>'
        for name, value in rows.items()
    )
    return f"<h2>{html.escape(title)}</h2><table>{lines}</table>"


def _training(history: Mapping[str, tuple[float, ...]]) -> str:
    drawn = "".join(
        f"<figure>{drawing.curve(values)}<figcaption>{html.escape(name)}: "
        f"{values[0]:.4g} to {values[-1]:.4g}</figcaption></figure> "
        for name, values in history.items()
        if len(values) > 1
    )
    return f"<h2>Training</h2>{drawn}" if drawn else ""


def _layers(layers: Iterable[LayerFacts]) -> str:
    layers = tuple(layers)
    if not layers:
        return ""
    worst = max(layer.sensitivity or 0.0 for layer in layers) or 1.0
    loudest = max(layer.noise_to_signal or 0.0 for layer in layers) or 1.0
    most = max(layer.macs for layer in layers) or 1
    head = (
        "layer", "operator", "shape", "bits", "input bits", "zero", "MACs (M) and left",
        "weight error", "noise to signal", "sensitivity", "weights", "codes",
    )  # fmt: skip
    rows = "".join(_layer(layer, worst, loudest, most) for layer in layers)
    titles = "".join(f"<th>{name}</th>" for name in head)
    return f'<h2>Layers</h2><div class="scroll"><table><tr>{titles}</tr>{rows}</table></div>'


def _layer(layer: LayerFacts, worst: float, loudest: float, most: int) -> str:
    left = layer.nonzero_macs / max(1, layer.macs)
    cells = (
        html.escape(layer.name),
        html.escape(layer.operator),
        "x".join(map(str, layer.shape)),
        "float" if layer.bit_width is None else str(layer.bit_width),
        "float" if layer.activation_bits is None else str(layer.activation_bits),
        drawing.bar(layer.sparsity, f"{layer.sparsity:.1%}", width_px=80),
        drawing.bar(layer.macs / most, f"{layer.macs / 1e6:.2f}, {left:.0%}"),
        f"{layer.weight_error:.3f}",
        _probed(layer.noise_to_signal, loudest),
        _probed(layer.sensitivity, worst),
        drawing.bins(layer.weights),
        drawing.bins(layer.codes),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _probed(value: float | None, largest: float) -> str:
    return "" if value is None else drawing.bar(value / largest, f"{value:.2e}", width_px=80)


def _samples(samples: Iterable[Sample]) -> str:
    figures = "".join(
        f"<figure>{_image(sample.before, 'before')} {_image(sample.after, 'after')}"
        f"<figcaption>frame {sample.frame}: before, after</figcaption></figure>"
        for sample in samples
    )
    return f"<h2>Detections side by side</h2>{figures}" if figures else ""


def _image(jpeg: bytes, alt: str) -> str:
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
