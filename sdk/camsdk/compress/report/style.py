"""How the page looks: one style sheet, light and dark, from a phone to a wide screen."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1a222d; --soft: #566273; --paper: #f6f8fa;
  --panel: #ffffff; --rail: #e3e9f0; --fill: #2f7fc4; --after: #1f8a5b; --line: #d6dde5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ecf2; --soft: #a3b0c0; --paper: #11161c;
  --panel: #1a2129; --rail: #2c3642; --fill: #5aa5e6; --after: #4cc38a; --line: #313c49; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
h3 { font-size: .9rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
header p, .soft, figcaption, small { color: var(--soft); } small { font-size: .8rem; }
header p { margin: .2rem 0 1.2rem; overflow-wrap: anywhere; }
.soft { margin: .6rem 0 0; font-size: .87rem; }
section { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem; margin: 1rem 0; }
section > :last-child { margin-bottom: 0; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.columns { columns: 22rem; column-gap: 1rem; margin: 1rem 0; }
.columns > section { margin: 0 0 1rem; break-inside: avoid; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem 1rem; } .card b { display: block; font-size: 1.5rem; line-height: 1.3; }
.card span { display: block; } .card small { display: block; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
tr:last-child > th, tr:last-child > td { border-bottom: 0; }
th { font-weight: 500; } thead th { color: var(--soft); font-size: .82rem; vertical-align: bottom;
  overflow-wrap: normal; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.said { text-align: right; }
.layers { table-layout: fixed; } .layers tbody th { border: 0; padding-bottom: 0; }
.layers td { padding-top: 0; }
.layers tbody td { border-bottom: 1px solid var(--line); }
.bar { display: block; height: 6px; margin-top: .15rem; border-radius: 3px;
  background: var(--rail); }
.bar i { display: block; height: 100%; border-radius: 3px; background: var(--fill); }
.bar.after i { background: var(--after); }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); }
.bins rect { fill: var(--fill); } .bins.after rect { fill: var(--after); }
.bins line { stroke: var(--line); }
.curve polyline { fill: none; stroke: var(--fill); stroke-width: 2; }
figure { margin: 0; min-width: 0; } img { width: 100%; height: auto; display: block;
  border-radius: 6px; }
.pair { display: grid; gap: .6rem; grid-template-columns: 1fr 1fr; margin-bottom: 1rem; }
@media (max-width: 36rem) { body { padding: 1rem .6rem 2rem; } section { padding: .8rem; }
  .pair.pictures { grid-template-columns: 1fr; }
  .layers { font-size: .8rem; } .layers thead th { font-size: .7rem; } }
@media print { body { max-width: none; } section { break-inside: avoid; } }
"""
