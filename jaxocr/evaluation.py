"""How a recogniser reads sets of labelled lines: `jaxocr eval`.

Reading and scoring are those of a training's last evaluation; a figure of one
is a figure of the other. Every line whose image can be read is read: labels
outside the alphabet count as misread.
"""

from collections.abc import Callable, Iterable, Sequence
import csv
import dataclasses
import io
import os
import pathlib

from jaxocr import files
from jaxocr import reader as reader_lib
from jaxocr.data import real
from jaxocr.text import protocols
from jaxocr.train import report_cards
from jaxocr.train import report_lines
from jaxocr.train import report_page

WORST = 20  # Lines in the page.
_READ_AT_ONCE = 1024
_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 36)  # Upper ends, characters.
_ASPECTS = (1, 2, 3, 4, 6, 10, 16)  # Upper ends, width over height.
_HEAD = ("set", "n", "accuracy", "1-NED", "CER", "confidence", "length")


@dataclasses.dataclass(frozen=True)
class Judged:
  """One set, read."""

  name: str
  lines: Sequence[report_lines.LineResult]  # In the set's order.
  refused: frozenset[int]  # Places of lines whose label it cannot write.
  read: int
  lost: dict[str, int]  # Reason -> lines that were not read at all.
  summary: str

  def figures(
    self,
    protocol: str,
    keep: Callable[[int, report_lines.LineResult], bool] | None = None,
  ) -> protocols.Figures:
    """Of all lines, or of those that `keep` (of place and line) is true of."""
    chosen = [
      line for i, line in enumerate(self.lines) if not keep or keep(i, line)
    ]
    return protocols.score(
      [line.reading.text for line in chosen],
      [line.truth for line in chosen],
      [line.reading.confidence for line in chosen],
      protocol=protocol,
    )


def judge(reader: reader_lib.Reader, path: str | os.PathLike) -> Judged:
  """Reads a set.

  Raises:
    ValueError: The set cannot be opened.
  """
  found = real.read_labels(path, reader.alphabet)
  items = found.all_items
  readings = []
  for start in range(0, len(items), _READ_AT_ONCE):
    part = items[start : start + _READ_AT_ONCE]
    readings += reader.read([item.pixels for item in part])
  lines = [
    report_lines.LineResult(item.pixels, item.label, reading, "real", item.path)
    for item, reading in zip(items, readings, strict=True)
  ]
  refused = (i for i, item in enumerate(items) if item.refused)
  lost = {k: n for k, n in found.dropped.items() if k not in real.REFUSALS}
  return Judged(
    protocols.known_set(found.name, len(items)),
    lines,
    frozenset(refused),
    found.read,
    lost,
    found.summary(),
  )


def report(sets: Sequence[Judged], protocol: str) -> str:
  """The tables, for a person."""
  rows = [_HEAD, *(_row(s.name, s.figures(protocol)) for s in sets)]
  figures = [s.figures(protocol) for s in sets]
  if len(sets) > 1:
    rows.append(_row("all lines", sum(figures, protocols.Figures())))
    rows.append(("mean of sets", "", *_means(figures)))
  parts = [f"protocol {protocol}\n{_aligned(rows)}"]
  parts += [note for note in map(lambda s: _note(s, protocol), sets) if note]
  every = [line for s in sets for line in s.lines]
  fold = protocols.fold_of(protocol)
  parts.append(
    "by length of the label\n"
    + _binned(every, lambda line: len(fold(line.truth)), _LENGTHS, protocol)
  )
  parts.append(
    "by width over height\n"
    + _binned(
      every,
      lambda line: line.image.shape[1] / line.image.shape[0],
      _ASPECTS,
      protocol,
    )
  )
  confused = [
    (_shown(c.truth), _shown(c.read), str(c.total))
    for c in report_lines.confusions(_folded(every, fold), top=12)
  ]
  if confused:
    head = ("true", "read as", "times")
    parts.append("most frequent mistakes\n" + _aligned([head, *confused]))
  return "\n\n".join(parts)


def write_csv(
  path: str | os.PathLike, sets: Sequence[Judged], protocol: str
) -> list[pathlib.Path]:
  """Writes the table, all lines and the worst ones.

  `out.csv` gives out.csv (a row a set), out_lines.csv (a row a line) and
  out_worst.html.
  """
  path = pathlib.Path(path)
  lines_path = path.with_name(f"{path.stem}_lines.csv")
  page_path = path.with_name(f"{path.stem}_worst.html")
  _write_rows(path, _table_rows(sets, protocol))
  _write_rows(lines_path, _line_rows(sets, protocol))
  with files.aside(page_path) as part:
    part.write_text(worst_page(sets, protocol), encoding="utf-8")
  return [path, lines_path, page_path]


