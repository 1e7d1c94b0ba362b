"""The style sheet of the page, inlined so that the page is one file.

Colours are variables, defined once for light and once for dark. Text has a contrast of at least 4.5 to 1 against what
it stands on, lines and markers 3 to 1. ``--c0`` to ``--c4`` were searched for the largest smallest distance in CIELAB
under normal and under red-, green- and blue-blind vision (Machado et al. 2009); ``--c0`` is the warm one and belongs to
the first easy family. ``COLOURS`` and ``DRAWING`` are what a chart needs that stands alone.
"""

from __future__ import annotations

__all__ = ["COLOURS", "DRAWING", "STYLE"]

COLOURS = """
:root {
  --bg: #fdfdfc; --ink: #1d2126; --soft: #5c636b; --rule: #e2e4e6; --panel: #f5f5f3;
  --c0: #da6e0e; --c1: #075dd4; --c2: #b17ebd; --c3: #2fa473; --c4: #37340a; --c5: #7b828a;
  --good: #00694f; --bad: #a82a1e; --policy: #1f66a8; --interp: #b84a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #15181b; --ink: #e6e8ea; --soft: #a0a7af; --rule: #2e343a; --panel: #1c2024;
    --c0: #e9744c; --c1: #1181fc; --c2: #a585b6; --c3: #a3f3cb; --c4: #ffee43; --c5: #8d949c;
    --good: #4fc9a8; --bad: #f58a7d; --policy: #6db3f2; --interp: #f2914d;
  }
}
"""

_PAGE = """* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1120px; margin: 0 auto; padding: 56px 24px 96px; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 16px; max-width: 26em; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; margin: 0 0 12px; }
h3 { font-size: 1.05rem; margin: 40px 0 4px; }
h4 { font-size: .9rem; margin: 0 0 8px; }
section, footer { margin-top: 72px; }
.lead { font-size: 1.1rem; max-width: 44em; margin: 0 0 12px; }
.about { color: var(--soft); max-width: 46em; margin: 0 0 20px; }
.note {
  margin: 12px 0; padding: 8px 14px; border-left: 3px solid var(--c0); background: var(--panel); max-width: 46em;
}
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 16px 24px; margin: 32px 0 0; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--panel); padding: 16px 20px; border-radius: 6px; overflow-x: auto; }
code, .tokens { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
code { font-size: .88rem; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: 10px 14px 10px 0; font-weight: 400; }
thead th { color: var(--soft); font-size: .8rem; padding-bottom: 4px; vertical-align: bottom; }
thead tr:first-child th { color: var(--ink); font-weight: 600; padding-bottom: 0; }
thead tr:first-child th[rowspan] { padding-bottom: 4px; }
tbody tr { border-top: 1px solid var(--rule); }
tbody th { font-weight: 600; min-width: 9rem; }
th small { display: block; color: var(--soft); font-weight: 400; font-size: .78rem; }
td { white-space: nowrap; min-width: 7.4rem; }
td span.mean { font-weight: 600; display: inline-block; min-width: 3.75em; text-align: right; }
.interval { color: var(--soft); font-size: .8rem; margin-left: .6em; }
.none { color: var(--soft); }
.families tbody th + th, .families tr:not(.first) th[scope=row] { font-weight: 400; }
.families tbody tr:not(.first) { border-top-color: transparent; }
.families th, .families td { padding-top: 5px; padding-bottom: 5px; }
.families .first > * { padding-top: 12px; }
.strip { display: block; width: 7.8rem; height: 8px; margin-top: 3px; }
.strip line { vector-effect: non-scaling-stroke; }
.strip .rail { stroke: var(--rule); stroke-width: 1; }
.strip .range { stroke: var(--c5); stroke-width: 3; opacity: .45; }
.strip .mean { stroke: var(--ink); stroke-width: 1.6; }

.grid { display: grid; gap: 32px 40px; margin-top: 24px; }
.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.wide figure { max-width: 560px; }
.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); }
figure { margin: 0; }
figcaption { font-size: .85rem; line-height: 1.4; margin-bottom: 10px; }
figcaption strong { display: block; font-size: .95rem; }
figcaption span { color: var(--soft); }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
"""

