"""The style sheets of pages and of notebook pieces: colours as variables, for light and dark mode."""

from __future__ import annotations

_LIGHT = """
  --paper: #ffffff; --ground: #f2f4f7; --ink: #1b1f27; --quiet: #5a6372; --line: #d3d9e2; --faint: #eef1f5;
  --accent: #1f5fbf; --gold: #ffe07a; --gold-ink: #1b1f27; --gold-edge: #a87900; --predicted: #cfe3ff;
  --predicted-edge: #1f5fbf; --wrong: #a8201a; --wrong-ground: #fdecea;
  --series-1: #1f5fbf; --series-2: #c2570c; --series-3: #7a3fb0;
"""
_DARK = """
  --paper: #191d24; --ground: #101318; --ink: #e6e9ef; --quiet: #a3adbd; --line: #343c49; --faint: #222832;
  --accent: #7fb0ff; --gold: #f2c84b; --gold-ink: #16130a; --gold-edge: #f2c84b; --predicted: #22406c;
  --predicted-edge: #7fb0ff; --wrong: #ff9d94; --wrong-ground: #3a1d1c;
  --series-1: #7fb0ff; --series-2: #ffae6b; --series-3: #cfa3ff;
"""

PAGE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
body.qa-fast {{ margin: 0; background: var(--ground); }}
.qa-fast > header, .qa-fast > main {{ max-width: 72rem; margin: 0 auto; padding: 0 1.25rem; }}
.qa-fast > header {{ padding-top: 1.6rem; padding-bottom: .4rem; }}
.qa-fast > main {{ padding-bottom: 3rem; }}
.qa-fast h1 {{ margin: 0; font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }}
.qa-fast > header p {{ margin: .3rem 0 0; }}
@media (max-width: 40rem) {{
  .qa-fast > header, .qa-fast > main {{ padding-left: .75rem; padding-right: .75rem; }}
  .qa-fast > header {{ padding-top: 1rem; }}
  .qa-fast .card {{ padding: .75rem .85rem; }}
}}
@media print {{ .qa-fast .card {{ break-inside: avoid; }} .qa-fast .document {{ max-height: none; }} }}
"""

# A notebook may be light or dark whatever the system is. The selectors are those of JupyterLab, VS Code, Colab, Sphinx.
NOTEBOOK = f"""
.qa-fast-piece {{ {_LIGHT} color-scheme: light; max-width: 64rem; padding: .75rem 1rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: .6rem; }}
[data-jp-theme-light="false"] .qa-fast-piece, .vscode-dark .qa-fast-piece, .vscode-high-contrast .qa-fast-piece,
[theme="dark"] .qa-fast-piece, [data-theme="dark"] .qa-fast-piece {{ {_DARK} color-scheme: dark; }}
.qa-fast.qa-fast-piece > style + * {{ margin-top: 0; }}
.qa-fast.qa-fast-piece > :last-child {{ margin-bottom: 0; }}
"""

SHARED = """
.qa-fast { color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
.qa-fast-piece { font-size: 14px; }
.qa-fast *, .qa-fast *::before, .qa-fast *::after { box-sizing: border-box; }
.qa-fast h2 { margin: 2rem 0 .6rem; font-size: 1.15rem; overflow-wrap: anywhere; }
.qa-fast h3 { margin: 1.2rem 0 .4rem; font-size: 1rem; overflow-wrap: anywhere; }
.qa-fast p { margin: .5rem 0; overflow-wrap: anywhere; }
.qa-fast .quiet { color: var(--quiet); font-size: .875em; }
.qa-fast .score { font-size: 2.1rem; font-weight: 650; line-height: 1.15; font-variant-numeric: tabular-nums; }
.qa-fast .whole { white-space: nowrap; }
.qa-fast .lead { font-size: 1.15em; font-weight: 600; }
.qa-fast a { color: var(--accent); }
.qa-fast .card { margin: 1rem 0; padding: 1rem 1.25rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: .75rem; min-width: 0; }
.qa-fast .card > :first-child { margin-top: 0; }
.qa-fast .card > :last-child { margin-bottom: 0; }
.qa-fast .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem;
  margin: 1rem 0; }
.qa-fast .grid.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
.qa-fast .grid.tiles { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }
.qa-fast .grid > * { margin: 0; }
.qa-fast .note { padding: .55rem .8rem; border-left: 3px solid var(--accent); background: var(--faint);
  border-radius: 0 .4rem .4rem 0; }
.qa-fast .note.bad { border-color: var(--wrong); background: var(--wrong-ground); }

.qa-fast .wide { overflow-x: auto; margin: .6rem 0; }
.qa-fast table { border-collapse: collapse; width: auto; margin: 0; font-size: .9375em; line-height: 1.4;
  color: inherit; background: none; }
.qa-fast caption { text-align: left; color: var(--quiet); padding-bottom: .3rem; }
.qa-fast th, .qa-fast td { padding: .35rem .9rem .35rem 0; border: 0; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; background: none; }
.qa-fast thead th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
.qa-fast tbody th { font-weight: 600; }
.qa-fast tr > :last-child { padding-right: .2rem; }
.qa-fast tbody tr:last-child > * { border-bottom: 0; }
.qa-fast .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.qa-fast td:not(.number) { overflow-wrap: break-word; max-width: 40rem; }
@media (max-width: 40rem) {
  .qa-fast table { font-size: .8125em; }
  .qa-fast th, .qa-fast td { padding-right: .5rem; }
}

.qa-fast .facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1.2rem;
  margin: .9rem 0; }
