"""What a finished run leaves: report.json, report.html, predictions.tsv.

report.json holds the figures, the config and the hardware, for programs and for
comparing runs. report.html shows the same beside the learning curves and the
lines themselves: one file, no network, readable on a phone. The page is put
together in report_page.py from what is worked out here.
"""

from collections.abc import Mapping, Sequence
import csv
import io
import json
import math
import os
import pathlib

from jaxocr import files
from jaxocr.train import report_lines
from jaxocr.train import report_page

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
PREDICTIONS_FILE = "predictions.tsv"
REQUIRED = (
  "line_accuracy",
  "cer",
  "ned",
  "lines",
  "seed",
  "steps",
  "seconds",
  "lines_per_s",
  "parameters",
  "bytes",
  "hardware",
  "config",
)
REQUIRED_REAL = ("n", "line_accuracy", "str36", "cer", "dropped")

LineResult = report_lines.LineResult  # A caller needs this module alone.


def write_report(
  workdir: str | os.PathLike,
  report: Mapping,
  *,
  history: Sequence[Mapping],
  lines: Sequence[report_lines.LineResult],
) -> pathlib.Path:
  """Writes the report's files, each aside and then renamed.

  predictions.tsv holds the lines that have a path (real ones): path, truth,
  reading, confidence.

  Args:
    workdir: The run's folder.
    report: Figures, JSON-able (NumPy and JAX scalars pass); at least
      `REQUIRED`, and `REQUIRED_REAL` within `report["real"]` where it is given.
    history: Entries of metrics.jsonl (`writers.read_history`), for the curves.
    lines: Every evaluated line; samples, worst lines and confusions are chosen
      from them.

  Returns:
    The path of report.html.

  Raises:
    ValueError: A required figure is missing, or a line has an unknown source.
  """
  _check(report, lines)
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  report = plain(report)
  by_source = {
    source: [line for line in lines if line.source == source]
    for source in report_lines.SOURCES
  }
  page = report_page.build(
    title=workdir.resolve().name,
    report=report,
    history=history,
    samples={s: report_lines.samples(of) for s, of in by_source.items()},
    worst={s: report_lines.worst_lines(of) for s, of in by_source.items()},
    confusions=report_lines.confusions(lines),
  )
  _write(workdir / PREDICTIONS_FILE, _predictions(lines))
  text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
  _write(workdir / PAGE_FILE, page)
  # The JSON comes last: where it exists, the run has its whole report.
  _write(workdir / REPORT_FILE, text + "\n")
  return workdir / PAGE_FILE


def _check(report: Mapping, lines: Sequence[report_lines.LineResult]) -> None:
  missing = [name for name in REQUIRED if name not in report]
  if report.get("real") is not None:
    missing += [f"real.{n}" for n in REQUIRED_REAL if n not in report["real"]]
  if missing:
    raise ValueError(
      f"the report lacks {', '.join(missing)}; every text experiment must"
      " state them, so add them to the dict"
    )
  for line in lines:
    if line.source not in report_lines.SOURCES:
      raise ValueError(
        f"a line has source={line.source!r}; it must be one of"
        f" {', '.join(report_lines.SOURCES)}"
      )


def _predictions(lines: Sequence[report_lines.LineResult]) -> str:
  text = io.StringIO()
  rows = csv.writer(text, dialect="excel-tab", lineterminator="\n")
  rows.writerow(("path", "truth", "read", "confidence"))
  for line in lines:
    if line.path:
      reading = line.reading
      rows.writerow(
        (line.path, line.truth, reading.text, f"{reading.confidence:.6f}")
      )
  return text.getvalue()


def plain(value):
  """`value` as JSON takes it; what is not finite becomes null."""
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  if hasattr(value, "tolist"):  # NumPy and JAX scalars and arrays.
    return plain(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _write(path: pathlib.Path, text: str) -> None:
  with files.aside(path) as part:
    part.write_text(text, encoding="utf-8")