DRAWING = """svg text { font-size: 11.5px; fill: var(--soft); }
svg .label, svg .name, svg .value { font-size: 12px; fill: var(--ink); }
svg .value { font-weight: 600; }
.rule { stroke: var(--rule); stroke-width: 1; }
.bound { stroke: var(--bad); stroke-width: 1.2; stroke-dasharray: 4 3; }
.band { fill: var(--ink); fill-opacity: 0; }
.band:hover { fill-opacity: .07; }
.line { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.thin { stroke-width: 1; opacity: .34; }
.thin.solo { stroke-width: 1.5; opacity: 1; }
.strong { stroke-width: 2.2; }
.line { stroke: var(--c); }
.dot { fill: var(--c); stroke: none; }
.mark { fill: var(--c); stroke: var(--bg); stroke-width: 1.2; }
.mark:hover { stroke: var(--ink); }
.solo { --c: var(--c1); }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
.k0 { --c: var(--c0); } .k1 { --c: var(--c1); }
.bar { fill: var(--c); fill-opacity: .72; }
.whisker { stroke: var(--ink); stroke-width: 1.3; fill: none; }
"""

_REST = """
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: 6px 24px; margin: 8px 0; padding: 0; font-size: .85rem;
}
.key {
  display: inline-block; width: 1.1em; height: 1em; margin-right: .5em; vertical-align: -.12em;
  background: var(--c); opacity: .72;
}
.legend .t { padding: 1px 6px; }
.shades { display: none; }
#shade { accent-color: var(--c1); margin: 0 8px 0 0; vertical-align: -1px; }
#shade:checked ~ .shades { display: flex; }

.case { border-top: 1px solid var(--rule); margin-top: 36px; padding-top: 20px; }
.case h3 { margin-top: 0; overflow-wrap: anywhere; }
.columns { display: grid; gap: 24px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
.columns section { margin: 0; min-width: 0; }
.badges { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 10px; }
.badge {
  font-size: .76rem; line-height: 1.5; padding: 0 .55em; border: 1px solid var(--rule); border-radius: 4px;
  color: var(--soft); overflow-wrap: anywhere;
}
.about .badge { margin-right: .4em; }
.badge.good { color: var(--good); border-color: currentColor; }
.badge.bad { color: var(--bad); border-color: currentColor; }
.tokens {
  font-size: .84rem; line-height: 1.75; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4;
  background: var(--panel); border-radius: 6px; padding: 14px 16px; max-height: 32rem; overflow: auto;
}
.t { border-radius: 2px; --shade: 11%; }
.t:nth-child(even) { --shade: 18%; }
.prompt { color: var(--soft); }
.policy { background: color-mix(in srgb, var(--policy) var(--shade), transparent); }
.interpreter {
  background: color-mix(in srgb, var(--interp) var(--shade), transparent);
  text-decoration: underline dotted var(--interp); text-underline-offset: 3px;
}
.tokens .t:hover { outline: 1.5px solid var(--ink); }
.nl::before { content: "↵"; color: var(--soft); opacity: .75; font-style: normal; text-decoration: none; }
.tab::before { content: "→"; color: var(--soft); opacity: .75; font-style: normal; }
#shade:checked ~ * .q0 { --shade: 4%; } #shade:checked ~ * .q1 { --shade: 13%; }
#shade:checked ~ * .q2 { --shade: 25%; } #shade:checked ~ * .q3 { --shade: 36%; }
#shade:checked ~ * .q4 { --shade: 50%; }
:focus-visible { outline: 2px solid var(--c1); outline-offset: 3px; }
@media (max-width: 640px) {
  main { padding: 28px 16px 64px; }
  section, footer { margin-top: 52px; }
  h1 { font-size: 1.6rem; }
  tbody th { min-width: 6.5rem; }
  tbody th[scope=row] { position: sticky; left: 0; background: var(--bg); }
  .wide svg text, .wide svg .label, .wide svg .name, .wide svg .value { font-size: 13.5px; }
}
@media print { .tokens { max-height: none; } }
"""

STYLE = COLOURS + _PAGE + DRAWING + _REST