.qa-fast .facts dt { color: var(--quiet); }
.qa-fast .facts dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .qa-fast .facts { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .qa-fast .facts dd { margin-bottom: .45rem; }
}
.qa-fast details { margin: .6rem 0; }
.qa-fast summary { color: var(--quiet); cursor: pointer; overflow-wrap: anywhere; border-radius: .3rem; }
.qa-fast summary b { color: var(--ink); font-weight: 600; }
.qa-fast summary:hover { color: var(--accent); }
.qa-fast details[open] > summary { margin-bottom: .4rem; }
.qa-fast :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }

.qa-fast .document { margin: .6rem 0; padding: .7rem .9rem; max-height: 30rem; overflow-y: auto; line-height: 1.75;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; background: var(--faint);
  border-radius: .5rem; tab-size: 4; }
.qa-fast mark { background: var(--faint); color: inherit; padding: .08em 0; border-bottom: 2px solid var(--quiet); }
.qa-fast mark.predicted { background: var(--predicted); border-bottom: 2px solid var(--predicted-edge); }
.qa-fast mark.gold { background: var(--gold); color: var(--gold-ink); border-bottom: 2px solid transparent; }
.qa-fast mark.gold.predicted { border-bottom-color: var(--predicted-edge); }
.qa-fast mark.wrong { background: var(--wrong-ground); border-bottom: 2px solid var(--wrong); }
.qa-fast mark.window { background: none; border-bottom: 0; padding: 0; }
.qa-fast mark.shared { background: color-mix(in srgb, var(--series-3) 14%, transparent); }
.qa-fast mark.gold.window { background: var(--gold); border-bottom: 2px solid transparent; padding: .08em 0; }
.qa-fast mark.predicted.window { border-bottom: 2px solid var(--predicted-edge); padding: .08em 0; }
.qa-fast mark.predicted.window:not(.gold) { background: var(--predicted); }
.qa-fast .tick::before { content: attr(data-label); margin: 0 .15em; padding: 0 .35em; border-radius: .3em;
  font-size: .7em; font-weight: 600; vertical-align: .15em; color: var(--paper); background: var(--series-3);
  unicode-bidi: isolate; }
.qa-fast .key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0; color: var(--quiet);
  font-size: .875em; list-style: none; padding: 0; }
.qa-fast .key mark { color: var(--ink); padding: .05em .5em; border-radius: .2em; }
.qa-fast .key mark.window { color: var(--paper); background: var(--series-3); font-size: .85em; font-weight: 600; }
.qa-fast .key mark.shared { border-bottom: 0; }
.qa-fast .key mark.gold { color: var(--gold-ink); }
.qa-fast .chips { display: flex; flex-wrap: wrap; gap: .25rem; margin: .6rem 0; padding: .6rem; list-style: none;
  max-height: 24rem; overflow-y: auto; background: var(--faint); border-radius: .5rem; }
.qa-fast .chip { display: flex; flex-direction: column; align-items: center; padding: .1rem .35rem .15rem;
  max-width: 100%; min-width: 1.5rem; background: var(--paper); border: 1px solid var(--line); border-radius: .3rem;
  line-height: 1.3; }
.qa-fast .chip b { font-weight: 500; font-size: .8125rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.qa-fast .chip i { font-style: normal; font-size: .625rem; color: var(--quiet); font-variant-numeric: tabular-nums; }
.qa-fast .chip.quiet { background: none; border-style: dashed; }
.qa-fast .chip.question { border-color: var(--accent); }
.qa-fast .chip.gold { background: var(--gold); border-color: var(--gold-edge); color: var(--gold-ink); }
.qa-fast .chip.gold i { color: var(--gold-ink); }
.qa-fast .chip.start { border-inline-start: 3px solid var(--gold-edge); }
.qa-fast .chip.end { border-inline-end: 3px solid var(--gold-edge); }
.qa-fast .chip.wrong { outline: 2px solid var(--wrong); outline-offset: -1px; }

.qa-fast figure { margin: 1rem 0; padding: .9rem 1rem .7rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: .75rem; min-width: 0; max-width: 36rem; }
.qa-fast figcaption { font-weight: 600; font-size: .9375em; margin-bottom: .4rem; overflow-wrap: anywhere; }
.qa-fast figcaption .quiet { display: block; font-weight: 400; }
.qa-fast figure details { margin: .3rem 0 0; font-size: .875em; }
.qa-fast figure .wide { max-height: 16rem; overflow: auto; }
.qa-fast svg { display: block; width: 100%; height: auto; overflow: visible; }
.qa-fast svg text { fill: var(--quiet); font-size: 11.5px; font-family: inherit; }
.qa-fast .key svg { display: inline-block; width: 1.75rem; vertical-align: -.05em; }
.qa-fast svg .value, .qa-fast svg .name { fill: var(--ink); }
.qa-fast svg .rule { stroke: var(--line); stroke-width: 1; }
.qa-fast svg .axis { stroke: var(--quiet); stroke-width: 1; }
.qa-fast svg .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.qa-fast svg .pointer { stroke: var(--series-2); stroke-width: 1.5; stroke-dasharray: 4 3; }
.qa-fast svg .fill-1 { fill: var(--series-1); } .qa-fast svg .fill-2 { fill: var(--series-2); }
.qa-fast svg .stroke-1 { stroke: var(--series-1); } .qa-fast svg .stroke-2 { stroke: var(--series-2); }
.qa-fast svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
/* On a phone a chart is scaled down; its text must stay readable. */
@media (max-width: 40rem) {
  .qa-fast svg text { font-size: 13.5px; }
  .qa-fast svg .name { font-size: 12px; }
  .qa-fast .card figure { padding: .4rem 0; border: 0; border-radius: 0; }
}
@media (forced-colors: active) {
  .qa-fast mark { outline: 1px solid; }
  .qa-fast svg rect, .qa-fast svg .curve { forced-color-adjust: none; }
}
"""
