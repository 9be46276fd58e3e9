"""The parts of the page that tell what engines took and what became of the graph."""

import html
from typing import Final

from camsdk.compress.engines import NOT_INSTALLED, Timing
from camsdk.compress.graph.optimise import Cost
from camsdk.compress.report import drawing
from camsdk.compress.report.facts import RunFacts
from camsdk.compress.report.probes import COMPRESSED, FLOAT

_OWN_ENGINE: Final = "onnxruntime"
"""What agents run models in."""

_NOTE_ON_MNN: Final = " MNN keeps the bits of weights in its file and computes in float."

Card = tuple[str, str, str]


def speed_card(facts: RunFacts) -> list[Card]:
    """How much faster, in the engine of the agents; nothing where it was not measured."""
    before, after = (_median(facts, _OWN_ENGINE, variant) for variant in (FLOAT, COMPRESSED))
    if before is None or after is None:
        return []
    return [
        (
            f"{before / after:.1f} x",
            "faster" if after <= before else "as fast",
            f"{before:.1f} to {after:.1f} ms CPU in {_OWN_ENGINE}",
        )
    ]


def latency(facts: RunFacts) -> str:
    """A row an engine: medians of both models."""
    if not facts.latency:
        return ""
    slowest = max((timing.median_ms or 0.0 for timing in facts.latency), default=0.0) or 1.0
    absent = list(
        dict.fromkeys(timing.engine for timing in facts.latency if timing.reason == NOT_INSTALLED)
    )
    here = [timing for timing in facts.latency if timing.engine not in absent]
    rows = "".join(_timing(timing, slowest) for timing in here)
    missing = f" Not installed: {', '.join(absent)}." if absent else ""
    head = '<tr><th>engine</th><th class="n">median ms</th><th class="n">runs</th></tr>'
    return (
        f"<section><h2>CPU time of an inference</h2><table><thead>{head}</thead>{rows}</table>"
        '<p class="soft">Measured here on one thread, all models in turn; in brackets the '
        f"quartiles.{_NOTE_ON_MNN if any(of.engine == 'MNN' for of in here) else ''}{missing}</p>"
        "</section>"
    )


def _timing(timing: Timing, slowest: float) -> str:
    name = html.escape(f"{timing.engine} {timing.version}".strip())
    what = html.escape(timing.variant)
    if timing.median_ms is None:
        return (
            f'<tr><th>{name}, {what}</th><td class="said" colspan="2">'
            f"<small>{html.escape(timing.reason)}</small></td></tr>"
        )
    is_after = timing.variant == COMPRESSED
    bar = drawing.bar(timing.median_ms / slowest, is_after=is_after)
    return (
        f'<tr><th>{name}, {what}{bar}</th><td class="n">{timing.median_ms:.2f}<br>'
        f"<small>[{timing.low_ms:.2f}, {timing.high_ms:.2f}]</small></td>"
        f'<td class="n">{timing.runs}</td></tr>'
    )


def _median(facts: RunFacts, engine: str, variant: str) -> float | None:
    found = [
        timing.median_ms
        for timing in facts.latency
        if timing.engine == engine and timing.variant == variant
    ]
    return found[0] if found else None


def predicted(facts: RunFacts) -> str:
    """Times that nobody measured, in a part of their own."""
    if not facts.predicted_ms:
        return ""
    rows = "".join(
        f'<tr><th>{html.escape(name)}</th><td class="n">{value:.2f}</td></tr>'
        for name, value in facts.predicted_ms.items()
    )
    return (
        f"<section><h2>Predicted milliseconds</h2><table>{rows}</table>"
        '<p class="soft">Sums over layers from a profile of the device, not measured.</p></section>'
    )


def graph(facts: RunFacts) -> str:
    """Nodes, multiply-accumulates and bytes before and after it was rewritten."""
    if facts.optimised is None:
        return ""
    before, after = facts.optimised.before, facts.optimised.after
    rows = "".join(
        f'<tr><th>{name}</th><td class="n">{old}</td><td class="n">{new}</td></tr>'
        for name, old, new in (
            ("nodes", f"{before.nodes:,}", f"{after.nodes:,}"),
            ("multiply-accumulates", _millions(before), _millions(after)),
            ("bytes", f"{before.size_bytes:,}", f"{after.size_bytes:,}"),
        )
    )
    checked = facts.optimised.equivalence
    same = "all outputs are the same, bit for bit"
    if checked.worst:
        same = f"no output differs by more than {checked.worst:.1e} of its largest value"
    head = '<tr><th></th><th class="n">before</th><th class="n">after</th></tr>'
    return (
        f"<section><h2>Rewritten graph</h2><table><thead>{head}</thead>{rows}</table>"
        f'<p class="soft">Still in float. On {checked.inputs} inputs {same}.</p></section>'
    )


def _millions(cost: Cost) -> str:
    return f"{cost.macs.total / 1e6:,.1f} M"