def worst_page(sets: Sequence[Judged], protocol: str) -> str:
  """The lines that were misread most, as a page of HTML."""
  fold = protocols.fold_of(protocol)
  groups = {
    s.name: report_lines.worst_lines(
      [x for x in s.lines if fold(x.truth) != fold(x.reading.text)],
      count=WORST,
    )
    for s in sets
  }
  return report_page.page(
    f"Worst lines, {protocol}",
    [
      report_page.section(
        "Lines it misread most", report_cards.galleries(groups)
      )
    ],
  )


def fields(sets: Sequence[Judged], protocol: str) -> list[dict]:
  """The table as JSON takes it, one dict a set."""
  rows = []
  for s in sets:
    figures = s.figures(protocol)
    within = s.figures(protocol, lambda i, _, s=s: i not in s.refused)
    rows.append(
      {
        "set": s.name,
        "protocol": protocol,
        "n": figures.n,
        "accuracy": figures.accuracy,
        "ned": figures.ned,
        "cer": figures.cer,
        "confidence": figures.mean_confidence,
        "length": figures.mean_length,
        "exact": figures.exact,
        "empty": figures.empty,
        "within_alphabet_n": within.n,
        "within_alphabet_accuracy": within.accuracy,
        "read": s.read,
        "not_read": sum(s.lost.values()),
      }
    )
  return rows


def _table_rows(sets, protocol) -> Iterable[Sequence]:
  rows = fields(sets, protocol)
  yield tuple(rows[0])
  yield from (tuple(row.values()) for row in rows)


def _line_rows(sets, protocol) -> Iterable[Sequence]:
  fold = protocols.fold_of(protocol)
  yield "set", "path", "truth", "read", "confidence", "right"
  for s in sets:
    for line in s.lines:
      read = line.reading
      right = int(fold(line.truth) == fold(read.text))
      yield (
        *(s.name, line.path, line.truth, read.text),
        *(f"{read.confidence:.6f}", right),
      )


def _write_rows(path: pathlib.Path, rows: Iterable[Sequence]) -> None:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  with files.aside(path) as part:
    part.write_bytes(text.getvalue().encode())


def _note(judged: Judged, protocol: str) -> str:
  """What the row of a set does not say: who was counted how."""
  total = judged.figures(protocol)
  notes = []
  if judged.refused:
    within = judged.figures(protocol, lambda i, _: i not in judged.refused)
    notes.append(
      f"{len(judged.refused):,} labels that this model cannot write count as "
      f"misread; of the other {within.n:,} it reads {within.accuracy:.4f}"
    )
  if total.empty:
    notes.append(
      f"{total.empty:,} labels have no character of {protocol} and do not count"
    )
  if judged.lost:
    notes.append(
      f"{sum(judged.lost.values()):,} of {judged.read:,} lines were not read: "
      + ", ".join(f"{n:,} {reason}" for reason, n in judged.lost.items())
    )
  return "\n".join(f"{judged.name}: {note}" for note in notes)


def _row(name: str, figures: protocols.Figures) -> tuple[str, ...]:
  values = [f"{v:.4f}" for v in _values(figures)[:-1]]
  return name, f"{figures.n:,}", *values, f"{figures.mean_length:.2f}"


def _values(figures: protocols.Figures) -> tuple[float, ...]:
  return (
    figures.accuracy,
    figures.ned,
    figures.cer,
    figures.mean_confidence,
    figures.mean_length,
  )


def _means(figures: Sequence[protocols.Figures]) -> tuple[str, ...]:
  """Of sets, whatever their size."""
  columns = zip(*map(_values, figures), strict=True)
  *means, length = (sum(c) / len(c) for c in columns)
  return *(f"{mean:.4f}" for mean in means), f"{length:.2f}"


def _binned(lines, measure, tops, protocol) -> str:
  """Accuracy by a measure, in bins up to `tops` and one beyond."""
  bins = {top: [] for top in (*tops, float("inf"))}
  for line in lines:
    value = measure(line)
    bins[next(top for top in bins if value <= top)].append(line)
  rows, low = [("", "n", "accuracy", "CER")], None
  for top, inside in bins.items():
    figures = protocols.score(
      [line.reading.text for line in inside],
      [line.truth for line in inside],
      [line.reading.confidence for line in inside],
      protocol=protocol,
    )
    if figures.n:
      span = f"up to {top}" if low is None else f"over {low}, to {top}"
      span = f"over {low}" if top == float("inf") else span
      rows.append(
        (
          span,
          f"{figures.n:,}",
          f"{figures.accuracy:.4f}",
          f"{figures.cer:.4f}",
        )
      )
    low = top
  return _aligned(rows)


def _folded(lines, fold):
  """Lines with truth and reading as a protocol sees them."""
  return [
    dataclasses.replace(
      line,
      truth=fold(line.truth),
      reading=dataclasses.replace(line.reading, text=fold(line.reading.text)),
    )
    for line in lines
  ]


def _shown(char: str) -> str:
  return report_cards.shown(char) or "-"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
  """Columns: the first to the left, others to the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(
      [row[0].ljust(widths[0])]
      + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
    ).rstrip()
    for row in rows
  )
