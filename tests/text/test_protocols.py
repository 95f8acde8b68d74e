import math

import pytest

from jaxocr.text import protocols
from jaxocr.text import scores


@pytest.mark.parametrize(
  ("protocol", "folded"),
  [
    ("raw", "Caf\u00e9 \u2161-10%!"),
    ("str36", "cafeii10"),
    ("str62", "CafeII10"),
    ("str94", "CafeII-10%!"),
  ],
)
def test_folds_by_hand(protocol, folded):
  assert protocols.fold_of(protocol)("Caf\u00e9 \u2161-10%!") == folded


def test_every_printable_character_by_protocol():
  printable = "".join(map(chr, range(0x20, 0x7F)))
  sizes = {
    name: len(set(fold(printable))) for name, fold in protocols.FOLDS.items()
  }
  assert sizes == {"raw": 95, "str36": 36, "str62": 62, "str94": 94}


def test_figures_by_hand():
  found = protocols.score(
    ["Ab-1", "xyz", "", "q"],
    ["ab1", "xy", "!?", "qu \u00e9"],
    [0.5, 0.75, 0.1, 1.0],
    protocol="str36",
  )
  assert (found.n, found.empty, found.exact) == (3, 1, 1)
  assert found.accuracy == pytest.approx(1 / 3)
  # ab1 = ab1; xyz, xy: one edit; q, que: two edits.
  assert found.edits == 3 and found.characters == 3 + 2 + 3
  assert found.cer == pytest.approx(3 / 8)
  assert found.ned == pytest.approx((1 + 2 / 3 + 1 / 3) / 3)
  assert found.mean_confidence == pytest.approx(0.75)
  assert found.mean_length == pytest.approx(8 / 3)
  both = found + found
  assert both.n == 6 and both.accuracy == found.accuracy
  assert math.isnan(protocols.Figures().accuracy)


def test_raw_and_str36_are_those_of_training():
  read = ["A b", "", "x", "c-3"]
  true = ["a b", "", "-", "C3"]
  raw = protocols.score(read, true, [1.0] * 4, protocol="raw")
  assert (raw.exact, raw.n) == scores.line_accuracy(read, true)
  assert (raw.edits, raw.characters) == scores.character_error_rate(read, true)
  assert (raw.similarity, raw.n) == scores.normalised_edit_similarity(
    read, true
  )
  folded = protocols.score(read, true, [1.0] * 4, protocol="str36")
  assert (folded.exact, folded.n) == scores.str36(read, true)


def test_unknown_protocols_are_refused():
  with pytest.raises(ValueError, match="protocol='str37'; it must be one"):
    protocols.score([], [], [], protocol="str37")
  with pytest.raises(ValueError):
    protocols.score(["a"], [], [], protocol="raw")


@pytest.mark.parametrize(
  ("name", "lines", "shown"),
  [
    ("IC13_857", 857, "ic13 (857)"),
    ("IC13_1015", 1015, "ic13 (1015)"),
    ("evaluation/IC15_1811", 1811, "ic15 (1811)"),
    ("ICDAR2015/gt.txt", 2077, "ic15 (2077)"),
    ("iiit5k/test.tsv", 3000, "iiit5k (3000)"),
    ("CUTE80", 288, "cute80 (288)"),
    ("IC15", 1000, "IC15 (1000 lines, papers have 1811 or 2077)"),
    ("mine/labels.tsv", 2077, "mine/labels.tsv"),
  ],
)
def test_sets_of_papers_are_named_by_their_counts(name, lines, shown):
  assert protocols.known_set(name, lines) == shown
