import base64
import csv
import dataclasses
from html import parser
import io
import json
import re

import numpy as np
from PIL import Image
import pytest

from jaxocr.text import ctc
from jaxocr.train import report
from jaxocr.train import report_charts
from jaxocr.train import report_lines

FIGURES = {
  "line_accuracy": 0.5,
  "cer": 0.125,
  "ned": 0.875,
  "lines": 2,
  "seed": 1,
  "steps": 10,
  "seconds": 90.0,
  "lines_per_s": 7.0,
  "parameters": 1234,
  "bytes": 5000,
  "hardware": "two cores",
  "config": {"batch_size": 64, "note": "<script>alert(1)</script>"},
}
REAL = {"n": 1, "line_accuracy": 1.0, "str36": 1.0, "cer": 0.0, "dropped": {}}


def _line(truth, text, *, source="rendered", confidence=0.9):
  characters = tuple(
    ctc.Character(char, confidence, 4.0 * i, 4.0 * i + 4)
    for i, char in enumerate(text)
  )
  reading = ctc.Reading(text, confidence ** len(text), characters)
  return report.LineResult(
    np.full((8, 40), 200, np.uint8), truth, reading, source
  )


class _Page(parser.HTMLParser):
  """Tags that must be closed are; collects texts, tags and addresses."""

  VOID = ("meta",)

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.links, self.text = [], [], [], ""
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href")]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in self.VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def _page(tmp_path, lines, history=(), **figures):
  report.write_report(tmp_path, FIGURES | figures, history=history, lines=lines)
  return _Page((tmp_path / "report.html").read_text("utf-8"))


def test_edits_are_shortest():
  # By hand: 2 read as 7, the point lost, a 9 too many at the end.
  assert report_lines.edits("12.34", "17349") == [
    ("replace", 1, 1),
    ("delete", 2, 2),
    ("insert", 5, 4),
  ]


def test_confusions_count_by_source_and_sort():
  lines = [
    _line("00", "O0"),
    _line("0.1", "01"),
    _line("0", "O", source="real"),
    _line("1", "1*", source="real"),
  ]
  rows = report_lines.confusions(lines)
  assert [(r.truth, r.read, dict(r.counts)) for r in rows] == [
    ("0", "O", {"rendered": 1, "real": 1}),
    ("", "*", {"real": 1}),
    (".", "", {"rendered": 1}),
  ]
  assert [row.total for row in rows] == [2, 1, 1]
  assert report_lines.confusions(lines, top=1) == rows[:1]


def test_worst_lines_by_edits_then_by_confidence():
  lines = [
    _line("123", "123"),
    _line("123", "12", confidence=0.5),
    _line("123", "3"),
    _line("123", "1234", confidence=0.99),
  ]
  worst = report_lines.worst_lines(lines)
  assert [line.reading.text for line in worst] == ["3", "1234", "12"]
  assert report_lines.worst_lines(lines, count=1) == worst[:1]


def test_samples_are_spread_and_never_more_than_there_are():
  lines = [_line(str(i), "") for i in range(23)]
  chosen = [line.truth for line in report_lines.samples(lines, count=3)]
  assert chosen == ["0", "11", "22"]
  assert len(report_lines.samples(lines[:2], count=3)) == 2
  assert report_lines.samples([], count=3) == []


def test_json_holds_the_figures_as_plain_numbers(tmp_path):
  figures = {
    "cer": np.float32(0.25),
    "ned": float("nan"),
    "real": REAL | {"dropped": {"too long": np.int64(3)}},
    "widths": (64, np.arange(2)),
  }
  _page(tmp_path, [], **figures)
  saved = json.loads((tmp_path / "report.json").read_text("utf-8"))
  assert saved == FIGURES | {
    "cer": 0.25,
    "ned": None,
    "real": REAL | {"dropped": {"too long": 3}},
    "widths": [64, [0, 1]],
  }
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "predictions.tsv",
    "report.html",
    "report.json",
  ]


def test_predictions_of_lines_that_have_a_path(tmp_path):
  lines = [
    _line("1", "2"),
    dataclasses.replace(
      _line("1,5", "1 5", source="real", confidence=0.5), path="a/b.png"
    ),
    # What would break a row of plain text.
    dataclasses.replace(_line('2"', "\t", source="real"), path="c.png"),
  ]
  _page(tmp_path, lines, real=REAL)
  with (tmp_path / "predictions.tsv").open(
    newline="", encoding="utf-8"
  ) as file:
    rows = list(csv.reader(file, dialect="excel-tab"))
  assert rows[0] == ["path", "truth", "read", "confidence"]
  assert [row[:3] for row in rows[1:]] == [
    ["a/b.png", "1,5", "1 5"],
    ["c.png", '2"', "\t"],
  ]
  assert float(rows[1][3]) == 0.5**3


