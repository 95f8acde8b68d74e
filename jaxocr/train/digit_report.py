"""report.json and report.html of a digit run."""

from collections.abc import Mapping, Sequence
import html
import json
import os
import pathlib

import numpy as np

from jaxocr import files
from jaxocr.train import report
from jaxocr.train import report_cards
from jaxocr.train import report_charts
from jaxocr.train import report_lines
from jaxocr.train import report_page

REQUIRED = (
  "test_accuracy",
  "test_accuracy_std",
  "seeds",
  "parameters",
  "bytes",
  "seconds",
)
_WRONG = 48  # Digits shown.

# A heading and PNG files.
Pictures = tuple[str, Sequence[pathlib.Path]]


def write(
  workdir: str | os.PathLike,
  figures: Mapping,
  *,
  history: Sequence[Mapping],
  lines: Sequence[report_lines.LineResult],
  classes: Sequence[str],
  pictures: Sequence[Pictures] = (),
) -> pathlib.Path:
  """Writes both, aside first; returns the page's path.

  Args:
    workdir: The run's folder.
    figures: What report.json is to hold, at least `REQUIRED`.
    history: Entries of metrics.jsonl.
    lines: Every test image, as a line of one character.
    classes: Names of the classes.
    pictures: Put into the page, each file under its name.

  Raises:
    ValueError: A required figure is missing.
  """
  missing = [name for name in REQUIRED if name not in figures]
  if missing:
    raise ValueError(f"the report lacks {', '.join(missing)}; add them")
  workdir = pathlib.Path(workdir)
  figures = report.plain(figures)
  page = _page(workdir, figures, history, lines, classes, pictures)
  with files.aside(workdir / report.PAGE_FILE) as part:
    part.write_text(page, encoding="utf-8")
  text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False)
  # The JSON comes last: where it exists, the run has its whole report.
  with files.aside(workdir / report.REPORT_FILE) as part:
    part.write_text(text + "\n", encoding="utf-8")
  return workdir / report.PAGE_FILE


def confusion_matrix(
  lines: Sequence[report_lines.LineResult], classes: Sequence[str]
) -> np.ndarray:
  """[K, K] int: rows are what is true, columns what was read."""
  places = {name: place for place, name in enumerate(classes)}
  matrix = np.zeros((len(classes), len(classes)), int)
  for line in lines:
    matrix[places[line.truth], places[line.reading.text]] += 1
  return matrix


def most_wrong(
  lines: Sequence[report_lines.LineResult], *, count: int = _WRONG
) -> list[report_lines.LineResult]:
  """Misread digits, those that the network was surest of first."""
  wrong = [line for line in lines if line.truth != line.reading.text]
  return sorted(wrong, key=lambda line: -line.reading.confidence)[:count]


def _page(workdir, figures, history, lines, classes, pictures) -> str:
  tabled = {
    k: v
    for k, v in figures.items()
    if isinstance(v, list) and v and isinstance(v[0], Mapping)
  }
  rest = {k: v for k, v in figures.items() if k not in (*tabled, "config")}
  wrong = most_wrong(lines)
  return report_page.page(
    workdir.resolve().name,
    [
      _tiles(figures),
      *(
        report_page.section(heading, "".join(map(_picture, paths)))
        for heading, paths in pictures
      ),
      *(
        report_page.section(name.capitalize(), report_page.rows_table(rows))
        for name, rows in tabled.items()
      ),
      report_page.section("How it learnt", report_page.charts(history)),
      report_page.section("Confusion matrix", _matrix(lines, classes)),
      report_page.section(
        "Most wrong: the surest first",
        report_cards.galleries({"test": wrong}) if wrong else "",
      ),
      report_page.section("All figures", report_page.table(rest)),
      report_page.section(
        "Config", report_page.table(figures.get("config") or {})
      ),
    ],
  )


def _tiles(figures) -> str:
  seeds, images = figures["seeds"], figures.get("test_images", 0)
  spread = f"{100 * figures['test_accuracy_std']:.2f}"
  return report_page.tiles(
    [
      (
        f"{100 * figures['test_accuracy']:.2f} %",
        f"of {images:,} test images, mean of {seeds} seeds, +- {spread}",
      ),
      (report_page.figure(figures["parameters"]), "parameters"),
      (report_page.size(figures["bytes"]), "of parameters, as shipped"),
      (report_page.duration(figures["seconds"]), "for all seeds"),
    ]
  )


def _matrix(lines, classes) -> str:
  """Rows are what is true; the more of an error, the darker."""
  if not lines:
    return ""
  matrix = confusion_matrix(lines, classes)
  worst = max(1, (matrix - np.diag(np.diag(matrix))).max())
  head = "".join(f"<th class='n'>{html.escape(c)}</th>" for c in classes)
  rows = []
  for i, name in enumerate(classes):
    cells = []
    for j, count in enumerate(matrix[i]):
      doubt = 0.0 if i == j else 0.8 * count / worst
      cells.append(
        f'<td class="n ch" style="--d:{doubt:.2f}">{count or ""}</td>'
      )
    rows.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>")
  return (
    "<p>Rows: what it is. Columns: what was read.</p>"
    f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}'
    "</table></div>"
  )


def _picture(path: pathlib.Path) -> str:
  uri, name = report_charts.data_uri(path.read_bytes()), html.escape(path.stem)
  return (
    f'<figure><img style="max-width:100%" alt="{name}" src="{uri}">'
    f"<figcaption>{name}</figcaption></figure>"
  )
