"""The report as one HTML page that needs nothing else: no script, no font, no file beside it."""

import html
from collections.abc import Mapping, Sequence
from typing import Final

from camsdk.compress.report import drawing, layer_table, measured
from camsdk.compress.report.facts import RunFacts, Sample
from camsdk.compress.report.style import STYLE

_SEVEN: Final = (
    '<p class="soft">Where an x86 processor may be among the devices, 8 bits of weights are 7: '
    "those without VNNI would saturate, and so all processors give the same integers.</p>"
)
_EARLIER: Final = ", without what an earlier attempt had done"
_MEGA: Final = 1e6
_PRUNED_BY: Final = ("sparsity", "layer_sparsity")
"""Options of which one tells that something was pruned: rounding alone makes zeros too."""


def to_html(facts: RunFacts) -> str:
    """The page, UTF-8."""
    title = f"{facts.source} to {facts.result}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style>{_header(facts)}{_cards(facts)}"
        f'<div class="columns">{_accuracy(facts)}{_sizes(facts)}{measured.graph(facts)}'
        f"{measured.latency(facts)}{measured.predicted(facts)}</div>{_samples(facts.samples)}"
        f"{_training(facts.history)}"
        f"{layer_table.layers(facts)}{layer_table.histograms(facts.layers)}"
        f'<div class="columns">{_options(facts)}{_run(facts)}</div></html>\n'
    )


def _header(facts: RunFacts) -> str:
    return (
        f"<header><h1>{html.escape(facts.result)}</h1>"
        f"<p>compressed from {html.escape(facts.source)}</p></header>"
    )


def _cards(facts: RunFacts) -> str:
    """What a reader wants first: how much smaller, how much faster, how near."""
    cards = []
    if len(facts.sizes_bytes) > 1:
        before, after = facts.sizes_bytes["float model"], facts.sizes_bytes["artifact, unsigned"]
        sizes = f"{_megabytes(before)}, the float model, to {_megabytes(after)}, the whole artifact"
        cards.append((f"{before / max(1, after):.1f} x", "smaller", sizes))
    cards += measured.speed_card(facts)
    cards += [(f"{value:.3f}", name, "") for name, value in list(facts.accuracy.items())[:2]]
    if _is_pruned(facts) and facts.options.get("granularity") != "filter":
        left = f"{facts.nonzero_macs / max(1, facts.macs):.0%} of the multiply-accumulates left"
        cards.append((f"{facts.sparsity:.0%}", "of the weights are zero", left))
    drawn = "".join(
        f'<div class="card"><b>{html.escape(figure)}</b><span>{html.escape(what)}</span>'
        f"<small>{html.escape(more)}</small></div>"
        for figure, what, more in cards
    )
    return f'<div class="cards">{drawn}</div>'


def _is_pruned(facts: RunFacts) -> bool:
    asked = (facts.options.get(name, "") for name in _PRUNED_BY)
    return any(value not in ("", "0") for value in asked)


def _accuracy(facts: RunFacts) -> str:
    """On the held-out frames, and on those to choose by, which say nothing of the others."""
    if facts.accuracy:
        counts = (facts.compared or {}).items()
        told = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts)
        note = f'<p class="soft">{told} compared.</p>' if told else ""
        held_out = _figures(facts.accuracy, facts.accuracy_before) + note
    else:
        why = "Without frames to evaluate on nothing was compared."
        if facts.compared is not None:
            why = "The float model found nothing on the held-out frames: nothing was compared."
        held_out = f"<p>{why} The layers below show what compression changed.</p>"
    choice = ""
    if facts.accuracy_of_choice:
        choice = f"<h3>On the frames to choose by</h3>{_figures(facts.accuracy_of_choice, {})}"
    return f"<section><h2>Accuracy</h2>{held_out}{choice}</section>"


def _figures(after: Mapping[str, float], before: Mapping[str, float]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        f'<td class="n">{_figure(before.get(name))}</td>'
        f'<td class="n">{value:.4f}</td></tr>'
        for name, value in after.items()
    )
    head = '<tr><th></th><th class="n">float</th><th class="n">compressed</th></tr>'
    return f"<table><thead>{head}</thead>{rows}</table>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _sizes(facts: RunFacts) -> str:
    largest = max(facts.sizes_bytes.values(), default=1) or 1
    rows = "".join(
        f"<tr><th>{html.escape(name)}{drawing.bar(size / largest)}</th>"
        f'<td class="n" title="{size:,} bytes">{_megabytes(size)}</td></tr>'
        for name, size in facts.sizes_bytes.items()
    )
    zeros = (
        f'<tr><th>weights that are zero</th><td class="n">{facts.sparsity:.0%}</td></tr>'
        "<tr><th>multiply-accumulates with a weight that is not</th>"
        f'<td class="n">{facts.nonzero_macs:,} of {facts.macs:,}</td></tr>'
    )
    why = "" if _is_pruned(facts) else "Nothing was pruned: small weights are rounded to zero. "
    return (
        f"<section><h2>Size</h2><table>{rows}{zeros}</table>"
        f'<p class="soft">{why}Agents do not skip zeros; they make the packed file smaller.</p>'
        "</section>"
    )


def _megabytes(size: int) -> str:
    return f"{size / _MEGA:.2f} MB" if size >= _MEGA / 100 else f"{size:,} bytes"


def _training(history: Mapping[str, tuple[float, ...]]) -> str:
    drawn = "".join(
        f"<figure>{drawing.curve(values)}<figcaption>{html.escape(name)}: "
        f"{values[0]:.4g} to {values[-1]:.4g}</figcaption></figure> "
        for name, values in history.items()
        if len(values) > 1
    )
    if not drawn:
        return ""
    return f'<section><h2>Training</h2><div class="grid">{drawn}</div></section>'


def _samples(samples: Sequence[Sample]) -> str:
    figures = "".join(
        f'<div class="pair pictures"><figure>{drawing.image(sample.before, "float")}'
        f"<figcaption>float, frame {sample.frame}</figcaption></figure>"
        f"<figure>{drawing.image(sample.after, 'compressed')}"
        f"<figcaption>compressed, frame {sample.frame}</figcaption></figure></div>"
        for sample in samples
    )
    legend = {label: name for sample in samples for label, name in sample.legend.items()}
    told = html.escape("; ".join(f"{label}: {name}" for label, name in legend.items()))
    note = f'<p class="soft">{told}</p>' if told else ""
    return f"<section><h2>Side by side</h2>{figures}{note}</section>" if figures else ""


def _options(facts: RunFacts) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{html.escape(value)}</td></tr>"
        for name, value in facts.options.items()
        if value
    )
    if not rows:
        return ""
    why = _SEVEN if facts.options.get("weight_bits") == "7" else ""
    return f"<section><h2>Options</h2><table>{rows}</table>{why}</section>"


def _run(facts: RunFacts) -> str:
    longest = max(facts.duration_s.values(), default=0.0) or 1.0
    rows = "".join(
        f"<tr><th>{html.escape(name)}{_EARLIER * (name in facts.resumed)}"
        f'{drawing.bar(spent / longest)}</th><td class="n">{spent:.1f} s</td></tr>'
        for name, spent in facts.duration_s.items()
    )
    what = f"all{_EARLIER}" if facts.resumed else "all"
    return (
        f"<section><h2>The run</h2><table>{rows}<tr><th>{what}</th>"
        f'<td class="n">{sum(facts.duration_s.values()):.1f} s</td></tr></table>'
        f'<p class="soft">Largest resident size {facts.peak_rss_bytes / 2**20:.0f} MiB.</p>'
        "</section>"
    )