def test_missing_figures_are_named(tmp_path):
  short = {k: v for k, v in FIGURES.items() if k not in ("cer", "seed")}
  with pytest.raises(ValueError, match=r"lacks cer, seed, real\.str36;"):
    report.write_report(
      tmp_path,
      short | {"real": {k: v for k, v in REAL.items() if k != "str36"}},
      history=[],
      lines=[],
    )
  with pytest.raises(ValueError, match=r"source='scan'.*rendered, real"):
    _page(tmp_path, [_line("1", "1", source="scan")])
  assert not list(tmp_path.iterdir())


def test_page_is_whole_escaped_and_needs_no_network(tmp_path):
  lines = [_line("<b>&", '<i>"', source="real"), _line("12", "12")]
  page = _page(tmp_path, lines, real=REAL)
  assert "script" not in page.tags
  assert "<script>alert(1)</script>" in page.text
  assert page.text.count('<i>"') == page.text.count("<b>&") == 2
  # Each line is a sample; the misread one is among the worst as well.
  assert page.tags.count("image") == 3
  assert len(page.links) == 3
  assert all(link.startswith("data:image/png;base64,") for link in page.links)
  raw = (tmp_path / "report.html").read_text("utf-8")
  assert "&lt;</span>" in raw
  assert "prefers-color-scheme: dark" in raw
  assert 'name="viewport"' in raw
  assert not re.search(r"https?:|@import|url\(", raw)


def test_page_marks_doubt_and_errors_by_character(tmp_path):
  _page(tmp_path, [_line("14", "17", confidence=0.75)])
  raw = (tmp_path / "report.html").read_text("utf-8")
  tip = "7: 75.0% sure, 4 to 8 px"
  assert f'<span class="ch x" style="--d:0.25" title="{tip}">7</span>' in raw
  assert '1<span class="x">4</span>' in raw
  assert "1 edit away, 56% sure" in raw


def test_page_without_errors_curves_or_lines(tmp_path):
  page = _page(tmp_path, [])
  assert "every line was read as it is" in page.text
  assert "How it learnt" not in page.text
  assert "svg" not in page.tags


def test_page_draws_the_curves_it_finds(tmp_path):
  history = [
    {"step": 1, "train/loss": 40.0, "train/grad_norm": 3.0},
    {"step": 1, "train/learning_rate": 1e-3},
    {"step": 2, "train/loss": 4.0, "train/learning_rate": 2e-3},
    {"step": 2, "eval/line_accuracy": 0.5, "real/line_accuracy": None},
    {"step": 3, "train/loss": None, "train/learning_rate": 0.0},
  ]
  page = _page(tmp_path, [], history)
  assert page.tags.count("polyline") == 3
  assert "train/loss, step 2: 4" in page.text
  assert "grad_norm" not in page.text


def test_chart_spans_its_axes():
  svg = report_charts.chart([report_charts.Curve("a", [(0, 0.0), (10, 1.0)])])
  # Step 0 at the left edge and value 0 at the bottom; both at the far ends.
  assert 'points="46.0,184.0 346.0,12.0"' in svg
  assert report_charts.chart([report_charts.Curve("a", [])]) == ""
  nan = [(0, float("nan")), (1, 0.0), (2, -1.0)]
  assert report_charts.chart([report_charts.Curve("a", nan)], log=True) == ""
  assert "polyline" in report_charts.chart([report_charts.Curve("a", [(5, 3)])])


def test_chart_keeps_the_last_of_many_points():
  points = [(step, 1.0 + step) for step in range(5001)]
  svg = report_charts.chart([report_charts.Curve("a", points)], log=True)
  assert svg.count('class="hover"') <= 401
  assert "step 5000: 5001" in svg


def test_ticks_by_hand():
  assert report_charts.ticks(0.0, 1.0, count=5) == [0, 0.25, 0.5, 0.75, 1.0]
  assert report_charts.ticks(3, 1180, count=4) == [0, 500, 1000, 1500]
  assert report_charts.ticks(2.0, 2.0, count=5)[0] <= 2.0
  assert report_charts.log_ticks(0.4, 40.0) == [
    0.3,
    1.0,
    3.0,
    10.0,
    30.0,
    100.0,
  ]
  assert [report_charts.number(v) for v in (12000, 0.003, 0, 2.5e6)] == [
    "12k",
    "0.003",
    "0",
    "2.5M",
  ]


def test_png_equals_what_pillow_reads_back():
  image = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5) * 7
  _, data = report_charts.png_uri(image[:, ::-1]).split(",")
  read = Image.open(io.BytesIO(base64.b64decode(data)))
  assert read.mode == "L"
  np.testing.assert_array_equal(np.asarray(read), image[:, ::-1])
  with pytest.raises(ValueError, match=r"\(2, 2, 1\).*uint8 \[H, W\]"):
    report_charts.png_uri(np.zeros((2, 2, 1), np.uint8))
