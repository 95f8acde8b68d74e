"""The HTML of a run's report: one page, no network, phone and dark mode.

All that comes from outside (labels, readings, config values) passes through
`html.escape`; readings keep their spaces.
"""

from collections.abc import Mapping, Sequence
import html
import math

from jaxocr.train import report_cards
from jaxocr.train import report_charts
from jaxocr.train import report_lines
from jaxocr.train import report_style

# Title, last part of the metric's name, log axis.
_CHARTS = (
  ("Line accuracy", "line_accuracy", False),
  ("Loss", "loss", True),
  ("Learning rate", "learning_rate", False),
)
_NO_ERROR = "<p>None: every line was read as it is.</p>"


def build(
  *,
  title: str,
  report: Mapping,
  history: Sequence[Mapping],
  samples: Mapping[str, Sequence[report_lines.LineResult]],
  worst: Mapping[str, Sequence[report_lines.LineResult]],
  confusions: Sequence[report_lines.Confusion],
) -> str:
  """The page as one string of HTML.

  Args:
    title: Name of the run.
    report: What report.json holds.
    history: Entries of metrics.jsonl.
    samples: Source -> lines chosen blindly.
    worst: Source -> misread lines, worst first.
    confusions: Character errors, the most frequent first.
  """
  tabled = {k: v for k, v in report.items() if _is_rows(v)}
  figures = {
    k: v for k, v in report.items() if k != "config" and k not in tabled
  }
  sections = [
    _tiles(report),
    *(section(k.capitalize(), rows_table(rows)) for k, rows in tabled.items()),
    section("How it learnt", charts(history)),
    section(
      "Lines it was shown",
      report_cards.legend() + report_cards.galleries(samples),
    ),
    section(
      "Lines it misread most", report_cards.galleries(worst) or _NO_ERROR
    ),
    section("Characters it confuses", _confusion_table(confusions)),
    section("All figures", table(figures)),
    section("Config", table(report.get("config") or {})),
  ]
  return page(title, sections)


def page(title: str, sections: Sequence[str]) -> str:
  """A whole page of sections of HTML."""
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    f"<title>{html.escape(title)} - jaxocr</title>"
    f"<style>{report_style.CSS}</style></head>"
    f"<body><header><p>jaxocr report</p><h1>{html.escape(title)}</h1></header>"
    f"<main>{''.join(sections)}</main></body></html>\n"
  )


def section(heading: str, body: str) -> str:
  """A heading and HTML; "" without the latter."""
  return f"<section><h2>{heading}</h2>{body}</section>" if body else ""


def _tiles(report: Mapping) -> str:
  """The few figures that a reader came for, of lines."""
  found = [
    (
      percent(report["line_accuracy"]),
      f"of {figure(report['lines'])} rendered lines read without a fault",
    )
  ]
  real = report.get("real")
  if real:
    found.append(
      (
        percent(real["line_accuracy"]),
        f"of {figure(real['n'])} real lines read without a fault",
      )
    )
  found += [
    (percent(report["cer"]), "character error rate, rendered"),
    (figure(report["parameters"]), "parameters"),
    (size(report["bytes"]), "saved model"),
    (duration(report["seconds"]), f"for {figure(report['steps'])} steps"),
  ]
  return tiles(found)


def tiles(figures: Sequence[tuple[str, str]]) -> str:
  """Large figures, each above what it is of."""
  return (
    '<section class="tiles">'
    + "".join(
      f"<div><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>"
      for value, what in figures
    )
    + "</section>"
  )


def _is_rows(value) -> bool:
  """Whether a figure is a list of dicts: variants, cells of a grid."""
  return (
    isinstance(value, (list, tuple))
    and bool(value)
    and all(isinstance(row, Mapping) for row in value)
  )


def rows_table(rows: Sequence[Mapping]) -> str:
  """A table of one row a dict; nested dicts give dotted columns."""
  flat = [dict(_flat(row)) for row in rows]
  names = list(dict.fromkeys(name for row in flat for name in row))
  head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
  body = "".join(
    "<tr>"
    + "".join(f"<td>{html.escape(r.get(n, '-'))}</td>" for n in names)
    + "</tr>"
    for r in flat
  )
  return (
    f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
    f"<tbody>{body}</tbody></table></div>"
  )


def charts(history: Sequence[Mapping]) -> str:
  """Curves of what metrics.jsonl holds."""
  cards = []
  for title, wanted, log in _CHARTS:
    curves = {}
    for entry in history:
      for name, value in entry.items():
        if name.rsplit("/", 1)[-1] == wanted and value is not None:
          curves.setdefault(name, []).append((entry["step"], value))
    curves = [report_charts.Curve(*item) for item in list(curves.items())[:3]]
    picture = report_charts.chart(curves, log=log)
    if not picture:
      continue
    key = "".join(
      f'<span><i class="c{i}"></i>{html.escape(curve.label)}</span>'
      for i, curve in enumerate(curves)
    )
    note = ", log axis" if log else ""
    cards.append(
      f'<figure class="card"><figcaption><b>{title}</b> by step{note}'
      f'<span class="key">{key if len(curves) > 1 else ""}</span>'
      f"</figcaption>{picture}</figure>"
    )
  return f'<div class="charts">{"".join(cards)}</div>' if cards else ""


def _confusion_table(rows: Sequence[report_lines.Confusion]) -> str:
  if not rows:
    return ""
  body = []
  for row in rows:
    kind = "extra" if not row.truth else "lost" if not row.read else "mistaken"
    cells = "".join(
      f'<td class="n">{row.counts.get(source, 0) or ""}</td>'
      for source in report_lines.SOURCES
    )
    share = row.total / rows[0].total
    body.append(
      f"<tr>{_code(row.truth)}{_code(row.read)}"
      f'<td>{kind}</td>{cells}<td class="bar">'
      f'<i style="width:{100 * share:.0f}%"></i></td></tr>'
    )
  head = "".join(f'<th class="n">{s}</th>' for s in report_lines.SOURCES)
  return (
    "<p>The most frequent edits between truth and reading, all lines"
    ' counted.</p><div class="scroll"><table class="confusions"><thead><tr>'
    f"<th>true</th><th>read as</th><th>kind</th>{head}"
    f"<th></th></tr></thead><tbody>{''.join(body)}</tbody></table></div>"
  )


def _code(char: str) -> str:
  return f"<td><code>{html.escape(report_cards.shown(char)) or '-'}</code></td>"


def table(values: Mapping) -> str:
  """Two columns: dotted name and figure."""
  rows = "".join(
    f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
    for name, value in _flat(values)
  )
  return f'<div class="scroll"><table>{rows}</table></div>' if rows else ""


def _flat(values: Mapping, prefix: str = ""):
  """(dotted name, text) of every leaf of nested dicts."""
  for name, value in values.items():
    if isinstance(value, Mapping) and value:
      yield from _flat(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", figure(value)


def figure(value) -> str:
  """A value of report.json for a person."""
  if value is None or value in ("", [], {}):
    return "-"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int):
    return f"{value:,}"
  if isinstance(value, float):
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
  if isinstance(value, (list, tuple)):
    return ", ".join(figure(item) for item in value)
  return str(value)


def percent(value) -> str:
  """A share for a person."""
  return "-" if value is None else f"{100 * value:.1f} %"


def size(value) -> str:
  """Bytes for a person."""
  if not isinstance(value, (int, float)):
    return figure(value)
  return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def duration(seconds) -> str:
  """Seconds for a person."""
  if seconds is None or not math.isfinite(seconds):
    return "-"
  minutes = seconds / 60
  return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
