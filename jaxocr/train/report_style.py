"""The look of report.html; CSS as a string, so that it ships with the package.

The colours are variables, one set for each of light and dark. `--d` is a
character's doubt, 1 - confidence, set by the page for each character.
"""

CSS = """
:root {
  --page: #f6f5f2; --card: #fff; --ink: #1d1d1b; --soft: #62615c;
  --rule: #e3e1dc; --c0: #2a6fd0; --c1: #c2570c; --c2: #0f8a6a;
  --good: #14773c; --bad: #c22a2a; --doubt: 240 140 20;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161615; --card: #212120; --ink: #ecebe7; --soft: #a5a39c;
    --rule: #383734; --c0: #6aa5f5; --c1: #f0925a; --c2: #4cc49f;
    --good: #63c987; --bad: #ff8a80; --doubt: 214 112 10;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
header p { margin: 0; color: var(--soft); font-size: .9rem; }
h1 { margin: 0 0 1.2rem; font-size: 1.9rem; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .8rem; font-size: 1.25rem; }
h3 { margin: 1.4rem 0 .6rem; font-size: .95rem; color: var(--soft); }
p { max-width: 42rem; }
.tiles, .charts, .lines { display: grid; gap: .75rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.tiles div, .card {
  margin: 0; padding: .8rem .9rem; border: 1px solid var(--rule);
  border-radius: 10px; background: var(--card); min-width: 0;
}
.tiles b { display: block; font-size: 1.5rem; line-height: 1.25; }
.tiles span, figcaption, .legend { color: var(--soft); font-size: .85rem; }
.charts {
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr));
}
.charts figcaption b { color: var(--ink); font-size: .95rem; }
.key { display: flex; flex-wrap: wrap; gap: 0 .9rem; min-height: 1.3em; }
.key i {
  display: inline-block; width: .9rem; height: 3px; margin-right: .35rem;
  vertical-align: middle; border-radius: 2px;
}
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--rule); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 10.5px; }
.line.c0, .line.c1, .line.c2 {
  fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round;
}
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
i.c0, .bar i { background: var(--c0); }
i.c1 { background: var(--c1); } i.c2 { background: var(--c2); }
.end { fill: var(--card); stroke-width: 2; }
.hover { fill: var(--ink); opacity: 0; }
.hover:hover { opacity: .35; }
.lines {
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
}
dl {
  display: grid; grid-template-columns: auto 1fr; gap: .15rem .7rem;
  margin: .55rem 0 .3rem;
}
dt { color: var(--soft); font-size: .8rem; line-height: 1.9; }
dd {
  margin: 0; overflow-wrap: anywhere; white-space: pre-wrap;
  font: 1.02rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
.ch { border-radius: 2px; background: rgb(var(--doubt) / var(--d, 0)); }
.legend .ch { padding: 0 .3em; color: var(--ink); margin-right: .2em; }
.legend .ch:not(.x) { border: 1px solid var(--rule); }
.x {
  text-decoration: underline wavy var(--bad) 1.5px; text-underline-offset: 3px;
  text-decoration-skip-ink: none;
}
.seen {
  fill: rgb(var(--doubt) / var(--d)); stroke: var(--soft); stroke-width: .4;
}
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td {
  padding: .3rem 1.1rem .3rem 0; border-bottom: 1px solid var(--rule);
  text-align: left; vertical-align: top; font-weight: normal;
}
th { color: var(--soft); }
td { overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.confusions { width: 100%; max-width: 42rem; }
.bar { width: 35%; padding-right: 0; }
.bar i {
  display: block; height: .6rem; margin-top: .4rem; border-radius: 0 3px 3px 0;
  min-width: 2px;
}
code { font: 1rem/1.4 ui-monospace, Menlo, Consolas, monospace; }
"""
