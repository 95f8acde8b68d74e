import math

import hypothesis
from hypothesis import strategies as st
import pytest

from jaxocr.text import scores

LINES = st.lists(
  st.tuples(st.text("ab1 ", max_size=6), st.text("ab1 ", max_size=6)),
  max_size=5,
)


def test_line_accuracy_is_exact():
  pair = scores.line_accuracy(["a b", "A", "1 ", ""], ["a b", "a", "1", ""])
  assert pair == (2.0, 4.0)


def test_character_error_rate_by_hand():
  # kitten -> sitting: 3 edits over 7; "" for "ab": 2; "ab" for "": 2 over none.
  pair = scores.character_error_rate(
    ["kitten", "", "ab"], ["sitting", "ab", ""]
  )
  assert pair == (7.0, 9.0)


def test_normalised_edit_similarity_by_hand():
  # 1 - 3/7; nothing in common: 0; both empty: 1.
  total, count = scores.normalised_edit_similarity(
    ["kitten", "", ""], ["sitting", "ab", ""]
  )
  assert total == pytest.approx(4 / 7 + 0 + 1)
  assert count == 3.0


@pytest.mark.parametrize(
  ("text", "folded"),
  [
    ("Total: RM 9.90", "totalrm990"),
    ("\u00c9t\u00e9", "ete"),
    (
      "\ufb01\u00b2\u2460",
      "fi21",
    ),  # A ligature, superscript and circled digit.
    ("\u0130\u03a9", "i"),
    ("*** -", ""),
  ],
)
def test_fold36(text, folded):
  assert scores.fold36(text) == folded


def test_str36_by_hand():
  pair = scores.str36(
    ["r-m 1", "caf\u00e9", "l", "", "x"], ["RM1", "CAFE", "1", "--", "*"]
  )
  assert pair == (2.0, 3.0)  # The last two truths fold to nothing.


def test_score_lines_has_the_report_names():
  assert scores.score_lines(["1", "2.0"], ["1", "20"]) == {
    "line_accuracy": (1.0, 2.0),
    "cer": (1.0, 3.0),
    "ned": (pytest.approx(1 + 2 / 3), 2.0),
    "str36": (2.0, 2.0),
  }


@hypothesis.given(LINES, LINES)
def test_sums_merge_over_batches(first, second):
  def score(lines):
    return scores.score_lines([p for p, _ in lines], [t for _, t in lines])

  a, b, both = score(first), score(second), score(first + second)
  for name, pair in both.items():
    merged = (a[name][0] + b[name][0], a[name][1] + b[name][1])
    assert pair == pytest.approx(merged)


@hypothesis.given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edits_against_the_recurrence(left, right):
  """Wagner-Fischer, written out."""
  row = list(range(len(right) + 1))
  for i, a in enumerate(left, 1):
    diagonal, row[0] = row[0], i
    for j, b in enumerate(right, 1):
      change = diagonal + (a != b)
      diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, change)
  edits, count = scores.character_error_rate([left], [right])
  assert (edits, count) == (row[-1], len(right))


def test_divide():
  assert scores.divide((3.0, 4.0)) == 0.75
  assert math.isnan(scores.divide((0.0, 0.0)))


def test_refuses_mismatched_lists():
  with pytest.raises(ValueError, match="1 predictions for 2 truths"):
    scores.line_accuracy(["a"], ["a", "b"])
  with pytest.raises(TypeError, match="wrap it in a list"):
    scores.score_lines("ab", "ab")
